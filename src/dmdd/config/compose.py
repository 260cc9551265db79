"""Hydra's side of every entry point: where the configuration lies, and errors as one line."""

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dmdd.core.errors import Interrupted, UserError

PACKAGE = Path(__file__).resolve().parents[1]
CHECKOUT = PACKAGE.parents[1]

SWEEPING = {"-m", "--multirun"}
FLAGS = SWEEPING | {"-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "--resolve", "-p", "--package"}
FLAGS |= {"-r", "--run", "-sc", "--shell-completion", "-i", "--info"}
"""Hydra's flags; not those that read a configuration from elsewhere, of which --experimental-rerun reads a pickle."""


def config_dir() -> Path:
    """Find ``conf/``: the checkout's if this is one, else the one in the installed package.

    Returns:
        An absolute path.

    Raises:
        UserError: Neither is there, so the installation is damaged.
    """
    for folder in (CHECKOUT / "conf", PACKAGE / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise UserError(f"no conf/ in {CHECKOUT} or {PACKAGE}; install dmdd again")


def print_error(error: BaseException) -> None:
    """Print an error on one line of stderr."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)


def build(node: Any, **arguments: Any) -> Any:
    """Call the ``_target_`` that a configuration node names, if it is on the list of ``dmdd.config.targets``.

    Args:
        node: Part of the configuration; arguments that are lists or dicts arrive as such.
        arguments: Override the node's.

    Returns:
        What the target returns; a function that waits for more arguments if the node says ``_partial_: true``; None
        for None.

    Raises:
        UserError: The target raised one or is refused, or what the node gives does not fit it.
    """
    from omegaconf import OmegaConf

    from dmdd.config.targets import construct

    # albumentations asks a server for its newest version at import; a training machine may have no network.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    if OmegaConf.is_config(node):
        node = OmegaConf.to_container(node, resolve=True)
    elif isinstance(node, dict):
        node = {
            name: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for name, value in node.items()
        }
    return None if node is None else construct(node, arguments)


def compose_config(config_name: str, overrides: list[str]) -> Any:
    """Compose and resolve a configuration without running a Hydra job.

    Args:
        config_name: Primary configuration file in ``conf/``.
        overrides: As on the command line.

    Returns:
        The configuration; ``run_dir`` is empty, since there is no run.

    Raises:
        UserError: An override is wrong.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"), _told():
            # ++ since not every configuration has them; those of runs would ask Hydra for the run's folder.
            usual = ["++run_dir=''", "++name=''"]
            config = compose(config_name, [*usual, *overrides, *_experiments(overrides)])
            _check(config, compose(config_name, usual))
        with _told():
            OmegaConf.resolve(config)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_first_part(error)) from None
    return config


def _check(config: Any, usual: Any) -> None:
    """Refuse settings of the wrong kind and targets that are not on the list, before anything is used."""
    from omegaconf import OmegaConf

    from dmdd.config.kinds import check_kinds
    from dmdd.config.targets import check_config

    plain: Any = OmegaConf.to_container(config)
    check_config(plain)
    check_kinds(plain, OmegaConf.to_container(usual))  # type: ignore[arg-type]


@contextmanager
def _told() -> Iterator[None]:
    """Turn what Hydra's composition raises on odd overrides besides its own exceptions into one line."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException):
        raise
    except RecursionError:
        raise UserError("a setting refers to itself") from None
    except Exception as error:  # ValueError, TypeError and AttributeError have been met
        raise UserError(f"these settings do not make a configuration: {error}") from error


def _experiments(overrides: list[str]) -> list[str]:
    """Let Hydra find the checkout's ``experiments/``, as in ``+experiments=ablation/ngm_only``; a path given counts."""
    if any(o.startswith("hydra.searchpath=") for o in overrides) or not (CHECKOUT / "experiments").is_dir():
        return []
    quoted = str(CHECKOUT).replace("'", "\\'")  # any letter may stand in a path, few outside quotes in an override
    return [f"hydra.searchpath=['file://{quoted}']"]


def _first_part(error: Exception) -> str:
    """Leave out of Hydra's message where it has searched, and say how to quote what its parser does not take."""
    message = str(error).partition("Config search path:")[0]
    if any(sign in message for sign in ("token recognition", "no viable alternative", "LexerNoViableAlt")):
        message += " (a value with special letters or signs needs quotes: 'NAME=\"VALUE\"')"
    return message


def run(job: Callable[[Any], Any], config_name: str, arguments: list[str] | None = None) -> int:
    """Run a Hydra job; bad input and bad overrides become one line and exit code 2.

    Args:
        job: Gets the composed configuration.
        config_name: Primary configuration file in ``conf/``.
        arguments: Command line after the command; ``sys.argv[1:]`` if None.

    Returns:
        Exit code: 0; 2 after bad input, also of members of a sweep, 1 where one met a defect of ours; 128 plus the
        signal's number after SIGTERM or SIGINT.
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # what is not a UserError is our defect and keeps its traceback
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        folder = config_dir()
        # Overrides go together after the flags: Hydra's parser takes them in one piece only.
        overrides = [a for a in arguments if a.startswith("~") or ("=" in a and not a.startswith("-"))]
        flags = [a for a in arguments if a not in overrides]
        search = _experiments(overrides)
        for before, argument in zip(["", *arguments], arguments, strict=False):
            if argument in flags and not argument.startswith("-") and not before.startswith("-"):
                raise UserError(f"'{argument}' is not a setting; write NAME=VALUE, as in category={argument}")
        for flag in flags:
            if flag.startswith("-") and flag.partition("=")[0] not in FLAGS:
                raise UserError(f"{flag} is not taken here; --help tells what is")
        if set(flags) <= SWEEPING:
            _compose_first(config_name, [*search, *overrides], sweeping=bool(flags))
        GlobalHydra.instance().clear()
        sys.argv = [sys.argv[0], *flags, *overrides, *search]
        hydra.main(version_base="1.3", config_path=str(folder), config_name=config_name)(_one_line(job))()
    except (HydraException, OmegaConfBaseException) as error:
        print_error(UserError(_first_part(error)))
        return 2
    except UserError as error:
        print_error(error)
        return getattr(error, "exit_code", 2)
    except KeyboardInterrupt:
        print_error(UserError("interrupted"))
        return 130
    except SystemExit as leave:  # how a job that met bad input or a signal leaves Hydra, see _one_line
        if not isinstance(leave.code, int) or leave.code < 2:
            raise
        return leave.code
    return 0


def _compose_first(config_name: str, overrides: list[str], *, sweeping: bool) -> None:
    """Compose and check before Hydra does, which prints a wrong override as several lines and first makes the folder.

    Raises:
        UserError: A setting is of the wrong kind, or a target or flag is refused; errors of Hydra's pass through.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    with initialize_config_dir(str(config_dir()), version_base="1.3"), _told():
        usual = compose(config_name)
        if not sweeping:
            config = compose(config_name, overrides=overrides, return_hydra_config=True)
        else:  # without what is swept over; the members are checked when their time comes
            loader = GlobalHydra.instance().config_loader()
            config = loader.load_configuration(config_name, overrides, run_mode=RunMode.MULTIRUN)
        _check(config, usual)


def run_command(job: Callable[[Any], int | None], config_name: str, arguments: list[str] | None = None) -> int:
    """Run a command that is configured like a Hydra job but makes no run folder and does not sweep.

    Args:
        job: Gets the composed and resolved configuration; what it returns is the exit code, None means 0.
        config_name: Primary configuration file in ``conf/``; its text is what ``--help`` prints.
        arguments: Command line after the command, all ``NAME=VALUE``; ``sys.argv[1:]`` if None.

    Returns:
        Exit code: the job's; 2 after bad input; 130 after Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        file = config_dir() / f"{config_name}.yaml"
        if {"-h", "--help"} & set(arguments):
            print(file.read_text(encoding="utf-8"), end="")
            return 0
        for argument in arguments:
            if argument.startswith("-") or ("=" not in argument and not argument.startswith("~")):
                raise UserError(f"'{argument}' is not a setting; write NAME=VALUE, --help lists the names")
        return job(compose_config(config_name, arguments)) or 0
    except UserError as error:
        print_error(error)
        return 2
    except KeyboardInterrupt:
        print_error(UserError("interrupted"))
        return 130


def _one_line(job: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Let a ``UserError`` leave Hydra, which would print it its own way, as an exit; in a sweep go on with the rest."""

    def wrapped(config: Any) -> Any:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        from dmdd.config.targets import check_config

        hydra_config = HydraConfig.get()
        sweeping = hydra_config.mode == RunMode.MULTIRUN
        if sweeping:
            from dmdd.config.sweep import announce, free_memory

            shown = (config.dataset.name, config.category, *([f"seed {config.seed}"] if "seed" in config else []))
            announce(hydra_config.job.num, " ".join(map(str, shown)))
        try:
            check_config(OmegaConf.to_container(config))  # type: ignore[arg-type]
            try:
                returned = job(config)
                if sweeping:
                    free_memory()
                return returned
            except OmegaConfBaseException as error:  # a reference that leads nowhere, met when it was followed
                raise UserError(_first_part(error)) from error
        except UserError as error:
            remove_if_empty(Path(hydra_config.runtime.output_dir))
            print_error(error)
            if isinstance(error, Interrupted) or not sweeping:
                raise SystemExit(getattr(error, "exit_code", 2)) from None
            free_memory(error)
            raise
        except Exception as error:
            if sweeping:  # the launcher keeps only the exception; the rest goes on
                traceback.print_exc()
                free_memory(error)
            raise

    return wrapped


def remove_if_empty(folder: Path) -> None:
    """Remove the run folder Hydra has made, and its parents below the working folder, as far as they are empty.

    Args:
        folder: The run folder.
    """
    here = Path.cwd()
    while folder != here and here in folder.parents and folder.is_dir() and not os.listdir(folder):
        folder.rmdir()
        folder = folder.parent
