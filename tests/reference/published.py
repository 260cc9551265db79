"""Slow figures of other tables that share nothing with `dmdd.metrics`: one prediction for each threshold, plain sums.

Written from the definitions in the papers: sPRO from Bergmann et al. (IJCV 2022), AUPIMO from Bertoldo et al. (BMVC
2024), the pooled overlap with 200 thresholds from the loop that ADer and others share.
"""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np

from reference.aupro import regions


def saturated_aupro(maps, channels, fpr_limit):
    """Area under min(found / saturation, 1), averaged over all defects, up to a false-positive rate, over that rate.

    `channels[i]` holds (mask, saturation) of each defect of image i; a pixel in none of them is normal.
    """
    normal = [
        np.logical_not(sum((mask for mask, _ in own), np.zeros(s.shape, bool)))
        for s, own in zip(maps, channels, strict=True)
    ]
    points = [(0, Fraction(0))]
    for threshold in sorted({float(score) for scores in maps for score in scores.ravel()}, reverse=True):
        predicted = [scores >= threshold for scores in maps]
        shares = [
            min(Fraction(int(np.sum(found & mask)), saturation), Fraction(1))
            for found, own in zip(predicted, channels, strict=True)
            for mask, saturation in own
        ]
        wrong = sum(int(np.sum(found & free)) for found, free in zip(predicted, normal, strict=True))
        points.append((wrong, sum(shares) / len(shares)))
    limit, area = Fraction(fpr_limit) * sum(int(free.sum()) for free in normal), Fraction(0)
    for (x0, y0), (x1, y1) in pairwise(points):
        if x1 > x0 and x0 < limit:
            end = min(Fraction(x1), limit)
            y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
            area += (end - x0) * (y0 + y_end) / 2
    return float(area / limit)


def aupimo(maps, masks, low, high):
    """Mean over the anomalous images of the integral over log(rate) of the recall, as a step function of the rate."""
    normal = np.concatenate([scores.ravel() for scores, mask in zip(maps, masks, strict=True) if not mask.any()])
    areas = []
    for scores, mask in zip(maps, masks, strict=True):
        if not mask.any():
            continue
        found = scores[mask == 1]
        # the rates at which a lower threshold becomes possible, and the largest recall from there on
        steps = [(0.0, float(np.mean(found > normal.max())))]
        for threshold in sorted({float(score) for score in normal}, reverse=True):
            below = normal[normal < threshold]
            recall = np.mean(found > below.max()) if below.size else 1.0
            steps.append((float(np.mean(normal >= threshold)), float(recall)))
        area = 0.0
        for (rate, recall), (following, _) in pairwise([*steps, (math.inf, 1.0)]):
            start, end = min(max(rate, low), high), min(max(following, low), high)
            area += recall * (math.log(end) - math.log(start))
        areas.append(area / (math.log(high) - math.log(low)))
    return sum(areas) / len(areas)


def pooled_200(maps, masks):
    """The loop over 200 linear thresholds; rates below 0.3 are stretched to [0, 1]."""
    maps, masks = np.asarray(maps, dtype=np.float64), np.asarray(masks)
    low, high = maps.min(), maps.max()
    points = []
    for step in range(200):
        predicted = maps > low + step * (high - low) / 200
        overlaps = [
            np.mean([predicted[index][pixel] for pixel in region])
            for index, mask in enumerate(masks)
            for region in regions(mask)
        ]
        points.append((np.sum(predicted & (masks == 0)) / np.sum(masks == 0), np.mean(overlaps)))
    points = [(rate, overlap) for rate, overlap in points if rate < 0.3]
    least, largest = min(rate for rate, _ in points), max(rate for rate, _ in points)
    return sum((x0 - x1) / (largest - least) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(points))


def recall_at(scores, labels, rate):
    """Largest share of the anomalous images found by a threshold that at most a share of the normal ones reaches."""
    normal = [score for score, label in zip(scores, labels, strict=True) if not label]
    anomalous = [score for score, label in zip(scores, labels, strict=True) if label]
    best = Fraction(0)
    for threshold in [*scores, math.inf]:
        if Fraction(sum(score >= threshold for score in normal), len(normal)) <= Fraction(str(rate)):
            best = max(best, Fraction(sum(score >= threshold for score in anomalous), len(anomalous)))
    return float(best)
