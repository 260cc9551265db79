"""From ``conf/`` and overrides to checked settings, without leaving a trace in Hydra's global state."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dmdd.config.check import find_field, plain_of, read
from dmdd.config.names import rename
from dmdd.config.overrides import list_options, prepare, quoted, quoted_if_needed
from dmdd.config.schema import Settings
from dmdd.config.targets import check_arguments, check_config
from dmdd.core.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

PACKAGE = Path(__file__).resolve().parents[1]
CHECKOUT = PACKAGE.parents[1]
S = TypeVar("S", bound=Settings)


def home() -> Path:
    """Find the folder that holds ``conf/`` and ``experiments/``: the checkout if this is one, else the package.

    Returns:
        An absolute path.

    Raises:
        UserError: Neither is there, so the installation is damaged.
    """
    for folder in (CHECKOUT, PACKAGE):
        if (folder / "conf/train.yaml").is_file():
            return folder
    raise UserError(f"no conf/ in {CHECKOUT} or {PACKAGE}; install dmdd again")


def config_dir() -> Path:
    """Find ``conf/``.

    Returns:
        An absolute path.

    Raises:
        UserError: It is not there.
    """
    return home() / "conf"


def compose(
    schema: type[S], overrides: Sequence[str], values: Mapping[str, object] | None = None, *, whole: bool = True
) -> S:
    """Compose, resolve and check the settings of a command, without running a Hydra job.

    Args:
        schema: The settings class.
        overrides: As on the command line.
        values: Settings by name, as Python values.
        whole: Also check what is given to targets, which imports them and with them torch.

    Returns:
        The settings.

    Raises:
        UserError: A setting is unknown, of the wrong type or out of its range, or a target is refused.
    """
    from hydra import compose as compose_with_hydra

    given = [*overrides, *written(schema, values or {})]
    with composing(schema, given) as prepared:
        config = compose_with_hydra(schema.COMMAND, prepared, return_hydra_config=True)
        settings = read_config(schema, config, given)
    check_arguments(plain_of(settings) if whole else {"dataset": plain_of(settings).get("dataset")})
    return settings


@contextmanager
def composing(schema: type[Settings], overrides: Sequence[str], *, sweeping: bool = False) -> Iterator[list[str]]:
    """Let Hydra find ``conf/``; gives the overrides as Hydra takes them.

    Raises:
        UserError: An override is wrong, in place of all that Hydra raises.
    """
    from hydra import initialize_config_dir

    with own_hydra(), as_user_errors():
        prepared = [*prepare_all(schema, overrides, sweeping=sweeping)]
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            yield prepared


def prepare_all(schema: type[Settings], overrides: Sequence[str], *, sweeping: bool = False) -> list[str]:
    """Rewrite overrides for Hydra, and let it find ``experiments/``.

    Args:
        schema: The command's settings.
        overrides: As a user writes them.
        sweeping: Whether commas part the values of a sweep.

    Returns:
        Overrides for Hydra.

    Raises:
        UserError: A setting or a group is unknown.
    """
    own = [text for text in overrides if not text.startswith("hydra.searchpath=")]
    theirs = [text.partition("=")[2].strip("[]") for text in overrides if text.startswith("hydra.searchpath=")]
    folders = [text.strip("'\" ").removeprefix("file://") for part in theirs for text in part.split(",")]
    groups = list_options(config_dir(), *map(Path, folders))
    groups |= {f"experiments/{name}": options for name, options in list_options(home() / "experiments").items()}
    search = ",".join([*theirs, quoted(f"file://{home()}")])  # any letter may stand in a path
    return [*prepare(schema, own, groups=groups, sweeping=sweeping), f"hydra.searchpath=[{search}]"]


def read_config(schema: type[S], config: "DictConfig", overrides: Sequence[str]) -> S:
    """Resolve and check what Hydra has composed.

    Args:
        schema: The settings class.
        config: With Hydra's own part; its run folder is set if it is not yet.
        overrides: As a user writes them; part of the settings where these have such a field.

    Returns:
        The settings.

    Raises:
        UserError: As :func:`compose`.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf, read_write

    with as_user_errors():
        check_config(OmegaConf.to_container(config))  # type: ignore[arg-type]
        if find_field(schema, "run_dir") and OmegaConf.is_missing(config.hydra.runtime, "output_dir"):
            HydraConfig.instance().set_config(config)
            with read_write(config.hydra):
                config.hydra.runtime.output_dir = os.path.abspath(config.hydra.run.dir)
            HydraConfig.instance().set_config(config)
        own = OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])
        plain: Any = OmegaConf.to_container(own, resolve=True)
    check_config(plain)  # once more: a target may have been a reference
    if find_field(schema, "overrides"):
        plain["overrides"] = list(overrides)
    rename(schema, plain)
    return read(schema, plain)


def written(schema: type[Settings], values: Mapping[str, object], prefix: str = "") -> list[str]:
    """Write Python values as overrides.

    Args:
        schema: The settings class.
        values: By name; mappings for parts, as in ``distillation={"steps": 100}``.
        prefix: Of their names.

    Returns:
        As on the command line.
    """
    found = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += written(schema, value, f"{prefix}{name}.")
        else:
            is_group = not prefix and (config_dir() / name).is_dir() and isinstance(value, str)
            found.append(f"{prefix}{name}={value if is_group else _written(value)}")
    return found


def _written(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool | int | float):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_written, value))}]"
    return quoted_if_needed(str(value))


def moved(settings: S, folder: Path, name: str) -> S:
    """Let settings point to the folder of another run.

    Args:
        settings: With ``run_dir``, ``name`` and ``overrides``.
        folder: The other run's.
        name: The other run's.

    Returns:
        The settings, with loggers and callbacks that write there.

    Raises:
        UserError: As :func:`compose`.
    """
    there: Any = compose(type(settings), settings.overrides, {"run_dir": folder, "name": name}, whole=False)  # type: ignore[attr-defined]
    changed: Any = {"run_dir": str(folder), "name": name, "logger": there.logger, "callbacks": there.callbacks}
    return replace(settings, **changed)  # type: ignore[type-var]


def folder_name(path: str) -> str:
    """Give the last part of a path, which names a data set of one's own in ``conf/dataset/mvtec_layout.yaml``."""
    return Path(path).resolve().name or "data"


@contextmanager
def own_hydra() -> Iterator[None]:
    """Work with Hydra and leave the state of a Hydra application that called us as it was."""
    from hydra import version
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
    outer, outer_config, base = GlobalHydra.instance().hydra, HydraConfig.instance().cfg, version.getbase()
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = outer
        HydraConfig.instance().cfg = outer_config
        if base is not None and hasattr(base, "major"):  # else no application has said which behaviour it wants
            version.setbase(str(base))


@contextmanager
def as_user_errors() -> Iterator[None]:
    """Turn what Hydra and OmegaConf raise on odd overrides into a ``UserError`` of one line."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except UserError:
        raise
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_first_part(error)) from None
    except RecursionError:
        raise UserError("a setting refers to itself") from None
    except (ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        raise UserError(f"these settings do not make a configuration: {error}") from error


def _first_part(error: Exception) -> str:
    """Leave out of Hydra's message where it has searched and what it suggests, which our check would refuse."""
    message = str(error).partition("Config search path:")[0].partition("\nTo append to your config")[0]
    message, _, place = message.partition("\n    full_key:")
    message = re.sub(r"^Could not override '(.+?)'\.?", r"unknown setting \1.", message)
    message = f"{place.split()[0]}: {message}" if place.split() else message
    if any(sign in message for sign in ("token recognition", "no viable alternative", "LexerNoViableAlt")):
        message += " (a value with special letters or signs needs quotes: 'NAME=\"VALUE\"')"
    return " ".join(message.split())
