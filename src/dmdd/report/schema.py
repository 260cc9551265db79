"""What a ``result.json`` must hold to be reported; files are edited, cut off, or written by other versions."""

import json
import math
from pathlib import Path
from typing import Any

from dmdd.core.errors import UserError


def read_result(file: Path) -> dict[str, Any]:
    """Read a ``result.json`` and check all that a report takes from it.

    Args:
        file: The JSON file of a run or of an evaluation.

    Returns:
        Its entries; those that may be absent (``bounds``, ``maps``, ...) are of the right kind if there.

    Raises:
        UserError: It cannot be read or is laid out differently; the message is the reason, without the file's name.
    """
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"damaged: no JSON ({error})") from None
    _require(isinstance(result, dict), "no result of dmdd: not an object")
    try:
        _check(result)
    except UserError as error:
        versions = result.get("versions")
        writer = versions.get("dmdd") if isinstance(versions, dict) else None
        raise UserError(f"{error}; written by {f'dmdd {writer}' if writer else 'an unknown version'}") from None
    return result


def _check(result: dict[str, Any]) -> None:
    for name in ("dataset", "category"):
        _require(isinstance(result.get(name), str), f"'{name}' is no text")
    seed = result.get("seed")
    known = isinstance(seed, int) and not isinstance(seed, bool)
    _require(
        known or isinstance(result.get("model"), str), "neither 'seed' (a run) nor 'model' (an evaluation) is there"
    )
    _require(isinstance(result.get("test"), dict), "'test' is missing")
    test = result["test"]
    _require(isinstance(test.get("metrics"), dict), "'test.metrics' is missing")
    _check_shares(test["metrics"], "test.metrics")
    for name in ("maps", "types"):
        _require(isinstance(test.get(name, {}), dict), f"'test.{name}' is no object")
        for key, figures in test.get(name, {}).items():
            shares = {k: v for k, v in figures.items() if k != "images"} if isinstance(figures, dict) else figures
            _check_shares(shares, f"test.{name}.{key}")
    for name in ("bounds", "intervals_95"):
        _check_pairs(test.get(name, {}), f"test.{name}")
    _require(isinstance(test.get("type_intervals_95", {}), dict), "'test.type_intervals_95' is no object")
    for key, pairs in test.get("type_intervals_95", {}).items():
        _check_pairs(pairs, f"test.type_intervals_95.{key}")
    categories = test.get("categories", {})
    _require(isinstance(categories, dict), "'test.categories' is no object")
    for key, entry in categories.items():
        _require(isinstance(entry, dict), f"'test.categories.{key}' is no object")
        _check_shares(entry.get("metrics"), f"test.categories.{key}.metrics")
        _check_pairs(entry.get("intervals_95", {}), f"test.categories.{key}.intervals_95")
    for name in ("decisions", "left_out"):
        _require(isinstance(test.get(name, {}), dict), f"'test.{name}' is no object")
    for name in ("calibration", "images", "teacher", "protocol", "wall_time_s", "precision", "versions"):
        _require(isinstance(result.get(name, {}), dict), f"'{name}' is no object")
    command = result.get("command", [])
    _require(
        isinstance(command, list) and all(isinstance(part, str) for part in command), "'command' is no list of text"
    )
    threshold = result.get("calibration", {}).get("image_threshold")
    _require(threshold is None or _is_number(threshold), "'calibration.image_threshold' is no number")
    suspicious = result.get("suspicious", [])
    _require(isinstance(suspicious, list), "'suspicious' is no list")
    for entry in suspicious:
        good = isinstance(entry, dict) and "file" in entry and _is_number(entry.get("strangeness"))
        _require(good, "'suspicious' holds an entry without file and strangeness")
    for name, seconds in result.get("wall_time_s", {}).items():
        _require(_is_number(seconds), f"'wall_time_s.{name}' is no number")


def _check_shares(figures: Any, where: str) -> None:
    _require(isinstance(figures, dict), f"'{where}' is no object")
    for name, value in figures.items():
        _require(_is_number(value) and 0 <= value <= 1, f"'{where}.{name}' is no number in [0, 1]")


def _check_pairs(pairs: Any, where: str) -> None:
    _require(isinstance(pairs, dict), f"'{where}' is no object")
    for key, pair in pairs.items():
        good = isinstance(pair, list) and len(pair) == 2 and all(_is_number(v) for v in pair)
        _require(good, f"'{where}.{key}' is no pair of numbers")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _require(good: bool, reason: str) -> None:
    if not good:
        raise UserError(reason)
