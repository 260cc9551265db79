"""The settings of a prediction, checked before anything is read or written."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmdd.config.schema import PredictSettings
from dmdd.core.errors import UserError
from dmdd.inference.folder.inputs import find_base

if TYPE_CHECKING:  # torch takes seconds to import, and a wrong setting is told before
    from dmdd.inference.predictor import Predictor

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


def check_settings(settings: PredictSettings) -> Places:
    """Refuse settings that cannot be used.

    Args:
        settings: Of the prediction.

    Returns:
        Where to read and write.

    Raises:
        UserError: Settings contradict each other, or the output would hold the input.
    """
    return _find_places(settings)


def _find_places(settings: PredictSettings) -> Places:
    given = [settings.input] if isinstance(settings.input, str) else settings.input
    # Shells do not expand the ~ of input=~/parts.
    entries = [os.path.expanduser(str(entry)) for entry in given]
    if settings.watch and (len(entries) != 1 or not os.path.isdir(entries[0])):
        raise UserError(f"input={','.join(entries)}: watch=true follows one folder, which must exist")
    base, output = find_base(entries), Path(os.path.abspath(os.path.expanduser(str(settings.output))))
    # Links resolved, for what may be one folder under two names.
    real_base, real_output = base.resolve(), output.resolve()
    if real_output == real_base or real_output in real_base.parents:
        raise UserError(f"output={settings.output} is or holds the input's folder {base}; give a folder of its own")
    if output.exists() and not output.is_dir():
        raise UserError(f"output={settings.output} is a file; give a folder")
    inside = real_output.is_relative_to(real_base)
    skip = base / real_output.relative_to(real_base) if inside else output
    return Places(Path(str(settings.model)).expanduser(), entries, base, output, skip)


def check_model(settings: PredictSettings, predictor: "Predictor") -> None:
    """Refuse settings that this model cannot follow.

    Args:
        settings: Of the prediction.
        predictor: Built from it.

    Raises:
        UserError: Masks are wanted without a pixel threshold, or tiles are described where there are none.
    """
    if settings.masks and predictor.pixel_threshold is None:
        raise UserError("masks=true: this model has no pixel threshold; give pixel_threshold=NUMBER")
    for name in TILING:
        if not predictor.tile and getattr(settings, name) not in (None, 0.25):
            raise UserError(f"{name}={getattr(settings, name)} counts only with tile=true")


def describe(settings: PredictSettings, places: Places, predictor: "Predictor", fingerprint: str) -> dict[str, Any]:
    """Name everything that must be the same when an output folder is continued.

    Args:
        settings: Of the prediction.
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
        # What 0.5 stands for, and the areas that are dropped; both absent where a model is older than them.
        **({} if predictor.scale is None else {"raw_image_threshold": predictor.scale.threshold}),
        **({"smallest_area_px": predictor.smallest_area_px} if predictor.smallest_area_px else {}),
        "precision": settings.precision,
        "tile": predictor.tile,
        **({"tile_px": settings.tile_px, "overlap": predictor.tiling.overlap} if predictor.tile else {}),
        **(
            {
                name: getattr(settings, name)
                for name in ("roi", "ignore", "align", "category")
                if getattr(settings, name) is not None
            }
        ),
        "maps": settings.maps or "none",
        "masks": settings.masks,
        "overlays": settings.overlays,
    }
