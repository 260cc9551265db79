"""Pixel metrics as functions of the bounded histograms: a value and the interval that must hold the exact one."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dmdd.core.errors import UserError
from dmdd.metrics.binning import bin_floors
from dmdd.metrics.histogram import ALL, MAX_REGIONS, REGION_WEIGHT

Floats = NDArray[np.float64]
# Rounding of the float64 arithmetic itself, far above what was ever seen (1e-15) and far below what a reader can use.
_ROUNDING = 1e-12


class Estimate(NamedTuple):
    """A metric's value with its certified interval.

    Args:
        value: in [0, 1], or NaN where the metric is undefined.
        lower: no smaller than this is the exact value.
        upper: no larger than this is the exact value.
        threshold: the score at which the value is reached (`score >= threshold` is anomalous); NaN for an area.
    """

    value: float
    lower: float
    upper: float
    threshold: float = math.nan


UNDEFINED = Estimate(math.nan, math.nan, math.nan)


class Steps(NamedTuple):
    """Cumulative counts over descending thresholds, K thresholds and the empty prediction before them.

    Args:
        threshold: (K,) float64, descending; the prediction is `score >= threshold`.
        false_positive: (K + 1,) float64, normal pixels at or above the threshold, first 0.
        true_positive: (K + 1,) float64, anomalous pixels at or above the threshold, first 0.
        overlap: (K + 1,) float64, mean over the regions of the covered share, first 0, last 1.
        overlap_error: the most by which rounded region weights can move an entry of `overlap`.
        tied: whether each step holds one score only, so that nothing is unknown within it.
    """

    threshold: Floats
    false_positive: Floats
    true_positive: Floats
    overlap: Floats
    overlap_error: float
    tied: bool

    @property
    def n_normal(self) -> float:
        """Number of normal pixels."""
        return float(self.false_positive[-1])

    @property
    def n_anomalous(self) -> float:
        """Number of anomalous pixels."""
        return float(self.true_positive[-1])

    @property
    def has_both(self) -> bool:
        """Whether there are normal and anomalous pixels, without which no area is defined."""
        return self.n_normal > 0 and self.n_anomalous > 0


def histogram_steps(histograms: Tensor, n_regions: int) -> Steps:
    """Accumulate the histograms from the highest score down.

    Args:
        histograms: (3, N_BINS) int64.
        n_regions: number of anomalous regions.

    Returns:
        One step for each bin that holds a pixel.

    Raises:
        UserError: more than `MAX_REGIONS` regions, whose weights could overflow.

    Source: ours.
    """
    if n_regions > MAX_REGIONS:
        raise UserError(f"{n_regions} anomalous regions, more than {MAX_REGIONS}; are the masks noise?")
    counts = histograms.cpu().numpy()
    bins = np.flatnonzero(counts[ALL])[::-1]
    counts = counts[:, bins]
    total, anomalous, overlap = (np.concatenate(([0], np.cumsum(row))) for row in counts)
    scale = max(1, n_regions) * REGION_WEIGHT
    return Steps(
        threshold=bin_floors(bins).astype(np.float64),
        false_positive=(total - anomalous).astype(np.float64),
        true_positive=anomalous.astype(np.float64),
        overlap=overlap / scale,
        overlap_error=0.5 * float(anomalous[-1]) / scale,
        tied=False,
    )


def auroc(steps: Steps) -> Estimate:
    """Compute the area under the ROC curve.

    Args:
        steps: cumulative counts of the test set.

    Returns:
        Area in [0, 1]; pixels of one bin count as tied for the value, and in the best and the worst order for the
        interval.

    Source: the probability that an anomalous pixel outscores a normal one; the interval is ours.
    """
    if not steps.has_both:
        return UNDEFINED
    normal, anomalous = np.diff(steps.false_positive), np.diff(steps.true_positive)
    above = steps.false_positive[:-1]
    pairs = steps.n_normal * steps.n_anomalous
    lower = _sum(anomalous * (steps.n_normal - above - normal)) / pairs
    upper = _sum(anomalous * (steps.n_normal - above)) / pairs
    return _estimate(steps, (lower + upper) / 2, lower, upper)


def average_precision(steps: Steps) -> Estimate:
    """Compute the average precision, the precision at each threshold weighted by the recall it adds.

    Args:
        steps: cumulative counts of the test set.

    Returns:
        Average precision in (0, 1]; the value takes the pixels of a bin as tied.

    Source: scikit-learn's definition; the interval is ours. Best order within a bin: its anomalous pixels first and
    tied. Worst: its normal pixels first, then the anomalous ones one by one, whose precisions (t + i) / (t + f + i)
    are bounded from below through sum 1 / (a + i) <= log((a + n + 1/2) / (a + 1/2)).
    """
    if not steps.has_both:
        return UNDEFINED
    found = np.diff(steps.true_positive)
    hit = found > 0
    found, before = found[hit], steps.true_positive[:-1][hit]
    wrong_before, wrong = steps.false_positive[:-1][hit], steps.false_positive[1:][hit]
    after = before + found
    value = _sum(found * after / (after + wrong))
    upper = _sum(found * after / (after + wrong_before))
    one_by_one = found - wrong * np.log1p(found / (before + wrong + 0.5))
    first_of_bin = found * (before + 1) / (before + 1 + wrong)  # tighter for few pixels, exact for one
    lower = _sum(np.maximum(one_by_one, first_of_bin))
    total = steps.n_anomalous
    return _estimate(steps, value / total, lower / total, upper / total)


def aupro(steps: Steps, fpr_limit: float = 0.3) -> Estimate:
    """Compute the normalised area under the per-region-overlap curve up to a false-positive rate.

    Args:
        steps: cumulative counts of the test set.
        fpr_limit: upper end of the integral, a false-positive rate in (0, 1].

    Returns:
        Area divided by `fpr_limit`, in [0, 1].

    Raises:
        UserError: `fpr_limit` outside (0, 1].

    Source: the MVTec AD authors' evaluation (every threshold, pooled over images, trapezoids, linear interpolation at
    the limit); the interval is ours: within a bin the curve is monotone between two known corners.
    """
    check_fpr_limit(fpr_limit)
    if not steps.has_both:
        return UNDEFINED
    limit = fpr_limit * steps.n_normal
    left, right = steps.false_positive[:-1], steps.false_positive[1:]
    low, high = steps.overlap[:-1], steps.overlap[1:]
    used = (left < limit) & (right > left)
    left, right, low, high = left[used], right[used], low[used], high[used]
    width = np.minimum(right, limit) - left
    at_end = low + (high - low) * (width / (right - left))
    value = _sum(width * (low + at_end)) / (2 * limit)
    lower, upper = _sum(width * low) / limit, _sum(width * high) / limit
    return _estimate(steps, value, lower - steps.overlap_error, upper + steps.overlap_error)


def check_fpr_limit(fpr_limit: float) -> None:
    """Refuse a false-positive rate that no integral can end at.

    Args:
        fpr_limit: upper end of the integral.

    Raises:
        UserError: `fpr_limit` outside (0, 1].

    Source: ours.
    """
    if not 0 < fpr_limit <= 1:
        raise UserError(f"fpr_limit must lie in (0, 1], not {fpr_limit}")


def f1_max(steps: Steps) -> Estimate:
    """Find the largest F1 score over all thresholds.

    Args:
        steps: cumulative counts of the test set.

    Returns:
        F1 in (0, 1], reached exactly by `score >= threshold`; a threshold inside a bin could reach at most `upper`.

    Source: common usage; the interval is ours.
    """
    if not steps.has_both:
        return UNDEFINED
    hits, wrong = steps.true_positive[1:], steps.false_positive
    f1 = 2 * hits / (hits + wrong[1:] + steps.n_anomalous)
    upper = 2 * hits / (hits + wrong[:-1] + steps.n_anomalous)
    best = int(np.argmax(f1))
    return _estimate(steps, float(f1[best]), float(f1[best]), float(upper.max()), float(steps.threshold[best]))


def iou_max(steps: Steps) -> Estimate:
    """Find the largest intersection over union of the anomalous pixels over all thresholds.

    Args:
        steps: cumulative counts of the test set.

    Returns:
        IoU in (0, 1], reached exactly by `score >= threshold`.

    Source: common usage; IoU = F1 / (2 - F1) grows with F1, so both are reached at one threshold.
    """
    best = f1_max(steps)
    value, lower, upper = (f1 / (2 - f1) for f1 in best[:3])
    return Estimate(value, lower, upper, best.threshold)


def recall_at_fpr(steps: Steps, fpr_limit: float) -> Estimate:
    """Find the largest recall that a false-positive rate allows.

    Args:
        steps: cumulative counts of the test set.
        fpr_limit: largest share of the normal ones at or above the threshold, in (0, 1].

    Returns:
        Recall in [0, 1], reached by `score >= threshold`; the threshold is infinite where every one lets too many
        normal ones pass. Nothing is interpolated: with fewer than `1 / fpr_limit` normal ones none may pass.

    Raises:
        UserError: `fpr_limit` outside (0, 1].

    Source: common usage; the threshold is the test set's own.
    """
    check_fpr_limit(fpr_limit)
    if not steps.has_both:
        return UNDEFINED
    # a limit of 0.29 of 100 is 28.999999999999996
    allowed = int(np.searchsorted(steps.false_positive, fpr_limit * steps.n_normal * (1 + 1e-9), side="right")) - 1
    recall = steps.true_positive / steps.n_anomalous
    upper = recall[min(allowed + 1, recall.size - 1)]
    threshold = float(steps.threshold[allowed - 1]) if allowed else math.inf
    return _estimate(steps, float(recall[allowed]), float(recall[allowed]), float(upper), threshold)


def _sum(terms: Floats) -> float:
    # correctly rounded, so the result does not depend on threads, vector width or machine
    return math.fsum(terms.tolist())


def _estimate(steps: Steps, value: float, lower: float, upper: float, threshold: float = math.nan) -> Estimate:
    if steps.tied:
        lower = upper = value
    lower = min(max(0.0, lower - _ROUNDING), 1.0)
    upper = min(max(0.0, upper + _ROUNDING), 1.0)
    return Estimate(min(max(value, lower), upper), lower, upper, threshold)
