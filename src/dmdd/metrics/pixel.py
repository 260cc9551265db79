"""Pixel metrics as torchmetrics classes over one bounded state."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dmdd.metrics import functional
from dmdd.metrics.base import StepMetric
from dmdd.metrics.exact import exact_steps
from dmdd.metrics.functional import Estimate, Steps
from dmdd.metrics.histogram import add_pixels, check_maps, empty_histograms
from dmdd.metrics.regions import OverlapPixels, overlap_pixels
from dmdd.metrics.zero_state import ZeroStateMetric


class PixelMetric(ZeroStateMetric, StepMetric):
    """Base of the pixel metrics, which counts maps and masks.

    Args:
        exact: keep every score (4 bytes a normal pixel, 12 an anomalous one) instead of the 25 MB of histograms; the
            value is then exact, and its interval as wide as rounding.
        kwargs: arguments of `torchmetrics.Metric`.

    After `compute`, `estimate` holds the value with its interval, see `StepMetric`. For want of normal or of anomalous
    pixels a metric is NaN.

    Source: ours. All states are sums of integers, so any split over batches and processes gives the same bits.
    """

    histograms: Tensor
    normal_scores: list[Tensor]
    anomalous_scores: list[Tensor]
    region_sizes: list[Tensor]
    n_regions: Tensor

    def __init__(self, *, exact: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.exact = exact
        if exact:
            self._keep("normal_scores", torch.float32)
            self._keep("anomalous_scores", torch.float32)
            self._keep("region_sizes", torch.int64)
        else:
            self.add_zero_state("histograms", tuple(empty_histograms().shape))
        self.add_state("n_regions", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Add a batch.

        Args:
            maps: (B, H, W) or (B, 1, H, W), floating, any finite scores, higher is more anomalous; compared as
                float32.
            masks: same spatial shape, bool or numbers 0 and 1.

        Raises:
            UserError: see `dmdd.metrics.histogram.check_maps`; nothing of the batch is then counted.
        """
        self._add(*check_maps(maps, masks, images_before=int(self.n_images)))

    def _add(self, maps: Tensor, masks: Tensor, overlap: Sequence[OverlapPixels] | None = None) -> None:
        if self.exact:
            self._keep_scores(maps, masks, overlap)
        else:
            self.n_regions += add_pixels(self.counted("histograms"), maps, masks, overlap)
        self.n_images += maps.shape[0]

    def _steps(self) -> Steps:
        n_regions = int(self.n_regions)
        if not self.exact:
            return functional.histogram_steps(self.histograms, n_regions)
        normal, anomalous = self._kept("normal_scores"), self._kept("anomalous_scores")
        return exact_steps(normal, anomalous, self._kept("region_sizes"), n_regions)

    def _latest_state(self) -> Tensor | None:
        return self._latest_kept("normal_scores") if self.exact else self.histograms

    def _keep_scores(self, maps: Tensor, masks: Tensor, overlap: Sequence[OverlapPixels] | None) -> None:
        for index, (scores, mask) in enumerate(zip(maps, masks.cpu(), strict=True)):
            pixels = overlap_pixels(mask.numpy()) if overlap is None else overlap[index]
            flat, anomalous = scores.flatten(), mask.flatten().bool().to(scores.device)
            self.normal_scores.append(flat[~anomalous])
            self.anomalous_scores.append(flat[torch.from_numpy(pixels.position).to(scores.device)])
            self.region_sizes.append(torch.from_numpy(pixels.region_size).to(scores.device))
            self.n_regions += pixels.n_regions


class PixelAUROC(PixelMetric):
    """Area under the ROC curve of all pixels.

    Args:
        exact: see `PixelMetric`.
        kwargs: arguments of `torchmetrics.Metric`.

    Source: `dmdd.metrics.functional.auroc`.
    """

    def _estimate(self, steps: Steps) -> Estimate:
        return functional.auroc(steps)


class PixelAveragePrecision(PixelMetric):
    """Average precision of all pixels.

    Args:
        exact: see `PixelMetric`.
        kwargs: arguments of `torchmetrics.Metric`.

    Source: `dmdd.metrics.functional.average_precision`.
    """

    def _estimate(self, steps: Steps) -> Estimate:
        return functional.average_precision(steps)


class PixelF1Max(PixelMetric):
    """Largest F1 of the anomalous pixels over all thresholds.

    Args:
        exact: see `PixelMetric`.
        kwargs: arguments of `torchmetrics.Metric`.

    Source: `dmdd.metrics.functional.f1_max`.
    """

    def _estimate(self, steps: Steps) -> Estimate:
        return functional.f1_max(steps)


class PixelIoUMax(PixelMetric):
    """Largest intersection over union of the anomalous pixels over all thresholds.

    Args:
        exact: see `PixelMetric`.
        kwargs: arguments of `torchmetrics.Metric`.

    Source: `dmdd.metrics.functional.iou_max`.
    """

    def _estimate(self, steps: Steps) -> Estimate:
        return functional.iou_max(steps)


class AUPRO(PixelMetric):
    """Area under the per-region-overlap curve up to a false-positive rate, divided by that rate.

    Args:
        fpr_limit: upper end of the integral, in (0, 1].
        exact: see `PixelMetric`.
        kwargs: arguments of `torchmetrics.Metric`.

    Raises:
        UserError: `fpr_limit` outside (0, 1].

    Source: `dmdd.metrics.functional.aupro`.
    """

    def __init__(self, fpr_limit: float = 0.3, *, exact: bool = False, **kwargs: Any) -> None:
        super().__init__(exact=exact, **kwargs)
        functional.check_fpr_limit(fpr_limit)
        self.fpr_limit = fpr_limit

    def _estimate(self, steps: Steps) -> Estimate:
        return functional.aupro(steps, self.fpr_limit)
