"""The pooled overlap metric with 200 linear thresholds, for comparison with many published tables."""

import numpy as np

from dmdd.metrics.functional import UNDEFINED, Estimate, Floats, Steps
from dmdd.metrics.pixel import PixelMetric

N_THRESHOLDS = 200
FPR_LIMIT = 0.3


def linear_thresholds(lowest: float, highest: float) -> Floats:
    """Give 200 thresholds from the lowest score on, at equal distances and below the highest.

    Args:
        lowest: smallest score of all images.
        highest: largest score of all images.

    Returns:
        (200,) float64, ascending.

    Source: `cal_pro_score` of the ADer code, with numbers in place of repeated sums.
    """
    return lowest + np.arange(N_THRESHOLDS, dtype=np.float64) * ((highest - lowest) / N_THRESHOLDS)


def area_of_points(rate: Floats, overlap: Floats) -> float:
    """Compute the area under points whose false-positive rates are stretched to [0, 1].

    Args:
        rate: (K,) false-positive rates.
        overlap: (K,) mean overlaps of the regions; both in one order of the thresholds.

    Returns:
        Area in [0, 1] of the points with a rate below 0.3, by trapezoids; nothing is interpolated at the limit. The
        largest overlap where all rates are equal; NaN where no rate is below the limit.

    Source: `cal_pro_score` of the ADer code, which divides 0 by 0 where all rates are equal.
    """
    kept = rate < FPR_LIMIT
    rate, overlap = rate[kept], overlap[kept]
    if not rate.size:
        return float("nan")
    width = rate.max() - rate.min()
    if width == 0:
        return float(overlap.max())
    area = np.sum(np.abs(np.diff(rate)) * (overlap[1:] + overlap[:-1])) / (2 * width)
    return float(min(1.0, area))


class AUPROPooled200(PixelMetric):
    """Area under the pooled per-region-overlap curve with 200 thresholds, as many published tables have it.

    Args:
        exact: see `PixelMetric`; without it a threshold lies within a bin of where it should, and there is no certified
            interval.
        kwargs: arguments of `torchmetrics.Metric`.

    Source: `cal_pro_score` of the ADer code, shared by many others. It finds other values than `AUPRO(0.3)`: nothing is
    interpolated at the limit, the rates are stretched to 1, and few of 200 linear thresholds fall where scores are low.
    """

    def _estimate(self, steps: Steps) -> Estimate:
        if not steps.has_both:
            return UNDEFINED
        if self.exact:
            rate, overlap = self._exact_points()
        else:
            lowest, highest = float(steps.threshold[-1]), float(steps.threshold[0])
            at = np.searchsorted(-steps.threshold, -linear_thresholds(lowest, highest), side="left")
            rate, overlap = steps.false_positive[at] / steps.n_normal, steps.overlap[at]
        area = area_of_points(rate, overlap)
        return Estimate(area, area, area)

    def _exact_points(self) -> tuple[Floats, Floats]:
        normal, anomalous = (np.sort(self._kept(f"{kind}_scores")) for kind in ("normal", "anomalous"))
        order = np.lexsort((self._kept("region_sizes"), self._kept("anomalous_scores")))
        share = np.append(0.0, np.cumsum(1 / self._kept("region_sizes")[order])) / int(self.n_regions)
        low, high = min(normal[0], anomalous[0]), max(normal[-1], anomalous[-1])
        thresholds = linear_thresholds(float(low), float(high))
        wrong = normal.size - np.searchsorted(normal, thresholds, side="right")
        return wrong / normal.size, share[-1] - share[np.searchsorted(anomalous, thresholds, side="right")]
