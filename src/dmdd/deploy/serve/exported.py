"""An exported file as what a server inspects with. Nothing here needs torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dmdd.core.errors import UserError
from dmdd.core.masks import find_mask, scale_spot
from dmdd.deploy.runtimes import Run, load_onnx, load_openvino
from dmdd.deploy.serve.limits import Refusal
from dmdd.inference.prediction import Prediction
from dmdd.models.score_scale import ScoreScale, find_category

LOADERS = {".onnx": load_onnx, ".xml": load_openvino}
PART_OF_THE_FILE = ("tile", "tile_px", "overlap", "roi", "ignore")


@dataclass(frozen=True)
class Described:
    """What the JSON beside an exported file says of its detector.

    Args:
        calibration: Thresholds and scale, as in ``detector.json``.
        input_size: Height and width that images are resized to, in pixels.
        category_calibrations: The same of each category, where it is for several.
    """

    calibration: dict[str, Any]
    input_size: tuple[int, int]
    category_calibrations: Mapping[str, dict[str, Any]]


class ExportedPredictor:
    """Inspect images with an exported file.

    Args:
        run: The graph.
        card: The JSON beside it, whose thresholds are the ones in force.
    """

    def __init__(self, run: Run, card: Mapping[str, Any]) -> None:
        self.run, self.fixed_size, self.layout = run, card.get("fixed_size"), card.get("layout", "nhwc")
        self.tile_px = (card.get("tiling") or {}).get("tile_px")
        self._read(card)

    def _read(self, card: Mapping[str, Any]) -> None:
        self.card = card
        thresholds = {name: card.get(name) for name in ("image_threshold", "pixel_threshold")}
        calibration = card.get("calibration") or {k: v for k, v in thresholds.items() if v is not None}
        height, width = card["input_size"]
        self.detector = Described(calibration, (height, width), card.get("category_calibrations", {}))
        self.scale = ScoreScale.of(calibration)
        self.image_threshold = 0.5 if self.scale is not None else thresholds["image_threshold"]
        self.pixel_threshold: float | None = calibration.get("pixel_threshold")
        self.smallest_area_px = int(card.get("smallest_area_px") or 0)
        self.spot_area_px = float(calibration.get("spot_area_px") or 0)

    def recalibrate(self, calibration: Mapping[str, Any]) -> None:
        """Put another calibration in force.

        Args:
            calibration: As in the JSON beside the file.
        """
        self._read(_with(self.card, calibration))

    def of_category(self, name: str) -> "ExportedPredictor":
        """Decide by the thresholds of one of the categories that the model is for.

        Args:
            name: Of the category.

        Returns:
            Another predictor with the same graph.

        Raises:
            UserError: The JSON knows no thresholds of that category.
        """
        return ExportedPredictor(self.run, _with(self.card, find_category(name, self.detector.category_calibrations)))

    def __call__(self, pixels: np.ndarray) -> Prediction:
        """Inspect one image.

        Args:
            pixels: ``(H, W, 3)`` uint8 RGB.

        Returns:
            The prediction, at the image's own size.

        Raises:
            Refusal: 422, the file takes images of another size only.
        """
        size = pixels.shape[:2]
        if self.fixed_size is not None and tuple(self.fixed_size) != size:
            height, width = self.fixed_size
            taken = f"this model takes images of {width} x {height} px only"
            raise Refusal(422, f"the image has {size[1]} x {size[0]} px; {taken}")
        images = pixels[None]
        if self.layout == "nchw":
            images = images.transpose(0, 3, 1, 2).astype(np.float32) / 255
        found = self.run(np.ascontiguousarray(images))
        heat, raw = found["map"][0].astype(np.float32), float(found.get("raw_score", found["score"])[0])
        return self._judge(heat, raw, float(found["score"][0]), pixels)

    def _judge(self, heat: np.ndarray, raw: float, score: float, pixels: np.ndarray) -> Prediction:
        # The file's own scale is the one it was exported with; `dmdd calibrate` may have changed the JSON since.
        score = score if self.scale is None else self.scale.readable(raw)
        spot = scale_spot(self.spot_area_px, seen=self.tile_px or heat.shape, input_size=self.detector.input_size)
        mask = None
        if self.pixel_threshold is not None:
            smallest = self.smallest_area_px
            mask = find_mask(heat, self.pixel_threshold, spot_area_px=spot, smallest_area_px=smallest)
        return Prediction(
            heat,
            score,
            None if self.image_threshold is None else bool(score >= self.image_threshold),
            mask,
            raw_score=raw,
            false_alarm_probability=None if self.scale is None else self.scale.false_alarm_probability(raw),
            pixel_threshold=self.pixel_threshold,
            spot_area_px=spot,
            image=pixels,
        )


def _with(card: Mapping[str, Any], calibration: Mapping[str, Any]) -> dict[str, Any]:
    """Give the JSON of a file with the thresholds of another calibration."""
    entries = {name: calibration.get(name) for name in ("image_threshold", "pixel_threshold", "smallest_area_px")}
    return {**card, **entries, "calibration": dict(calibration)}


def load_exported(file: Path, **settings: Any) -> tuple[ExportedPredictor, dict[str, Any]]:
    """Load an exported file.

    Args:
        file: ``.onnx`` for ONNX Runtime or ``.xml`` for OpenVINO; its JSON lies beside it.
        settings: How to look at images; all must be left out, the file holds them.

    Returns:
        The predictor, and the content of the JSON.

    Raises:
        UserError: A file is missing or damaged, its runtime is not installed, or a setting is part of the file.
    """
    given = [name for name in PART_OF_THE_FILE if settings.get(name) is not None]
    if given:
        raise UserError(f"{given[0]}={settings[given[0]]}: it is part of an exported model; leave it out")
    if settings.get("device") not in (None, "cpu"):
        raise UserError(f"device={settings['device']}: exported models are served on the CPU; leave it out")
    beside = file.with_name(file.name + ".json")
    if not file.is_file():
        raise UserError(f"model={file}: no such file")
    try:
        card = json.loads(beside.read_text(encoding="utf-8"))
        _ = card["output"], card["input_size"]
    except (OSError, ValueError, LookupError, TypeError):
        raise UserError(f"{beside} is missing or damaged; export the model again") from None
    try:
        return ExportedPredictor(LOADERS[file.suffix](file), card), card
    except ModuleNotFoundError as error:
        package = {".onnx": "onnxruntime", ".xml": "openvino"}[file.suffix]
        raise UserError(f"{file.suffix} files need {error.name}; install it: pip install {package}") from None
    except Exception as error:  # each runtime has its own
        raise UserError(f"{file} cannot be loaded: {' '.join(str(error).split())[:200]}") from None
