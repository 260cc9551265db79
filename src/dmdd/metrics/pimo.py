"""Per-image recall over a false-positive rate that all images share (AUPIMO)."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmdd.core.errors import UserError
from dmdd.metrics.base import EstimateMetric
from dmdd.metrics.binning import N_BINS, score_bins
from dmdd.metrics.functional import UNDEFINED, Estimate, Floats
from dmdd.metrics.histogram import check_maps, count_bins

FPR_BOUNDS = (1e-5, 1e-4)


def credit(rate: Floats, bounds: tuple[float, float] = FPR_BOUNDS) -> Floats:
    """Compute what an anomalous pixel adds to AUPIMO, from the false-positive rate at its own score.

    Args:
        rate: any shape, share of the pixels of normal images at or above the score of an anomalous pixel.
        bounds: lower and upper false-positive rate of the integral, both in (0, 1].

    Returns:
        Same shape, in [0, 1]: the share of the integration range, in logarithms, where the pixel is found.

    Source: ours. The integral over the logarithm of the rate of the share of pixels found is the mean over the pixels
    of the share of the range where each of them is found.
    """
    low, high = (math.log(bound) for bound in bounds)
    with np.errstate(divide="ignore"):
        return (high - np.clip(np.log(rate), low, high)) / (high - low)


class AUPIMO(EstimateMetric):
    """Mean over the anomalous images of the area under the recall of the image's pixels.

    Args:
        bounds: lower and upper end of the integral, shares of the pixels of *normal* images at or above the
            threshold; both in (0, 1].
        kwargs: arguments of `torchmetrics.Metric`.

    Raises:
        UserError: `bounds` not ascending in (0, 1].

    The integral is over the logarithm of the rate. At a rate the recall is that of the lowest threshold which lets no
    more normal pixels pass. An image is normal if its mask is empty. After `compute`, `estimate` holds the certified
    interval; its value takes the pixels of a bin as tied. Without normal or anomalous images it is NaN. The state takes
    8 MB and 24 bytes for each bin that an anomalous image occupies.

    Source: Bertoldo et al., BMVC 2024. The authors' code draws straight lines between thresholds and takes the mean
    rate of the normal images, which is the rate of their pixels where all have one size.
    """

    normal_counts: Tensor
    occupied: list[Tensor]
    n_anomalous: Tensor

    def __init__(self, bounds: tuple[float, float] = FPR_BOUNDS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < bounds[0] < bounds[1] <= 1:
            raise UserError(f"the false-positive rates of AUPIMO must ascend within (0, 1], not {bounds}")
        self.bounds = bounds
        self.add_state("normal_counts", torch.zeros(N_BINS, dtype=torch.int64), dist_reduce_fx="sum")
        self._keep("occupied", torch.int64)  # for each bin of an anomalous image in turn: its share's numbers
        self.add_state("n_anomalous", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Add a batch.

        Args:
            maps: (B, H, W) or (B, 1, H, W), floating, any finite scores.
            masks: same spatial shape, bool or numbers 0 and 1.

        Raises:
            UserError: see `dmdd.metrics.histogram.check_maps`; nothing of the batch is then counted.
        """
        maps, masks = check_maps(maps, masks, images_before=int(self.n_images))
        anomalous = masks.flatten(1).bool().any(dim=1)
        if self.normal_counts.is_inference():  # the state may be used outside the test loop that fills it
            with torch.inference_mode(False):
                self.normal_counts = self.normal_counts.clone()
        count_bins(self.normal_counts, maps[~anomalous].flatten())
        for scores, mask in zip(maps[anomalous], masks[anomalous], strict=True):
            bins, counts = torch.unique(score_bins(scores[mask == 1]).long(), return_counts=True)
            self.occupied.append(torch.column_stack((bins, counts, mask.sum().expand_as(bins))).flatten())
        self.n_anomalous += anomalous.sum()
        self.n_images += maps.shape[0]

    def _compute_estimate(self) -> Estimate:
        normal, n_anomalous = self.normal_counts.cpu().numpy(), int(self.n_anomalous)
        total = int(normal.sum())
        if not n_anomalous or not total:
            return UNDEFINED
        bins, counts, of = self._kept("occupied").reshape(-1, 3).T
        above = np.cumsum(normal[::-1])[::-1][bins]  # those of the bin are among them
        # by image and by pixel, sorted so that the order of the images does not move the last bit
        lower, upper = (
            math.fsum(np.sort(counts * credit(rate / total, self.bounds) / of).tolist()) / n_anomalous
            for rate in (above, above - normal[bins])
        )
        return Estimate(min(lower, 1.0), max(0.0, min(lower, 1.0) - 1e-12), min(1.0, upper + 1e-12))
