"""The settings of a prediction, checked before anything is read or written."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmdd.core.errors import UserError, check_positive, check_tile_switch
from dmdd.inference.folder.inputs import find_base

if TYPE_CHECKING:  # torch takes seconds to import, and a wrong setting is told before
    from dmdd.inference.predictor import Predictor

MAP_KINDS = ("none", "png16", "npy")
SWITCHES = ("recursive", "overwrite", "watch", "masks", "overlays")
TILING = ("tile_px", "overlap")


@dataclass(frozen=True)
class Places:
    """Where a prediction reads and writes.

    Args:
        model: The ``model`` folder of a run.
        entries: What ``input=`` gave.
        base: The folder that names count from.
        output: Absolute.
        skip: The output as a path below ``base`` if it lies there: no input.
    """

    model: Path
    entries: list[str]
    base: Path
    output: Path
    skip: Path


def check_settings(settings: dict[str, Any]) -> Places:
    """Refuse settings that cannot be used.

    Args:
        settings: ``conf/predict.yaml`` as plain values.

    Returns:
        Where to read and write.

    Raises:
        UserError: A setting is missing, of the wrong kind or out of range, or the output would hold the input.
    """
    for name in ("model", "input", "output"):
        if settings[name] in (None, "", []):
            raise UserError(f"{name} is missing: give {name}=..., --help shows how")
    for name in SWITCHES:
        if not isinstance(settings[name], bool):
            raise UserError(f"{name}={settings[name]}: give true or false")
    for name in ("poll_s", "settle_s"):
        check_seconds(name, settings[name])
    check_positive("batch_size", settings["batch_size"])
    if settings["workers"] is not None:
        check_positive("workers", settings["workers"])
    if (settings["maps"] or "none") not in MAP_KINDS:
        raise UserError(f"maps={settings['maps']}: choose one of {', '.join(MAP_KINDS)}")
    check_tile_switch(settings["tile"])
    return _find_places(settings)


def check_seconds(name: str, value: object) -> None:
    """Refuse what is no positive number of seconds.

    Args:
        name: The setting.
        value: What was given.

    Raises:
        UserError: It is no number above 0.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise UserError(f"{name}={value}: give a number of seconds above 0")


def _find_places(settings: dict[str, Any]) -> Places:
    given = settings["input"] if isinstance(settings["input"], list) else [settings["input"]]
    # Shells do not expand the ~ of input=~/parts.
    entries = [os.path.expanduser(str(entry)) for entry in given]
    if settings["watch"] and (len(entries) != 1 or not os.path.isdir(entries[0])):
        raise UserError(f"input={','.join(entries)}: watch=true follows one folder, which must exist")
    base, output = find_base(entries), Path(os.path.abspath(os.path.expanduser(str(settings["output"]))))
    # Links resolved, for what may be one folder under two names.
    real_base, real_output = base.resolve(), output.resolve()
    if real_output == real_base or real_output in real_base.parents:
        raise UserError(f"output={settings['output']} is or holds the input's folder {base}; give a folder of its own")
    if output.exists() and not output.is_dir():
        raise UserError(f"output={settings['output']} is a file; give a folder")
    inside = real_output.is_relative_to(real_base)
    skip = base / real_output.relative_to(real_base) if inside else output
    return Places(Path(str(settings["model"])).expanduser(), entries, base, output, skip)


def check_model(settings: dict[str, Any], predictor: "Predictor") -> None:
    """Refuse settings that this model cannot follow.

    Args:
        settings: ``conf/predict.yaml`` as plain values.
        predictor: Built from it.

    Raises:
        UserError: Masks are wanted without a pixel threshold, or tiles are described where there are none.
    """
    if settings["masks"] and predictor.pixel_threshold is None:
        raise UserError("masks=true: this model has no pixel threshold; give pixel_threshold=NUMBER")
    for name in TILING:
        if not predictor.tile and settings[name] not in (None, 0.25):
            raise UserError(f"{name}={settings[name]} counts only with tile=true")


def describe(settings: dict[str, Any], places: Places, predictor: "Predictor", fingerprint: str) -> dict[str, Any]:
    """Name everything that must be the same when an output folder is continued.

    Args:
        settings: ``conf/predict.yaml`` as plain values.
        places: Of this prediction.
        predictor: Built from the configuration.
        fingerprint: Of the model.

    Returns:
        Plain values, as predict.json holds them.
    """
    return {
        "model": os.path.abspath(places.model),
        "model_sha256": fingerprint,
        "input": str(places.base),
        "image_threshold": predictor.image_threshold,
        "pixel_threshold": predictor.pixel_threshold,
        "precision": settings["precision"],
        "tile": predictor.tile,
        **({"tile_px": settings["tile_px"], "overlap": predictor.tiling.overlap} if predictor.tile else {}),
        **({name: settings[name] for name in ("roi", "ignore") if settings[name] is not None}),
        "maps": settings["maps"] or "none",
        "masks": settings["masks"],
        "overlays": settings["overlays"],
    }
