"""One console grammar for every command: NAME=VALUE, ``--help``, and for some ``-m`` with several values."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dmdd.config.compose import as_user_errors, compose, composing, config_dir, own_hydra, prepare_all, read_config
from dmdd.config.overrides import SWEEPING, split_arguments
from dmdd.config.schema import Settings
from dmdd.core.errors import Interrupted, UserError, print_error
from dmdd.core.files import remove_if_empty

if TYPE_CHECKING:
    from omegaconf import DictConfig

S = TypeVar("S", bound=Settings)
Job = Callable[[S], object]


def run(job: Job[S], schema: type[S], arguments: list[str] | None = None) -> int:
    """Run a command.

    Args:
        job: Gets the settings; a whole number that it returns is the exit code.
        schema: The command's settings.
        arguments: Command line after the command; ``sys.argv[1:]`` if None.

    Returns:
        Exit code: the job's; 2 after bad input, also of members of a sweep, 1 where one met an internal error; 128 plus
        the signal's number after SIGTERM or SIGINT.
    """
    try:
        flags, overrides = split_arguments(sys.argv[1:] if arguments is None else arguments)
        if {"-h", "--help"} & set(flags):
            from dmdd.config.help import help_text

            print(help_text(schema), end="")
            return 0
        if flags:
            return _run_with_hydra(job, schema, flags, overrides)
        code = job(compose(schema, overrides, whole=False))
        return code if isinstance(code, int) else 0
    except UserError as error:
        print_error(error)
        return getattr(error, "exit_code", 2)
    except KeyboardInterrupt:
        print_error(UserError("interrupted"))
        return 130
    except SystemExit as leave:  # how a process leaves at SIGTERM
        if not isinstance(leave.code, int) or leave.code < 2:
            raise
        return leave.code


def _run_with_hydra(job: Job[S], schema: type[S], flags: list[str], overrides: list[str]) -> int:
    """Sweep, or do what another flag of Hydra's says."""
    import hydra

    sweeping = set(flags) <= SWEEPING
    if sweeping and "overrides" not in schema.__dataclass_fields__:  # type: ignore[attr-defined]
        raise UserError(f"{flags[0]} is for dmdd train and dmdd evaluate; give one value a setting")
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # what is no UserError is an internal error and keeps its traceback
    if sweeping:
        _check_sweep(schema, overrides)
    outer = sys.argv
    try:
        with own_hydra(), as_user_errors():
            sys.argv = [outer[0], *flags, *prepare_all(schema, overrides, sweeping=True)]
            main = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=schema.COMMAND)
            main(_member(job, schema))()
    except OSError as error:  # Hydra makes the run folders, and says nothing where it cannot
        from dmdd.core.failures import describe_write_error

        if (described := describe_write_error(error)) is None:
            raise
        raise described from None
    finally:
        sys.argv = outer
    return 0


def _check_sweep(schema: type[S], overrides: list[str]) -> None:
    """Compose without what is swept over, before Hydra does, which tells a wrong override in several lines."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    with composing(schema, overrides, sweeping=True) as prepared:
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration(schema.COMMAND, prepared, run_mode=RunMode.MULTIRUN)
        read_config(schema, config, [])


def _member(job: Job[S], schema: type[S]) -> "Callable[[DictConfig], object]":
    """Make a Hydra job of ours: one line on stderr for bad input, and the sweep goes on."""

    def member(config: "DictConfig") -> object:
        from hydra.core.hydra_config import HydraConfig
        from omegaconf import OmegaConf

        from dmdd.config.sweep import announce, free_memory

        hydra_config = HydraConfig.get()
        try:
            whole = OmegaConf.merge({"hydra": OmegaConf.to_container(hydra_config)}, config)
            settings: Any = read_config(schema, whole, hydra_config.overrides.task)  # type: ignore[arg-type]
            seed = [f"seed {settings.seed}"] if hasattr(settings, "seed") else []
            announce(hydra_config.job.num, " ".join([settings.dataset.name, str(settings.category), *seed]))
            returned = job(settings)
            free_memory()
            return returned
        except UserError as error:
            remove_if_empty(Path(hydra_config.runtime.output_dir))
            print_error(error)
            if isinstance(error, Interrupted):
                raise SystemExit(error.exit_code) from None
            free_memory(error)
            raise
        except Exception as error:  # the launcher keeps only the exception; the rest goes on
            traceback.print_exc()
            free_memory(error)
            raise

    return member
