"""The per-image overlap metric with 200 linear thresholds, for comparison with old tables."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from dmdd.metrics.histogram import check_maps
from dmdd.metrics.intervals import Interval, mean_interval
from dmdd.metrics.regions import anomalous_pixels

N_THRESHOLDS = 200
FPR_LIMIT = 0.3
# The sum over images is kept in integers, so that it does not depend on their order.
_UNIT = 1 << 40


def overlap_200(scores: NDArray[np.float32], mask: NDArray[np.uint8]) -> float:
    """Compute the normalised area under one image's per-region-overlap curve as the reverse-distillation code does.

    Args:
        scores: (H, W) float32, finite.
        mask: (H, W) uint8, 0 and 1, at least one of each.

    Returns:
        Area in [0, 1]. With `t_i = min + i (max - min) / 200`, i = 0..199, the prediction is `score > t_i`; points with
        a false-positive rate of 0.3 or more are dropped (nothing is interpolated at the limit), the rates of the rest
        are divided by the largest of them, and trapezoids are summed. NaN for a constant map.

    Source: `compute_pro` of the RD4AD code, which the DMDD group's later code follows. Where all remaining rates are
    0 it divides 0 by 0; we return the largest overlap of these points instead. Its first point is not joined to rate 0,
    nor is ours.
    """
    low, high = float(scores.min()), float(scores.max())
    if low == high:
        return float("nan")
    # number of thresholds that a score exceeds: the i with t_i < score; the division may round the highest score up
    passed = np.ceil((scores.ravel().astype(np.float64) - low) * N_THRESHOLDS / (high - low)).astype(np.int64)
    passed = np.minimum(passed, N_THRESHOLDS)
    pixels = anomalous_pixels(mask)
    # a false positive at threshold i is a normal pixel with passed > i
    exceeding = np.bincount(passed, minlength=N_THRESHOLDS + 1)
    hit = passed[pixels.position]
    exceeding -= np.bincount(hit, minlength=N_THRESHOLDS + 1)
    covered = np.bincount(hit, weights=1.0 / pixels.region_size[pixels.region], minlength=N_THRESHOLDS + 1)
    wrong = np.cumsum(exceeding[::-1])[::-1][1:] / (mask.size - hit.size)
    overlap = np.cumsum(covered[::-1])[::-1][1:] / pixels.region_size.size
    kept = wrong < FPR_LIMIT
    wrong, overlap = wrong[kept], overlap[kept]
    if wrong.size == 0:
        return float("nan")
    if wrong[0] == 0:
        return float(min(1.0, overlap.max()))
    area = np.sum((wrong[:-1] - wrong[1:]) * (overlap[:-1] + overlap[1:])) / (2 * wrong[0])
    return float(min(1.0, area))


class AUPROPerImage200(Metric):
    """Mean over the anomalous images of `overlap_200`.

    Args:
        kwargs: arguments of `torchmetrics.Metric`.

    Images on which it is undefined are left out: normal and wholly anomalous ones, those with a constant map, and those
    where no threshold lets fewer than 0.3 of the normal pixels pass. After `compute`, `left_out` is the number of
    anomalous images among them, and `interval` the 95 % interval over the choice of images. With none left the metric
    is NaN.

    Source: the evaluation loop of the RD4AD code. Whether the paper's PRO is this one is not established.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    total: Tensor
    squares: Tensor
    n_defined: Tensor
    n_anomalous: Tensor
    n_images: Tensor
    left_out: int
    interval: Interval | None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("total", "squares", "n_defined", "n_anomalous", "n_images"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.left_out, self.interval = 0, None

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Add a batch.

        Args:
            maps: (B, H, W) or (B, 1, H, W), floating, any finite scores.
            masks: same spatial shape, bool or numbers 0 and 1.

        Raises:
            UserError: see `dmdd.metrics.histogram.check_maps`.
        """
        maps, masks = check_maps(maps, masks, images_before=int(self.n_images))
        for scores, mask in zip(maps, masks, strict=True):
            n_anomalous = int(mask.sum())
            self.n_anomalous += n_anomalous > 0
            if 0 < n_anomalous < mask.numel():
                area = overlap_200(scores.cpu().numpy(), mask.cpu().numpy())
                if not np.isnan(area):
                    self.total += round(area * _UNIT)
                    self.squares += round(area * area * _UNIT)
                    self.n_defined += 1
        self.n_images += maps.shape[0]

    def compute(self) -> Tensor:
        """Compute the mean.

        Returns:
            float64 scalar in [0, 1], or NaN where undefined.
        """
        n_defined = int(self.n_defined)
        value = int(self.total) / (_UNIT * n_defined) if n_defined else float("nan")
        self.left_out = int(self.n_anomalous) - n_defined
        self.interval = mean_interval(value, int(self.squares) / (_UNIT * n_defined), n_defined) if n_defined else None
        return torch.tensor(value, dtype=torch.float64, device=self.device)
