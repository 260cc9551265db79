"""What a model folder may hold: checked entry by entry before anything is built from it, since people edit it."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dmdd.core.errors import MAX_OVERLAP, UserError

LARGEST = {
    "widths": 8192,
    "width": 8192,
    "dilations": 1024,
    "input_size": 16384,
    "tile_px": 16384,
    "region": 16384,
    "image_kinds": 1024,
}
"""Above what any real detector has; a typing error must not take the machine's memory."""

MAX_DILATIONS = 32
ENTRIES = {
    "": (
        *("format_version", "teacher", "student", "segmentation", "input_size", "sigma_px", "score_fraction"),
        *("anomaly_map", "score_map", "score_smoothed", "level_power", "whitened", "with_images", "normal_levels"),
        *("score_function", "calibration", "category_calibrations", "former_calibrations", "image_kinds"),
        *("tiling", "region"),
    ),
    "tiling": ("tile_px", "overlap"),
    "teacher": ("backbone", "mean", "std", "folded"),
    "calibration": (
        *("image_threshold", "image_false_alarm_rate", "normal_images"),
        *("image_false_alarm_interval", "wanted_false_alarm_rate", "promised", "promise", "anomalous_found"),
        *("typical_peak", "other_lots_rate"),
        *("typical_score", "spread", "false_alarm_table", "calibrated_at"),
        *("spot_area_px", "smallest_area_px"),
        *("pixel_threshold", "pixel_f1_on_synthetic", "source"),
    ),
}
"""What there is, by the object it lies in: a misspelt threshold would be none. The networks know their own."""


def check_description(spec: Mapping[str, Any]) -> None:
    """Refuse entries that there are not, of the wrong kind, or beyond what a detector can have.

    Args:
        spec: As in ``detector.json``; that all entries are there is not checked.

    Raises:
        UserError: With the entry's name and value.

    Source: ours.
    """
    for name in ("teacher", "student", "segmentation", "calibration", "tiling"):
        if name in spec and not isinstance(spec[name], Mapping):
            raise _wrong(name, spec[name], "an object is wanted")
    for group, entries in ENTRIES.items():
        for name, value in (spec.get(group, {}) if group else spec).items():
            if name not in entries:
                raise _wrong(f"{group}.{name}" if group else name, value, f"there are {', '.join(entries)} only")
    _check_teacher(spec.get("teacher", {}))
    _check_sizes("student.widths", spec.get("student", {}).get("widths", [1, 1, 1]), count=3)
    segmentation = spec.get("segmentation", {})
    _check_sizes("segmentation.width", [segmentation.get("width", 1)], count=1)
    _check_sizes("segmentation.dilations", segmentation.get("dilations", [1]))
    _check_sizes("input_size", spec.get("input_size", [64, 64]), count=2)
    for name in ("sigma_px", "score_fraction", "level_power"):
        if not is_number(spec.get(name, 0)):
            raise _wrong(name, spec[name], "a finite number is wanted")
    for name in ("anomaly_map", "score_map"):
        if not isinstance(spec.get(name, ""), str):
            raise _wrong(name, spec[name], "the name of a map is wanted")
    if not isinstance(spec.get("score_function", ""), str):
        raise _wrong("score_function", spec["score_function"], "the name of a function is wanted")
    for name in ("score_smoothed", "whitened", "with_images"):
        if not isinstance(spec.get(name, False), bool):
            raise _wrong(name, spec[name], "true or false is wanted")
    if "tiling" in spec:
        _check_sizes("tiling.tile_px", spec["tiling"].get("tile_px"), count=2)
        if not is_number(overlap := spec["tiling"].get("overlap")) or not 0 <= overlap <= MAX_OVERLAP:
            raise _wrong("tiling.overlap", overlap, f"a number from 0 to {MAX_OVERLAP} is wanted")
    if "region" in spec:
        _check_sizes("region", spec["region"], count=2)
    _check_sizes("image_kinds", [spec.get("image_kinds", 1)], count=1)
    _check_levels(spec.get("normal_levels", {}))
    _check_calibration(spec.get("calibration", {}))
    _check_categories(spec.get("category_calibrations", {}))
    former = spec.get("former_calibrations", [])
    if not isinstance(former, list) or not all(isinstance(entry, Mapping) for entry in former):
        raise _wrong("former_calibrations", former, "a list of objects is wanted")


def check_widths(spec: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Refuse widths that no tensor of the weights has, before networks of such widths take memory.

    Args:
        spec: As in ``detector.json``, not checked yet.
        state: What the weights file holds.

    Raises:
        UserError: A width is not among the tensors' sizes.

    Source: ours.
    """
    check_description(spec)
    sizes = {size for tensor in state.values() for size in tensor.shape}
    wanted = [*spec.get("student", {}).get("widths", []), spec.get("segmentation", {}).get("width")]
    for width in wanted:
        if width is not None and width not in sizes:
            raise UserError(f"the weights file does not fit detector.json: no tensor of it has the width {width}")


def check_tensors(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Refuse weights of another type than the detector's, which would be converted silently, and what is no number.

    Args:
        found: What the weights file holds; other names and shapes are told when the tensors are loaded.
        wanted: The detector's own state.

    Raises:
        UserError: With the first such tensor's name.

    Source: ours.
    """
    for name, tensor in found.items():
        if name not in wanted:
            continue
        if tensor.dtype != wanted[name].dtype:
            raise UserError(f"the weights file is damaged: {name} is {tensor.dtype}, not {wanted[name].dtype}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"the weights file is damaged: {name} holds values that are no numbers")


def _check_teacher(teacher: Mapping[str, Any]) -> None:
    if not isinstance(teacher.get("backbone", ""), str):
        raise _wrong("teacher.backbone", teacher["backbone"], "the name of a timm model is wanted")
    if not isinstance(teacher.get("folded", False), bool):
        raise _wrong("teacher.folded", teacher["folded"], "true or false is wanted")
    for name in ("mean", "std"):
        values = teacher.get(name)
        good = isinstance(values, list) and len(values) == 3 and all(is_number(value) for value in values)
        if values is not None and (not good or (name == "std" and min(values) <= 0)):
            raise _wrong(f"teacher.{name}", values, "three numbers are wanted, of std above 0")


def _check_sizes(name: str, values: Any, *, count: int | None = None) -> None:
    largest = LARGEST[name.rpartition(".")[2]]
    good = isinstance(values, list) and (0 < len(values) <= MAX_DILATIONS if count is None else len(values) == count)
    if not good or not all(isinstance(v, int) and not isinstance(v, bool) and 1 <= v <= largest for v in values):
        many = "whole numbers are" if count is None else f"{count} whole number{'s are' if count > 1 else ' is'}"
        raise _wrong(name, values, f"{many} wanted, from 1 to {largest}")


def _check_levels(levels: Any) -> None:
    if not isinstance(levels, Mapping):
        raise _wrong("normal_levels", levels, "an object is wanted")
    for name, pair in levels.items():
        good = isinstance(pair, list) and len(pair) == 2 and all(is_number(value) for value in pair)
        if not good or not 0 < pair[0] <= pair[1] <= 1:
            raise _wrong(f"normal_levels.{name}", pair, "two numbers above 0 and up to 1 are wanted, the smaller first")


def _check_calibration(calibration: Mapping[str, Any]) -> None:
    """Check what is shown with the answers; the thresholds are checked where they are taken."""
    rate, count = (calibration.get(name) for name in ("image_false_alarm_rate", "normal_images"))
    if rate is not None and not (is_number(rate) and 0 <= rate <= 1):
        raise _wrong("calibration.image_false_alarm_rate", rate, "a number from 0 to 1 is wanted")
    if count is not None and not (isinstance(count, int) and not isinstance(count, bool) and count >= 0):
        raise _wrong("calibration.normal_images", count, "a whole number is wanted")
    for name in ("source", "promise", "calibrated_at"):
        if calibration.get(name) is not None and not isinstance(calibration[name], str):
            raise _wrong(f"calibration.{name}", calibration[name], "a text is wanted")
    area = calibration.get("smallest_area_px", 0)
    if not isinstance(area, int) or isinstance(area, bool) or area < 0:
        raise _wrong("calibration.smallest_area_px", area, "a whole number of pixels is wanted")
    _check_scale(calibration)


def _check_categories(calibrations: Any) -> None:
    if not isinstance(calibrations, Mapping) or not all(isinstance(one, Mapping) for one in calibrations.values()):
        raise _wrong("category_calibrations", calibrations, "an object of objects is wanted")
    for name, calibration in calibrations.items():
        if unknown := sorted(set(calibration) - set(ENTRIES["calibration"])):
            raise _wrong(f"category_calibrations.{name}", unknown[0], f"there are {', '.join(ENTRIES['calibration'])}")
        _check_calibration(calibration)


def _check_scale(calibration: Mapping[str, Any]) -> None:
    """Check what turns raw scores into those that users see."""
    for name, low, high in (
        ("typical_score", 0, 1),
        ("typical_peak", 0, 1 + math.ulp(1)),
        ("spread", 0, math.inf),
        ("wanted_false_alarm_rate", 0, 1),
        ("anomalous_found", -math.ulp(0), 1 + math.ulp(1)),
        ("other_lots_rate", -math.ulp(0), 1 + math.ulp(1)),
        ("spot_area_px", -math.ulp(0), math.inf),
    ):
        value = calibration.get(name)
        if value is not None and not (is_number(value) and low < value < high):
            raise _wrong(f"calibration.{name}", value, "a number in its range is wanted")
    table = calibration.get("false_alarm_table")
    if table is not None and not _is_table(table):
        raise _wrong("calibration.false_alarm_table", table, "ascending scores and as many rates above 0 are wanted")


def _is_table(table: Any) -> bool:
    scores, rates = (table.get(name) for name in ("scores", "rates")) if isinstance(table, Mapping) else (None, None)
    if not isinstance(scores, list) or not isinstance(rates, list) or len(scores) != len(rates) or not scores:
        return False
    if not all(map(is_number, [*scores, *rates])):
        return False
    return scores == sorted(set(scores)) and min(rates) > 0


def is_number(value: Any) -> bool:
    """Say whether a JSON value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _wrong(name: str, value: Any, wanted: str) -> UserError:
    shown = str(value)
    return UserError(f"detector.json: {name}={shown[:60]}{'...' if len(shown) > 60 else ''}: {wanted}")
