"""Exact pixel metrics: every score kept, every distinct score a threshold, float64 sums."""

import numpy as np
from numpy.typing import NDArray

from dmdd.metrics.functional import Floats, Steps


def exact_steps(
    normal: NDArray[np.float32], anomalous: NDArray[np.float32], region_size: NDArray[np.int64], n_regions: int
) -> Steps:
    """Accumulate the counts at every distinct score.

    Args:
        normal: (N,) scores of the normal pixels, finite; sorted in place.
        anomalous: (P,) scores of the anomalous pixels, finite.
        region_size: (P,) pixels of the region that each anomalous pixel belongs to.
        n_regions: number of anomalous regions.

    Returns:
        The corners of the exact curves, from which the functions of `dmdd.metrics.functional` give the exact value.
        Thresholds between two anomalous scores only move along a straight horizontal run, which no area, precision or
        maximum notices, so two steps for each distinct anomalous score are enough.

    Source: ours. Only the normal scores themselves are sorted; nothing is carried along with them.
    """
    normal.sort()
    # By score, then by size: the order in which pixels arrived must not change the last bit of a sum.
    order = np.lexsort((region_size, anomalous))[::-1]
    anomalous, region_size = anomalous[order], region_size[order]
    last = np.flatnonzero(np.append(anomalous[1:] != anomalous[:-1], True)[: anomalous.size])
    scores = anomalous[last]

    above = normal.size - np.searchsorted(normal, scores, side="right")
    at_or_above = normal.size - np.searchsorted(normal, scores, side="left")
    overlap = np.cumsum(1.0 / region_size)[last] / max(1, n_regions)
    overlap[-1:] = 1.0

    # Corners in pairs: all normal scores above an anomalous score, then that score with its ties.
    wrong = _corners(above, at_or_above, normal.size)
    found = _corners(_previous(last + 1), last + 1, anomalous.size)
    covered = _corners(_previous(overlap), overlap, float(anomalous.size > 0))
    # the lowest normal score above; where there is none the corner is dropped, whatever it says
    lowest = normal.take(normal.size - above, mode="clip") if normal.size else scores
    threshold = _corners(lowest, scores, normal[0] if normal.size else 0)[1:]
    moved = (np.diff(wrong) > 0) | (np.diff(found) > 0)
    kept = np.append(True, moved)
    return Steps(
        threshold=threshold[moved],
        false_positive=wrong[kept],
        true_positive=found[kept],
        overlap=covered[kept],
        overlap_error=0.0,
        tied=True,
    )


def _previous(values: NDArray[np.generic]) -> Floats:
    return np.concatenate((np.zeros(min(1, values.size)), values[:-1]))


def _corners(first: NDArray[np.generic], second: NDArray[np.generic], end: float) -> Floats:
    pairs = np.column_stack((first, second)).astype(np.float64).ravel()
    return np.concatenate(([0.0], pairs, [end]))
