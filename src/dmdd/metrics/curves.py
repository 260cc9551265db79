"""ROC, precision-recall and per-region-overlap curves as a bounded number of points."""

from typing import NamedTuple

import numpy as np

from dmdd.core.errors import UserError
from dmdd.metrics.functional import Floats, Steps


class Curve(NamedTuple):
    """A curve's points in the order of descending thresholds.

    Args:
        x: (K,) float64 in [0, 1].
        y: (K,) float64 in [0, 1].
        threshold: (K,) float64, the point is that of `score >= threshold`; infinite for the empty prediction.
    """

    x: Floats
    y: Floats
    threshold: Floats


def roc_curve(steps: Steps, max_points: int = 1000) -> Curve:
    """Give the true-positive rate over the false-positive rate.

    Args:
        steps: cumulative counts, see `StepMetric.steps`.
        max_points: upper bound of the points, at least 2.

    Returns:
        From (0, 0) to (1, 1); no points where normal or anomalous pixels are missing. A point left out is within
        2 / (max_points - 1), measured along the curve, of one that was kept.

    Raises:
        UserError: `max_points` below 2.

    Source: ours.
    """
    return _curve(steps, steps.false_positive, steps.true_positive, max_points)


def pro_curve(steps: Steps, max_points: int = 1000) -> Curve:
    """Give the mean covered share of the anomalous regions over the false-positive rate.

    Args:
        steps: cumulative counts, see `StepMetric.steps`.
        max_points: upper bound of the points, at least 2.

    Returns:
        From (0, 0) to (1, 1), as `roc_curve`.

    Raises:
        UserError: `max_points` below 2.

    Source: the curve whose area is AUPRO, as the MVTec AD authors draw it.
    """
    return _curve(steps, steps.false_positive, steps.overlap, max_points)


def precision_recall_curve(steps: Steps, max_points: int = 1000) -> Curve:
    """Give the precision (y) over the recall (x).

    Args:
        steps: cumulative counts, see `StepMetric.steps`.
        max_points: upper bound of the points, at least 2.

    Returns:
        From the highest score to recall 1; the empty prediction has no precision and no point.

    Raises:
        UserError: `max_points` below 2.

    Source: ours.
    """
    _check(max_points)
    if not steps.has_both:
        return _NO_CURVE
    hits = steps.true_positive[1:]
    return _thinned(hits / steps.n_anomalous, hits / (hits + steps.false_positive[1:]), steps.threshold, max_points)


_NO_CURVE = Curve(np.zeros(0), np.zeros(0), np.zeros(0))


def _curve(steps: Steps, wrong: Floats, found: Floats, max_points: int) -> Curve:
    _check(max_points)
    if not steps.has_both:
        return _NO_CURVE
    return _thinned(wrong / wrong[-1], found / found[-1], np.append(np.inf, steps.threshold), max_points)


def _check(max_points: int) -> None:
    if max_points < 2:
        raise UserError(f"a curve needs at least 2 points, not {max_points}")


def _thinned(x: Floats, y: Floats, threshold: Floats, max_points: int) -> Curve:
    length = np.append(0.0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    if x.size <= max_points:
        return Curve(x, y, threshold)
    # Equal shares of the curve's length, not of its thresholds, which crowd where nothing happens. The last point of
    # a share is kept, so that the curve's last point is.
    share = np.ceil(length / length[-1] * (max_points - 1)).astype(np.int64).clip(max=max_points - 1)
    kept = np.append(share[1:] != share[:-1], True)
    return Curve(x[kept], y[kept], threshold[kept])
