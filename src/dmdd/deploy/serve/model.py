"""The model a server answers with, and what it says about it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import dmdd
from dmdd.core.files import file_sha256
from dmdd.deploy.serve.exported import LOADERS, ExportedPredictor, load_exported
from dmdd.deploy.serve.limits import Refusal
from dmdd.models.score_scale import ScoreScale

if TYPE_CHECKING:
    from dmdd.inference.predictor import Predictor


class ServedModel:
    """A predictor with a name, a fingerprint and its calibration in plain words.

    Args:
        predictor: What inspects.
        title: Name shown to people and machines.
        weights_sha256: Fingerprint of the weights; empty if they are not from a file.
        folder: The model folder or the exported file, whose calibration is written; None if there is none.
        fixed: Why thresholds may not be changed; None if they may.
        category: Of a model for several the one whose thresholds decide; None for those of all of them.
    """

    def __init__(
        self,
        predictor: "Predictor | ExportedPredictor",
        *,
        title: str,
        weights_sha256: str = "",
        folder: Path | None = None,
        fixed: str | None = None,
        category: str | None = None,
    ) -> None:
        self.predictor, self.title, self.weights_sha256 = predictor, title, weights_sha256
        self.folder, self.fixed, self.category = folder, fixed, category
        own = {"title": title, "weights_sha256": weights_sha256, "folder": folder, "fixed": fixed}
        names = predictor.detector.category_calibrations if category is None else ()
        self._by_category = {
            name: ServedModel(predictor.of_category(name), **own, category=name)  # type: ignore[arg-type]
            for name in names
        }
        self._describe(predictor.detector.calibration)
        height, width = predictor.detector.input_size
        self.input_height, self.input_width = height, width

    @property
    def categories(self) -> list[str]:
        """Names of the categories with thresholds of their own."""
        return list(self._by_category)

    def of(self, category: str | None) -> "ServedModel":
        """Give the model as it decides for a category.

        Args:
            category: Its name; None for images of any.

        Returns:
            The model with that category's thresholds.

        Raises:
            Refusal: 422, there is no such category.
        """
        if category is None:
            return self
        if category not in self._by_category:
            known = (
                f"the model is for {', '.join(self._by_category)}"
                if self._by_category
                else "the model is for one; leave it out"
            )
            raise Refusal(422, f"category={category}: {known}")
        return self._by_category[category]

    def recalibrate(self, calibration: dict[str, Any]) -> None:
        """Put another calibration in force.

        Args:
            calibration: As in ``detector.json``.
        """
        self.predictor.recalibrate(calibration)
        self._describe(calibration)

    def _describe(self, calibration: dict[str, Any]) -> None:
        scaled = ScoreScale.of(calibration) is not None
        self.image_threshold: float | None = 0.5 if scaled else calibration.get("image_threshold")
        self.pixel_threshold: float | None = calibration.get("pixel_threshold")
        self.false_alarm_rate: float | None = calibration.get("image_false_alarm_rate")
        self.false_alarm_interval: list[float] | None = calibration.get("image_false_alarm_interval")
        self.promise: str | None = calibration.get("promise")
        self.normal_images: int | None = calibration.get("normal_images")
        self.thresholds_from: str | None = calibration.get("source")


def find_title(folder: Path) -> str:
    """Name a model by its run's ``result.json``, else by its folder; never by the whole path, which tells too much.

    Args:
        folder: The ``model`` folder.

    Returns:
        As in ``mvtec_ad / screw``.
    """
    try:
        result = json.loads((folder.parent / "result.json").read_text(encoding="utf-8"))
        return f"{result['dataset']} / {result['category']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        folder = folder.resolve()
        return folder.parent.name if folder.name == "model" else folder.name


def fingerprint(folder: Path) -> str:
    """Compute the SHA-256 of the weights file, as hexadecimal digits."""
    from dmdd.models.detector import WEIGHTS_FILE

    return file_sha256(folder / WEIGHTS_FILE)


def load_model(folder: Path, *, title: str | None = None, fixed: str | None = None, **settings: Any) -> ServedModel:
    """Load a model and run it once, so that the first request is as fast as the others.

    Args:
        folder: The ``model`` folder of a run, or an exported file, which needs no torch.
        title: Its name; :func:`find_title` if None.
        fixed: Why its thresholds may not be changed; None if they may.
        settings: How to look at images, as for :class:`dmdd.inference.predictor.Predictor`.

    Returns:
        Ready to answer.

    Raises:
        UserError: The folder holds no model of this version, or a setting cannot be used.
    """
    if folder.suffix in LOADERS:
        exported, card = load_exported(folder, **settings)
        sha256 = card.get("weights_sha256", "")
        name = title or folder.stem
        model = ServedModel(exported, title=name, weights_sha256=sha256, folder=folder, fixed=fixed)
        height, width = exported.fixed_size or exported.detector.input_size
        exported(np.zeros((height, width, 3), np.uint8))
        return model
    import torch

    predictor = dmdd.load(folder, **settings)
    name = title or find_title(folder)
    model = ServedModel(predictor, title=name, weights_sha256=fingerprint(folder), folder=folder, fixed=fixed)
    empty = torch.zeros(3, model.input_height, model.input_width, dtype=torch.uint8)
    predictor.predict([predictor.prepare(empty)])  # not called: a region of interest may be of another size
    return model
