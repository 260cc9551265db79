"""Image metrics: exact, from one score and one label an image."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmdd.core.errors import UserError
from dmdd.metrics import functional
from dmdd.metrics.base import StepMetric
from dmdd.metrics.exact import exact_steps
from dmdd.metrics.functional import Estimate, Steps

# The recall is reported at these false-alarm rates.
RECALL_LIMITS = {"image_recall_at_fpr_1": 0.01, "image_recall_at_fpr_5": 0.05}


class ImageMetric(StepMetric):
    """Base of the image metrics, which keeps scores and labels.

    Args:
        kwargs: arguments of `torchmetrics.Metric`.

    With images of one class only the metric is NaN. torchmetrics' own classes are not used: they apply a sigmoid to
    any batch whose scores leave [0, 1], and to no other.

    Source: ours.
    """

    scores: list[Tensor]
    labels: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._keep("scores", torch.float32)
        self._keep("labels", torch.uint8)

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            scores: (B,) floating, any finite values, higher is more anomalous; compared as float32.
            labels: (B,) bool or integer, 0 normal and 1 anomalous.

        Raises:
            UserError: shapes differ, scores are not floating, a label is neither 0 nor 1, or a score is NaN or
                infinite.
        """
        if scores.ndim != 1 or scores.shape != labels.shape:
            raise UserError(f"scores and labels must both be (B,), not {tuple(scores.shape)} and {tuple(labels.shape)}")
        if not scores.is_floating_point():
            raise UserError(f"scores must be floating, not {scores.dtype}")
        scores = scores.detach().to(torch.float32)
        self._refuse(~torch.isfinite(scores), "score is NaN or infinite")
        self._refuse((labels != 0) & (labels != 1), "label is neither 0 nor 1")
        self.scores.append(scores)
        self.labels.append(labels.to(scores.device, torch.uint8))
        self.n_images += scores.numel()

    def _steps(self) -> Steps:
        scores, anomalous = self._kept("scores"), self._kept("labels") == 1
        n_anomalous = int(anomalous.sum())
        # an image counts as a region of one pixel
        return exact_steps(scores[~anomalous], scores[anomalous], np.ones(n_anomalous, dtype=np.int64), n_anomalous)

    def _latest_state(self) -> Tensor | None:
        return self._latest_kept("scores")

    def _refuse(self, bad: Tensor, what: str) -> None:
        if bool(bad.any()):
            index = int(self.n_images) + int(torch.nonzero(bad)[0, 0])
            raise UserError(f"image {index}: its {what}")


class ImageAUROC(ImageMetric):
    """Area under the ROC curve of the images.

    Args:
        kwargs: arguments of `torchmetrics.Metric`.

    Source: `dmdd.metrics.functional.auroc`.
    """

    def _estimate(self, steps: Steps) -> Estimate:
        return functional.auroc(steps)


class ImageAveragePrecision(ImageMetric):
    """Average precision of the images.

    Args:
        kwargs: arguments of `torchmetrics.Metric`.

    Source: `dmdd.metrics.functional.average_precision`.
    """

    def _estimate(self, steps: Steps) -> Estimate:
        return functional.average_precision(steps)


class ImageF1Max(ImageMetric):
    """Largest F1 of the anomalous images over all thresholds.

    Args:
        kwargs: arguments of `torchmetrics.Metric`.

    Source: `dmdd.metrics.functional.f1_max`.
    """

    def _estimate(self, steps: Steps) -> Estimate:
        return functional.f1_max(steps)


class ImageRecallAtFPR(ImageMetric):
    """Share of the anomalous images found where at most so many normal ones are false alarms.

    Args:
        fpr_limit: largest false-alarm rate, in (0, 1].
        kwargs: arguments of `torchmetrics.Metric`.

    Raises:
        UserError: `fpr_limit` outside (0, 1].

    Source: `dmdd.metrics.functional.recall_at_fpr`.
    """

    def __init__(self, fpr_limit: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        functional.check_fpr_limit(fpr_limit)
        self.fpr_limit = fpr_limit

    def _estimate(self, steps: Steps) -> Estimate:
        return functional.recall_at_fpr(steps, self.fpr_limit)
