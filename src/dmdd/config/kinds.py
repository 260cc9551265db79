"""Settings of the wrong kind, told before anything begins."""

import math
from collections.abc import Mapping
from typing import Any

from dmdd.core.errors import UserError

FREE = ("trainer", "hydra")
"""Parts whose settings are passed on to others, which check them."""

OPEN = ("callbacks", "logger", *FREE)
"""Parts from which entries may be taken away, as in ``~callbacks.progress``; and any that name their target."""

LISTS = {"image_size": "height and width"}
"""What a list is of, where a user has to know."""


def check_kinds(given: Mapping[str, Any], usual: Mapping[str, Any]) -> None:
    """Refuse a value of another kind than the setting's usual one.

    Args:
        given: A composed configuration as plain values, unresolved.
        usual: The same without overrides; what it sets to null may be anything.

    Raises:
        UserError: A mapping, list, text, number or switch is wanted and something else given, a whole number is wanted
            and a fraction given, a number is not finite, or a setting was taken away that is needed.

    Source: ours.
    """
    _compare(given, usual, "")


def _compare(given: Mapping[str, Any], usual: Mapping[str, Any], prefix: str) -> None:
    if prefix.rstrip(".") not in OPEN and "_target_" not in usual:
        for name in usual:
            if name not in given:
                raise UserError(f"{prefix}{name} is missing: it is needed, leave it in")
    for name, value in given.items():
        place = f"{prefix}{name}"
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{place}={value}: give a finite number")
        if place in FREE or name == "_target_":
            continue
        default = usual.get(name)
        if isinstance(value, Mapping) and (isinstance(default, Mapping) or default is None):
            _compare(value, default or {}, f"{place}.")
        elif wanted := _wanted(str(name), value, default):
            raise UserError(f"{place}={value}: give {wanted}".replace("NAME", place))


def _wanted(name: str, value: Any, default: Any) -> str | None:
    """Say what is wanted where the value is of another kind; None where it is of the right one."""
    if default is None or (isinstance(value, str) and "${" in value):
        return None
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, int | float):
        # Seconds may be given to the fraction though the usual value is a whole number.
        whole = isinstance(default, int) and not name.endswith("_s")
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            return "a whole number" if whole else "a number"
        return None
    if isinstance(default, Mapping):
        # Null removes a callback, a logger, an augmentation.
        return None if value is None and "_target_" in default else "its settings one by one, as in NAME.SETTING=VALUE"
    if isinstance(default, list):
        shown = "[" + ",".join(str(entry) for entry in default[:4]) + "]" if default else "[...]"
        return None if isinstance(value, list) else f"{LISTS.get(name, 'a list')}, as in NAME={shown}"
    return "a text" if isinstance(value, Mapping | list) and "${" not in default else None
