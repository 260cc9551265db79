"""What every runtime looks like to the comparison and the measurement of speed."""

import numpy as np
import torch
from torch import Tensor

from dmdd.core.resize import resize_masks
from dmdd.deploy.export.graph import output_names
from dmdd.deploy.runtimes import Run
from dmdd.models.blocks import upsample
from dmdd.models.detector import Detector, Tiling
from dmdd.models.score_scale import ScoreScale
from dmdd.models.tiling import detect_tiled, look


def reference(detector: Detector, tiling: Tiling | None, region: Tensor | None = None) -> Run:
    """Give the detector itself, as training and evaluation use it, the form of a runtime.

    Args:
        detector: In evaluation mode.
        tiling: As the graph has it.
        region: Likewise.

    Returns:
        A function with the outputs of the graph.
    """
    scale, names = ScoreScale.of(detector.calibration), output_names(detector, tiling)

    def inside(pixels: Tensor, window: Tensor) -> dict[str, Tensor]:
        names = tuple(dict.fromkeys((detector.anomaly_map, detector.score_map)))
        window = window.expand(len(pixels), -1, -1, -1)
        seen = look(detector, pixels, only=names, tiling=tiling, inside=window)
        raw = seen.maps[detector.anomaly_map]
        own = upsample(raw, (pixels.shape[2], pixels.shape[3])) * window
        return {"map": own[:, 0], "raw": raw[:, 0], "raw_score": seen.scores[detector.score_map]}

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        pixels = torch.from_numpy(np.require(images, requirements="W")).permute(0, 3, 1, 2)
        with torch.inference_mode():
            if region is not None:
                found = inside(pixels, resize_masks(region[None, None], (pixels.shape[2], pixels.shape[3])))
            elif tiling is not None:
                whole = detect_tiled(detector, pixels, tile_px=tiling.tile_px, overlap=tiling.overlap)
                found = {"map": whole.map[:, 0], "raw_score": whole.score}
            else:
                raw, score = detector(pixels)
                found = {"map": upsample(raw, (pixels.shape[2], pixels.shape[3]))[:, 0], "raw": raw[:, 0]}
                found["raw_score"] = score
            found["score"] = found["raw_score"] if scale is None else scale.readable_traced(found["raw_score"])
            return {name: found[name].numpy() for name in names}

    return run
