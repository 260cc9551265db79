"""A composed configuration read into its settings class: unknown names, types and ranges, told in one line."""

import math
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dmdd.config.names import unknown
from dmdd.config.schema import Rule, Settings, Target
from dmdd.core.errors import UserError

S = TypeVar("S")

PLAIN = Rule(help="")


class Misfit(Exception):
    """A value does not fit; says what would."""


def read(schema: type[S], plain: Mapping[str, object], *, root: type | None = None, dotted: str = "") -> S:
    """Read plain values into a settings class.

    Args:
        schema: The class.
        plain: A configuration as plain values, resolved.
        root: The class of the whole command; ``schema`` itself if None.
        dotted: Dotted name of this part, empty for the whole.

    Returns:
        The settings.

    Raises:
        UserError: A setting is unknown, missing, of another type or out of its range.
    """
    root = root or schema
    hints = get_type_hints(schema)
    known = {entry.name: entry for entry in fields(schema)}  # type: ignore[arg-type]
    for name in plain:
        if name not in known:
            raise unknown(f"{dotted}{name}", list(dotted_names(root)), plain[name])
    values: dict[str, Any] = {}
    for name, entry in known.items():
        if name not in plain:
            if entry.default is MISSING:
                raise UserError(f"{dotted}{name} is missing: it is needed, leave it in")
            continue
        values[name] = _read_value(hints[name], plain[name], rule_of(entry), f"{dotted}{name}", root)
    return schema(**values)


def _read_value(kind: Any, value: object, rule: Rule, dotted: str, root: type) -> object:
    if is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, Mapping):
            raise UserError(f"{dotted}={shown(value)}: give its settings one by one, as in {dotted}.SETTING=VALUE")
        return read(kind, value, root=root, dotted=f"{dotted}.")
    if rule.missing and value in (None, "", [], ()):
        raise UserError(f"{dotted} is missing: give {rule.missing}")
    try:
        return fit(kind, value, rule)
    except Misfit as misfit:
        wanted = str(misfit).replace("NAME", dotted)
        raise UserError(f"{dotted}={shown(value)}: {wanted}") from None


def fit(kind: Any, value: object, rule: Rule = PLAIN) -> object:
    """Turn a plain value into a type.

    Args:
        kind: The annotation.
        value: A plain value.
        rule: Range and unit.

    Returns:
        The value; a list as a tuple, a whole number as a float where one is wanted.

    Raises:
        Misfit: It does not fit; the message says what would.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _fit_any(inner, value, rule)
    if origin is Literal:
        if value in inner or (rule.is_open and isinstance(value, str) and "." in value):
            return value
        more = ", or PACKAGE.FUNCTION (docs/extending.md)" if rule.is_open else ""
        raise Misfit(f"choose one of {', '.join(map(str, inner))}{more}")
    if kind == Target:
        return _fit_target(value)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return _fit_targets(value)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Sequence):
        return _fit_list(inner, value, rule)
    if kind is bool:
        return _require(isinstance(value, bool), value, "give true or false")
    if kind in (int, float):
        return _fit_number(kind, value, rule)
    if kind in (str, Path):
        return _require(isinstance(value, str | Path), str(value), "give a string, in quotes: 'NAME=\"VALUE\"'")
    return value


def _require(condition: bool, value: object, wanted: str) -> object:
    if not condition:
        raise Misfit(wanted)
    return value


def _fit_any(kinds: tuple[Any, ...], value: object, rule: Rule) -> object:
    if value is None and type(None) in kinds:
        return None
    wanted = []
    for kind in kinds:
        if kind is type(None):
            continue
        try:
            return fit(kind, value, rule)
        except Misfit as misfit:
            wanted.append(str(misfit))
    raise Misfit(" or ".join([wanted[0], *(text.removeprefix("give ") for text in wanted[1:])]))


def _fit_number(kind: type, value: object, rule: Rule) -> object:
    whole = kind is int
    wanted = f"give {describe_number(rule, whole=whole)}"
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise Misfit(wanted)
    if not math.isfinite(value):
        raise Misfit("give a finite number")
    low = rule.least is not None and value < rule.least
    high = rule.most is not None and value > rule.most
    outside = (rule.above is not None and value <= rule.above) or (rule.below is not None and value >= rule.below)
    if low or high or outside:
        raise Misfit(wanted)
    return kind(value)


def describe_number(rule: Rule, *, whole: bool) -> str:
    """Say which numbers a setting takes.

    Args:
        rule: Range and unit.
        whole: Whether fractions are left out.

    Returns:
        As in "a number of seconds above 0".
    """
    if whole and rule.least == 1 and rule.most is None:
        return "a positive whole number" + (f" of {rule.unit}" if rule.unit else "")
    said = ("a whole number" if whole else "a number") + (f" of {rule.unit}" if rule.unit else "")
    if rule.above is not None and rule.below is not None:
        return f"{said} between {rule.above:g} and {rule.below:g}"
    if rule.least is not None and rule.most is not None:
        return f"{said} from {_digits(rule.least)} to {_digits(rule.most)}"
    if rule.above is not None:
        said += f" above {rule.above:g}"
    elif rule.least is not None:
        said += f" from {rule.least:g}"
    if rule.most is not None:
        said += f" and up to {rule.most:g}"
    if rule.below is not None:
        said += f" and below {rule.below:g}"
    return said


def _digits(limit: float) -> str:
    return str(int(limit)) if limit == int(limit) else f"{limit:g}"


def _fit_list(kinds: tuple[Any, ...], value: object, rule: Rule) -> object:
    pair = len(kinds) == 2 and kinds[1] is not Ellipsis
    wanted = "give height and width, as in NAME=[256,256]" if pair else "give a list, as in NAME=[A,B]"
    if not isinstance(value, list | tuple) or (pair and len(value) != 2):
        raise Misfit(wanted)
    return tuple(fit(kinds[0] if kinds else Any, entry, rule) for entry in value)


def _fit_target(value: object) -> object:
    if not isinstance(value, Mapping):
        raise Misfit("give its settings one by one, as in NAME.SETTING=VALUE")
    return _require("_target_" in value, dict(value), "name its class: NAME._target_=PACKAGE.CLASS")


def _fit_targets(value: object) -> dict[str, object]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise Misfit("give entries one by one, as in NAME.ENTRY._target_=PACKAGE.CLASS")
    return {str(name): None if entry is None else _fit_target(entry) for name, entry in value.items()}


def shown(value: object) -> str:
    """Write a value as a user would, cut short.

    Args:
        value: A plain value.

    Returns:
        One line of at most 60 letters.
    """
    text = f"[{','.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def rule_of(entry: "Field[Any]") -> Rule:
    """Give the rule of a dataclass field."""
    return entry.metadata.get("rule", PLAIN)


def dotted_names(schema: type, prefix: str = "") -> Iterator[str]:
    """List every setting that a user can give, by its dotted name; of parts with a target, the part alone.

    Args:
        schema: A settings class.
        prefix: What to put in front.

    Yields:
        Names.
    """
    hints = get_type_hints(schema)
    for entry in fields(schema):
        if rule_of(entry).is_internal:
            continue
        if is_dataclass(hints[entry.name]):
            yield from dotted_names(hints[entry.name], f"{prefix}{entry.name}.")
        else:
            yield f"{prefix}{entry.name}"


def find_field(schema: type, name: str) -> "tuple[Field[Any], Any, str] | None":
    """Look a dotted name up.

    Args:
        schema: A settings class.
        name: Dotted name.

    Returns:
        The field, its type, and what is left of the name below it (inside a part with a target); None if there is none.
    """
    head, _, rest = name.partition(".")
    for entry in fields(schema):
        if entry.name != head:
            continue
        kind = get_type_hints(schema)[head]
        return find_field(kind, rest) if rest and is_dataclass(kind) else (entry, kind, rest)  # type: ignore[arg-type]
    return None


def plain_of(settings: Settings) -> dict[str, Any]:
    """Give settings as plain values, as ``config.yaml`` holds them.

    Args:
        settings: Of any command.

    Returns:
        Nested mappings and lists; a setting that no file of ``conf/`` mentions is left out where it has its default.
    """
    return _plain(settings)


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        kept = [entry for entry in fields(value) if getattr(value, entry.name) != entry.default]
        return {entry.name: _plain(getattr(value, entry.name)) for entry in kept}
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
