"""Hydra's side of every entry point: where the configuration lies, and errors as one line."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dmdd.errors import Interrupted, UserError

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parents[1]


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
    """Instantiate a configuration node that names its ``_target_``.

    Args:
        node: Part of the configuration; arguments that are lists or dicts arrive as such.
        arguments: Override the node's.

    Returns:
        What the target returns.

    Raises:
        UserError: The target raised one (Hydra wraps it), or what the node gives does not fit the target.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    # albumentations asks a server for its newest version at import; a training machine may have no network.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    try:
        return instantiate(node, **arguments, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        if isinstance(error.__cause__, TypeError | ValueError):
            raise UserError(f"{node.get('_target_')}: {error.__cause__}") from error
        raise


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
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            # ++ since not every configuration has them; those of runs would ask Hydra for the run's folder.
            config = compose(config_name, [*_experiments(), "++run_dir=''", "++name=''", *overrides])
        OmegaConf.resolve(config)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_first_part(error)) from None
    return config


def _experiments() -> list[str]:
    """Let Hydra find the checkout's ``experiments/``, as in ``+experiments=ablation/ngm_only``."""
    if not (CHECKOUT / "experiments").is_dir():
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
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # what is not a UserError is our defect and keeps its traceback
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        folder = config_dir()
        search = _experiments()
        # Overrides go together after the flags: Hydra's parser takes them in one piece only.
        overrides = [a for a in arguments if a.startswith("~") or ("=" in a and not a.startswith("-"))]
        flags = [a for a in arguments if a not in overrides]
        for before, argument in zip(["", *arguments], arguments, strict=False):
            if argument in flags and not argument.startswith("-") and not before.startswith("-"):
                raise UserError(f"'{argument}' is not a setting; write NAME=VALUE, as in category={argument}")
        if not flags:
            # Composed once before Hydra does, because Hydra prints a wrong override as several lines and makes the
            # run folder first.
            with initialize_config_dir(str(folder), version_base="1.3"):
                compose(config_name, overrides=[*search, *overrides])
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

        hydra_config = HydraConfig.get()
        sweeping = hydra_config.mode == RunMode.MULTIRUN
        if sweeping:
            from dmdd.sweep import announce

            shown = (config.dataset.name, config.category, *([f"seed {config.seed}"] if "seed" in config else []))
            announce(hydra_config.job.num, " ".join(map(str, shown)))
        try:
            return job(config)
        except UserError as error:
            remove_if_empty(Path(hydra_config.runtime.output_dir))
            print_error(error)
            if isinstance(error, Interrupted) or not sweeping:
                raise SystemExit(getattr(error, "exit_code", 2)) from None
            raise
        except Exception:
            if sweeping:  # the launcher keeps only the exception; the rest goes on
                traceback.print_exc()
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
