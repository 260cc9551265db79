"""What a configuration may construct: only what is on a list here is called, whoever wrote the YAML."""

import importlib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, get_type_hints

from dmdd.config.check import Misfit, fit, shown
from dmdd.config.names import unknown
from dmdd.config.schema import Target
from dmdd.core.doors import VARIABLE, find_opened, opened_packages
from dmdd.core.errors import UserError

PACKAGES = ("dmdd", "torch", "lightning", "timm", "torchmetrics", "albumentations")
"""Where a ``_target_`` may lie, besides packages that the user opens (:mod:`dmdd.core.doors`)."""

SUPPLIED = {"student": {"channels"}, "segmentation": {"channels"}, "dataset.layout": {"category"}}
"""Arguments that the program gives itself, by part of the configuration."""

FUNCTIONS = frozenset(
    {
        "dmdd.data.augmentation.build_augmentation",
        "dmdd.data.layout_folder.read_folder",
        "dmdd.data.layout_inspection.read_aitex",
        "dmdd.data.layout_inspection.read_bsdata",
        "dmdd.data.layout_inspection.read_dagm",
        "dmdd.data.layout_inspection.read_kolektor_sdd",
        "dmdd.data.layout_inspection.read_kolektor_sdd2",
        "dmdd.data.layout_inspection.read_mvtec_3d",
        "dmdd.data.layout_inspection.read_mvtec_ad_2",
        "dmdd.data.layout_inspection.read_real_iad",
        "dmdd.data.layout_visa.read_visa",
        "dmdd.data.layouts.read_btad",
        "dmdd.data.layouts.read_mvtec_ad",
        "dmdd.data.layouts.read_mvtec_loco",
        "dmdd.models.weights.build_teacher",
    }
)
"""The only functions; others of the same packages load pickles, start programs or write files."""

KINDS = frozenset(
    {
        "albumentations.core.composition.BaseCompose",
        "albumentations.core.transforms_interface.BasicTransform",
        "lightning.fabric.loggers.logger.Logger",
        "lightning.pytorch.callbacks.callback.Callback",
        "lightning.pytorch.profilers.profiler.Profiler",
        "lightning.pytorch.trainer.trainer.Trainer",
        "torch.nn.modules.module.Module",
        "torch.optim.optimizer.Optimizer",
        "torchmetrics.metric.Metric",
    }
)
"""What a class of another package must be one of."""

REFUSED_MODULES = ("torch.distributed", "torch.fx", "torch.jit", "torch.package", "torch.testing", "torch.utils")
"""Modules for code, not for networks, as far as they have classes of the kinds above."""

MOVED = {"dmdd.training.progress.StageProgress": "dmdd.training.callbacks.progress.StageProgress"}
"""Former names, which configurations of earlier versions may still give."""

HYDRA_PREFIXES = (
    "hydra_plugins.",
    "hydra._internal.core_plugins.",
    "hydra.experimental.callbacks.",
    "optuna.samplers.",
    "optuna.pruners.",
)
"""What Hydra's own part of a configuration may name."""

LOG_CLASSES = frozenset({"logging.StreamHandler", "logging.FileHandler", "logging.NullHandler"})
LOG_FACTORIES = frozenset({"colorlog.ColoredFormatter"})
LOG_STREAMS = ("ext://sys.stdout", "ext://sys.stderr")


def check_config(plain: Mapping[str, Any]) -> None:
    """Refuse a whole configuration that names a foreign target anywhere, before anything of it is used.

    Args:
        plain: As Hydra composes it, unresolved, with or without Hydra's own part.

    Raises:
        UserError: A target, or in Hydra's part a logging class, is not on the list.

    Source: ours. Hydra itself instantiates ``hydra.callbacks``, and Python's logging what its settings name.
    """
    for dotted, name, value in _walk({key: part for key, part in plain.items() if key != "hydra"}):
        if name == "_target_" and not (isinstance(value, str) and "${" in value):  # resolved, it is checked again
            _check_name(value, dotted)
    for dotted, name, value in _walk(plain.get("hydra") or {}, "hydra"):
        text = str(value)
        logging = dotted.startswith(("hydra.job_logging", "hydra.hydra_logging"))
        if (
            (name == "_target_" and not text.startswith(HYDRA_PREFIXES))
            or (logging and name == "class" and text not in LOG_CLASSES)
            or (logging and name == "()" and text not in LOG_FACTORIES)
            or (text.startswith("ext://") and text not in LOG_STREAMS)
        ):
            raise UserError(f"{dotted}={text} is refused: Hydra's settings may name Hydra's own parts only")


def build_all(group: Mapping[str, Target | None] | None) -> dict[str, Any]:
    """Build the nodes of a group.

    Args:
        group: Nodes by name; None removes one.

    Returns:
        What they give, by name.

    Raises:
        UserError: As :func:`build`.
    """
    return {name: build(node) for name, node in (group or {}).items() if node is not None}


def build(node: Mapping[str, Any] | None, **arguments: Any) -> Any:
    """Call the target of a node, those of the nodes inside it first.

    Args:
        node: Plain values; a mapping with ``_target_``, and with ``_partial_: true`` if more arguments will come.
        arguments: More arguments, which count before the node's and are passed on as they are.

    Returns:
        What the target returns, or a function that waits for the other arguments; None for None.

    Raises:
        UserError: The node has no target, one that is not on the list, or what it gives does not fit the target.
    """
    # albumentations asks a server for its newest version at import; a training machine may have no network.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    if node is None:
        return None
    # Not Hydra's ``instantiate``, which calls whatever can be imported.
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UserError(f"{node!r} cannot be built: a mapping with _target_ is wanted")
    name = node["_target_"]
    target = find_target(name)
    settings = {str(key): _inner(value) for key, value in node.items() if str(key) not in RESERVED}
    positional = [_inner(value) for value in node.get("_args_") or ()]
    call = partial(_call, target, name, *positional, **(settings | arguments))
    return call if node.get("_partial_") is True else call()


def check_arguments(plain: Mapping[str, Any]) -> None:
    """Refuse arguments that a target does not take, or not of this type, before anything is built.

    Args:
        plain: A resolved configuration as plain values.

    Raises:
        UserError: An argument is unknown, missing or of the wrong type; with its dotted name.
    """
    for dotted, node in _nodes(plain):
        if "_args_" not in node:
            _check_node(dotted, node, SUPPLIED.get(dotted, set()))


def _nodes(node: Any, dotted: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Give dotted name and content of every node with a target."""
    if isinstance(node, Mapping) and "_target_" in node:
        yield dotted, node
    for key, value in node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ():
        yield from _nodes(value, f"{dotted}.{key}".lstrip("."))


def _check_node(dotted: str, node: Mapping[str, Any], supplied: set[str]) -> None:
    name = node["_target_"]
    target = find_target(name)
    taken = inspect.signature(target).parameters
    own = {key: parameter for key, parameter in taken.items() if key not in supplied}
    open_ended = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in taken.values())
    kinds = _hints(target) if name.split(".")[0] not in PACKAGES[1:] else {}
    for key, value in node.items():
        if key in RESERVED or key in supplied:
            continue
        if key not in own and not open_ended:
            raise unknown(f"{dotted}.{key}", [f"{dotted}.{name}" for name in own], value)
        try:
            fit(kinds.get(key, Any), value)
        except Misfit as misfit:
            raise UserError(f"{dotted}.{key}={shown(value)}: {misfit}".replace("NAME", f"{dotted}.{key}")) from None
    for key, parameter in own.items():
        named = parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        if named and parameter.default is inspect.Parameter.empty and key not in node and not node.get("_partial_"):
            raise UserError(f"{dotted}.{key} is missing: {name} needs it")


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, TypeError):  # annotations that only a type checker understands
        return {}


RESERVED = ("_target_", "_partial_", "_args_", "_convert_", "_recursive_")


def _inner(value: Any) -> Any:
    if isinstance(value, Mapping):
        return build(value) if "_target_" in value else {key: _inner(part) for key, part in value.items()}
    return [_inner(part) for part in value] if isinstance(value, list) else value


def _call(_found: Callable[..., Any], _name: str, /, *positional: Any, **settings: Any) -> Any:
    try:
        return _found(*positional, **settings)
    except UserError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{_name}: {error}") from error
    except Exception as error:
        if _name.startswith("dmdd."):
            raise
        raise UserError(f"{_name}: {type(error).__name__} {error}") from error


def find_target(name: Any) -> Callable[..., Any]:
    """Look a target up.

    Args:
        name: Dotted name of a class or function.

    Returns:
        A class defined in one of ``PACKAGES`` that is ours or of one of ``KINDS``, or one of ``FUNCTIONS``.

    Raises:
        UserError: There is no such thing, or it is something else.
    """
    _check_name(name, "_target_")
    if name.split(".")[0] in opened_packages():
        return find_opened(name)
    found = _import(MOVED.get(name, name))
    home = f"{getattr(found, '__module__', None)}.{getattr(found, '__qualname__', None)}"
    if inspect.isclass(found) and home.split(".")[0] in PACKAGES:
        kinds = {f"{base.__module__}.{base.__qualname__}" for base in found.__mro__}
        foreign = not (kinds & KINDS) or home.startswith(REFUSED_MODULES)
        if home.startswith("dmdd.") or not foreign:
            return found
    elif inspect.isfunction(found) and home in FUNCTIONS:
        return found
    raise UserError(f"_target_={name} is refused: it is no class that a configuration may use, such as a callback")


def _check_name(name: Any, dotted: str) -> None:
    parts = name.split(".") if isinstance(name, str) else []
    packages = (*PACKAGES, *opened_packages())
    foreign = len(parts) < 2 or parts[0] not in packages or name.startswith(REFUSED_MODULES)
    if foreign or any(not part.isidentifier() or part.startswith("_") for part in parts):
        raise UserError(
            f"{dotted}={str(name)[:80]} is refused: a configuration may use classes of {', '.join(packages)} only; "
            f"{VARIABLE}=PACKAGE allows another"
        )


def _import(name: str) -> Any:
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:length])
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
                continue
            raise UserError(f"_target_={name} needs {error.name}, which is not installed") from None
        try:
            for part in parts[length:]:
                found = getattr(found, part)
        except (AttributeError, ImportError):
            break
        return found
    raise UserError(f"_target_={name}: there is no such class")


def _walk(node: Any, dotted: str = "") -> Iterator[tuple[str, str, Any]]:
    """Give dotted name, name and value of every entry at any depth."""
    entries = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, value in entries:
        where = f"{dotted}.{key}".lstrip(".")
        yield where, str(key), value
        yield from _walk(value, where)
