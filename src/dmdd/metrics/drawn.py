"""The pixel metrics of many drawn test sets at once, coarser than `dmdd.metrics.functional` and vectorised."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from dmdd.metrics.functional import Floats
from dmdd.metrics.pimo import FPR_BOUNDS, credit
from dmdd.metrics.pooled_200 import area_of_points, linear_thresholds

AUPRO_LIMITS = {"aupro_30": 0.3, "aupro_5": 0.05}


class Counts(NamedTuple):
    """What the metrics of R test sets are made of, in C columns of descending scores.

    Args:
        normal: (R, C) normal pixels.
        anomalous: (R, C) anomalous pixels.
        overlap: (R, C) anomalous pixels, each counted as its share of a region.
        normal_images: (R, C) pixels of the normal images.
        recall: (R, C) anomalous pixels, each counted as its share of the anomalous pixels of its image.
        regions: (R,) anomalous regions.
        images: (R,) anomalous images.
    """

    normal: Floats
    anomalous: Floats
    overlap: Floats
    normal_images: Floats
    recall: Floats
    regions: Floats
    images: Floats

    def split(self, size: int) -> Iterator["Counts"]:
        """Give the test sets in parts."""
        for first in range(0, len(self.regions), size):
            yield Counts(*(part[first : first + size] for part in self))


def pixel_values(counts: Counts, scores: Floats, threshold: float | None = None) -> dict[str, Floats]:
    """Compute the pixel metrics of each test set.

    Args:
        counts: of the test sets.
        scores: (C,) the lowest score of each column, descending.
        threshold: of `pixel_f1`; None leaves it out.

    Returns:
        (R,) values by name; NaN where undefined. The pixels of a column count as tied.

    Source: the definitions of `dmdd.metrics.functional`, `pimo` and `pooled_200`.
    """
    wrong, found = np.cumsum(counts.normal, axis=1), np.cumsum(counts.anomalous, axis=1)
    n_normal, n_anomalous = wrong[:, -1:], found[:, -1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        area = (counts.anomalous * (2 * n_normal - 2 * wrong + counts.normal)).sum(axis=1)
        precision = found / np.maximum(found + wrong, np.finfo(float).tiny)
        all_f1 = 2 * found / (found + wrong + n_anomalous)
        f1 = all_f1.max(axis=1)
        values = {
            "pixel_auroc": area / (2 * n_normal * n_anomalous)[:, 0],
            "pixel_ap": (counts.anomalous * precision).sum(axis=1) / n_anomalous[:, 0],
            "pixel_f1_max": f1,
            "pixel_iou_max": f1 / (2 - f1),
            "aupimo": _aupimo(counts),
            "aupro_pooled_200": _pooled_200(counts, scores),
        }
        if threshold is not None:
            above = int((scores >= threshold).sum())
            values["pixel_f1"] = all_f1[:, above - 1] if above else np.zeros(len(f1))
        for name, limit in AUPRO_LIMITS.items():
            values[name] = aupro(counts.normal, counts.overlap, counts.regions, limit)
    undefined = (n_normal[:, 0] == 0) | (n_anomalous[:, 0] == 0)
    return {name: np.where(undefined, np.nan, value) for name, value in values.items()}


def aupro(normal: Floats, overlap: Floats, regions: Floats, fpr_limit: float) -> Floats:
    """Compute the normalised area under the per-region-overlap curve of each test set.

    Args:
        normal: (R, C) normal pixels by column.
        overlap: (R, C) covered shares of regions by column.
        regions: (R,) number of regions.
        fpr_limit: upper end of the integral, in (0, 1].

    Returns:
        (R,) areas in [0, 1]; NaN without regions or normal pixels.

    Source: `dmdd.metrics.functional.aupro`.
    """
    right = np.cumsum(normal, axis=1)
    limit = fpr_limit * right[:, -1:]
    width = np.clip(limit - (right - normal), 0, normal)
    with np.errstate(invalid="ignore", divide="ignore"):
        high = np.cumsum(overlap, axis=1) / regions[:, None]
        rise = overlap / regions[:, None]
        inside = np.where(normal > 0, width / normal, 0)
        return (width * (high - rise + rise * inside / 2)).sum(axis=1) / limit[:, 0]


def _aupimo(counts: Counts) -> Floats:
    rate = np.cumsum(counts.normal_images, axis=1)
    return (counts.recall * credit(rate / rate[:, -1:], FPR_BOUNDS)).sum(axis=1) / counts.images


def _pooled_200(counts: Counts, scores: Floats) -> Floats:
    above = np.searchsorted(-scores, -linear_thresholds(float(scores[-1]), float(scores[0])), side="left")
    wrong, covered = (np.pad(np.cumsum(c, axis=1), ((0, 0), (1, 0))) for c in (counts.normal, counts.overlap))
    rates, overlaps = wrong[:, above] / wrong[:, -1:], covered[:, above] / counts.regions[:, None]
    return np.array([area_of_points(x, y) for x, y in zip(rates, overlaps, strict=True)])
