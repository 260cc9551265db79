"""How good the decisions at one threshold are: precision, recall, F1, balanced accuracy."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from dmdd.core.errors import UserError
from dmdd.metrics.intervals import Interval, wilson_interval


class Decisions(NamedTuple):
    """Counts of images at a threshold.

    Args:
        true_positive: anomalous images that are found.
        false_positive: normal images that are rejected.
        false_negative: anomalous images that pass.
        true_negative: normal images that pass.
    """

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int


def decide(scores: Tensor, labels: Tensor, threshold: float) -> Decisions:
    """Count the decisions at a threshold.

    Args:
        scores: (I,) image scores.
        labels: (I,) 0 normal and 1 anomalous.
        threshold: `score >= threshold` is found; it comes from held-out normal images, never from the test set.

    Returns:
        The four counts.

    Raises:
        UserError: shapes differ.

    Source: ours.
    """
    if scores.shape != labels.shape:
        raise UserError(f"{tuple(scores.shape)} scores but {tuple(labels.shape)} labels")
    found, anomalous = scores >= threshold, labels == 1
    kinds = (found & anomalous, found & ~anomalous, ~found & anomalous, ~found & ~anomalous)
    return Decisions(*(int(kind.sum()) for kind in kinds))


def decision_figures(decisions: Decisions) -> dict[str, float]:
    """Compute the figures of the decisions at a threshold.

    Args:
        decisions: the counts.

    Returns:
        `image_precision`, `image_recall`, `image_f1`, `image_balanced_accuracy` and `image_false_alarm_rate`, each in
        [0, 1]; NaN where a denominator is 0. Precision is NaN too where the images are all normal or all anomalous:
        it would be 0 or 1 whatever the detector does.

    Source: common usage. Balanced accuracy is the mean of the recall and of the share of normal images that pass.
    """
    found, wrong, missed, passed = decisions
    both = found + missed and wrong + passed
    return {
        "image_precision": _share(found, found + wrong) if both else math.nan,
        "image_recall": _share(found, found + missed),
        "image_f1": _share(2 * found, 2 * found + wrong + missed) if found + missed else math.nan,
        "image_balanced_accuracy": (_share(found, found + missed) + _share(passed, passed + wrong)) / 2,
        "image_false_alarm_rate": _share(wrong, wrong + passed),
    }


def decision_intervals(decisions: Decisions) -> dict[str, Interval]:
    """Compute the 95 % intervals of `decision_figures` over the choice of test images.

    Args:
        decisions: the counts.

    Returns:
        The intervals by name; what is undefined is absent. For recall and false-alarm rate Wilson's; a figure that
        depends on both moves by as much as each of them does alone, joined as independent (square-and-add).

    Source: Wilson (1927); Newcombe (1998) for the joining.
    """
    found, wrong, missed, passed = decisions
    if not found + missed or not wrong + passed:
        return {}
    n_anomalous, n_normal = found + missed, wrong + passed
    recall, alarms = found / n_anomalous, wrong / n_normal
    of_recall, of_alarms = wilson_interval(recall, n_anomalous), wilson_interval(alarms, n_normal)

    def joined(figure: Callable[[float, float], float]) -> Interval:
        # each figure grows with the recall and falls with the rate of false alarms
        value = figure(recall, alarms)
        low = (figure(of_recall.lower, alarms), figure(recall, of_alarms.upper))
        high = (figure(of_recall.upper, alarms), figure(recall, of_alarms.lower))
        return Interval(max(0.0, value - _length(value, low)), min(1.0, value + _length(value, high)))

    intervals = {
        "image_recall": of_recall,
        "image_false_alarm_rate": of_alarms,
        "image_balanced_accuracy": joined(lambda r, a: (r + 1 - a) / 2),
        "image_f1": joined(lambda r, a: 2 * r * n_anomalous / (r * n_anomalous + a * n_normal + n_anomalous)),
    }
    if found:
        intervals["image_precision"] = joined(lambda r, a: r * n_anomalous / (r * n_anomalous + a * n_normal))
    return intervals


def _length(value: float, ends: Iterable[float]) -> float:
    return math.sqrt(sum((value - end) ** 2 for end in ends))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


class PixelDecisions(Metric):
    """F1 of the anomalous pixels at a threshold that is fixed beforehand.

    Args:
        threshold: `score >= threshold` is found; it comes from held-out normal images, never from the test set. May be
            set until the first update.
        kwargs: arguments of `torchmetrics.Metric`.

    Source: the segmentation F1 of MVTec AD 2 (Heckler-Kram et al., 2025); its authors take the mean of the validation
    maps plus three standard deviations for the threshold, a run here the calibrated one.
    """

    full_state_update = False
    is_differentiable = False

    counts: Tensor

    def __init__(self, threshold: float = math.inf, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold
        self.add_state("counts", torch.zeros(3, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Add a batch.

        Args:
            maps: (B, H, W) or (B, 1, H, W), floating.
            masks: same shape, bool or numbers 0 and 1.
        """
        found, anomalous = maps >= self.threshold, masks == 1
        self.counts += torch.stack([(found & anomalous).sum(), found.sum(), anomalous.sum()]).to(self.counts.device)

    def compute(self) -> Tensor:
        """Compute `2 tp / (tp + fp + P)` over everything seen: a float64 scalar, NaN without anomalous pixels."""
        hits, found, anomalous = self.counts.tolist()
        return torch.tensor(_share(2 * hits, found + anomalous) if anomalous else math.nan, dtype=torch.float64)


class ImageDecisions(Metric):
    """Figures of the decisions at a threshold, see `decision_figures`.

    Args:
        threshold: `score >= threshold` is found; it comes from held-out normal images, never from the test set.
        kwargs: arguments of `torchmetrics.Metric`.

    Source: ours.
    """

    full_state_update = False
    is_differentiable = False

    counts: Tensor

    def __init__(self, threshold: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold
        self.add_state("counts", torch.zeros(4, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            scores: (B,) image scores.
            labels: (B,) 0 normal and 1 anomalous.

        Raises:
            UserError: shapes differ.
        """
        self.counts += torch.tensor(decide(scores, labels, self.threshold), device=self.counts.device)

    def compute(self) -> dict[str, Tensor]:
        """Compute the figures over everything seen.

        Returns:
            float64 scalars by name, NaN where undefined.
        """
        figures = decision_figures(self.decisions())
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in figures.items()}

    def decisions(self) -> Decisions:
        """Give the counts of what this process has seen."""
        return Decisions(*self.counts.tolist())
