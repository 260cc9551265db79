"""What an exported file says of itself."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from dmdd.core import provenance
from dmdd.core.files import file_sha256
from dmdd.deploy.export.fixed import FixedGraph
from dmdd.deploy.export.graph import output_names
from dmdd.models.detector import WEIGHTS_FILE, Detector, Tiling, describe_tiling
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
    detector: Detector,
    folder: Path,
    *,
    file_format: str,
    precision: str,
    tiling: Tiling | None,
    fixed: FixedGraph | None = None,
    region: Tensor | None = None,
) -> dict[str, Any]:
    """Describe an export as plain JSON values.

    Args:
        detector: What is exported.
        folder: Where it was loaded from.
        file_format: ``onnx``, ``openvino``, ``torch``, or the name of one of another package.
        precision: ``float32``, ``float16`` or ``int8``.
        tiling: As the graph has it.
        fixed: The graph, where it takes images of one size only.
        region: The region of interest; None where all pixels count.

    Returns:
        Entries for the file and for the JSON beside it; the thresholds of the JSON are the ones to use.
    """
    calibration, scale = detector.calibration, ScoreScale.of(detector.calibration)
    inputs = "(batch, height, width, 3) uint8, RGB, any size"
    if fixed is not None:
        kind = "uint8 in [0, 255]" if fixed.layout == "nhwc" else "float32 in [0, 1]"
        inputs = f"({', '.join(str(side) for side in fixed.example.shape)}) {kind}, RGB"
    packages = PACKAGES if file_format in ("onnx", "openvino") else ()
    return {
        "format_version": FORMAT_VERSION,
        "format": file_format,
        "precision": precision,
        "input": {"images": inputs},
        "colour_order": "RGB",
        "layout": "nhwc" if fixed is None else fixed.layout,
        "type": "uint8" if fixed is None or fixed.layout == "nhwc" else "float32",
        "range": [0, 255] if fixed is None or fixed.layout == "nhwc" else [0, 1],
        "fixed_size": None if fixed is None else list(fixed.size),
        "region": None if region is None else {"size": list(region.shape), "share": float(region.float().mean())},
        "output": {
            name: MEANINGS[name] for name in (output_names(detector, tiling) if fixed is None else fixed.outputs)
        },
        "image_threshold": calibration.get("image_threshold") if scale is None else 0.5,
        "pixel_threshold": calibration.get("pixel_threshold"),
        "smallest_area_px": calibration.get("smallest_area_px", 0),
        "calibration": calibration,
        **({"category_calibrations": detector.category_calibrations} if detector.category_calibrations else {}),
        "input_size": list(detector.input_size),
        "tiling": describe_tiling(tiling),
        "anomaly_map": detector.anomaly_map,
        "score_map": detector.score_map,
        "score_fraction": detector.score_fraction,
        **({"score_function": detector.score_function} if detector.score_function else {}),
        "score_smoothed": detector.score_smoothed,
        "level_power": detector.baseline_power,
        "normal_levels": detector.normal_baselines.get(detector.score_map),
        "sigma_px": detector.sigma_px,
        "teacher": detector.teacher.spec["backbone"],
        "weights_sha256": file_sha256(folder / WEIGHTS_FILE),
        "versions": provenance.describe_versions() | {package: version(package) for package in packages},
    }
