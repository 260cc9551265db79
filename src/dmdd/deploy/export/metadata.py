"""What an exported file says of itself."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from dmdd.core import provenance
from dmdd.core.files import file_sha256
from dmdd.deploy.export.graph import Tiling, output_names
from dmdd.models.detector import WEIGHTS_FILE, Detector
from dmdd.models.score_scale import ScoreScale

FORMAT_VERSION = 1
PACKAGES = ("onnx", "onnxscript", "onnxruntime", "openvino")
MEANINGS = {
    "map": "(batch, height, width) float32 in [0, 1], large where a pixel looks anomalous",
    "score": "(batch,) float32 in [0, 1], large for an anomalous image",
    "raw_score": "(batch,) float32 in [0, 1], the score before it is put on the scale with the threshold at 0.5",
    "raw": "(batch, input height, input width) float32 in [0, 1], the map before it is enlarged",
}


def describe(
    detector: Detector, folder: Path, *, file_format: str, precision: str, tiling: Tiling | None
) -> dict[str, Any]:
    """Describe an export as plain JSON values.

    Args:
        detector: What is exported.
        folder: Where it was loaded from.
        file_format: ``onnx``, ``openvino`` or ``torch``.
        precision: ``float32``, ``float16`` or ``int8``.
        tiling: As the graph has it.

    Returns:
        Entries for the file and for the JSON beside it; the thresholds of the JSON are the ones to use.
    """
    calibration, scale = detector.calibration, ScoreScale.of(detector.calibration)
    packages = PACKAGES if file_format != "torch" else ()
    return {
        "format_version": FORMAT_VERSION,
        "format": file_format,
        "precision": precision,
        "input": {"images": "(batch, height, width, 3) uint8, RGB, any size"},
        "output": {name: MEANINGS[name] for name in output_names(detector, tiling)},
        "image_threshold": calibration.get("image_threshold") if scale is None else 0.5,
        "pixel_threshold": calibration.get("pixel_threshold"),
        "smallest_area_px": calibration.get("smallest_area_px", 0),
        "calibration": calibration,
        "input_size": list(detector.input_size),
        "tiling": None if tiling is None else {"tile_px": list(tiling.tile_px), "overlap": tiling.overlap},
        "anomaly_map": detector.anomaly_map,
        "score_map": detector.score_map,
        "score_fraction": detector.score_fraction,
        "score_smoothed": detector.score_smoothed,
        "level_power": detector.level_power,
        "normal_levels": detector.normal_levels.get(detector.score_map),
        "sigma_px": detector.sigma_px,
        "teacher": detector.teacher.spec["backbone"],
        "weights_sha256": file_sha256(folder / WEIGHTS_FILE),
        "versions": provenance.describe_versions() | {package: version(package) for package in packages},
    }
