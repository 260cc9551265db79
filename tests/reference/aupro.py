"""Slow metrics that share nothing with `dmdd.metrics`: flood fill, one prediction for each threshold, plain sums.

Written from the definitions in the papers. Everything is a Python number or a Fraction; a few hundred pixels take a
second.
"""

from fractions import Fraction
from itertools import pairwise

import numpy as np

NEIGHBOURS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


def regions(mask):
    """8-connected regions of one mask as lists of pixels, by flood fill."""
    todo = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}
    found = []
    while todo:
        region, front = [], [todo.pop()]
        while front:
            y, x = front.pop()
            region.append((y, x))
            for dy, dx in NEIGHBOURS:
                if (y + dy, x + dx) in todo:
                    todo.remove((y + dy, x + dx))
                    front.append((y + dy, x + dx))
        found.append(sorted(region))
    return found


def curve_points(maps, masks):
    """(false positives, true positives, mean overlap) of every distinct threshold, the empty prediction first."""
    maps = np.asarray(maps, dtype=np.float64)
    all_regions = [(index, region) for index, mask in enumerate(masks) for region in regions(mask)]
    points = [(0, 0, Fraction(0))]
    for threshold in sorted(set(maps.ravel().tolist()), reverse=True):
        predicted = maps >= threshold
        wrong = int(np.sum(predicted & (np.asarray(masks) == 0)))
        found = int(np.sum(predicted & (np.asarray(masks) == 1)))
        overlap = sum(
            Fraction(sum(int(predicted[index][pixel]) for pixel in region), len(region))
            for index, region in all_regions
        )
        points.append((wrong, found, overlap / max(1, len(all_regions))))
    return points


def aupro(maps, masks, fpr_limit):
    """Normalised area under the overlap curve up to `fpr_limit`, a trapezoid cut at the limit."""
    points = curve_points(maps, masks)
    limit = Fraction(fpr_limit) * points[-1][0]
    area = Fraction(0)
    for (x0, _, y0), (x1, _, y1) in pairwise(points):
        if x1 > x0 and x0 < limit:
            end = min(Fraction(x1), limit)
            y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
            area += (end - x0) * (y0 + y_end) / 2
    return float(area / limit)


def auroc(maps, masks):
    """Share of (anomalous, normal) pairs in the right order, ties half."""
    values, labels = np.asarray(maps, dtype=np.float64).ravel(), np.asarray(masks).ravel()
    anomalous, normal = values[labels == 1], values[labels == 0]
    wins = sum(int(np.sum(a > normal)) + Fraction(int(np.sum(a == normal)), 2) for a in anomalous)
    return float(Fraction(wins) / (len(anomalous) * len(normal)))


def average_precision(maps, masks):
    """Precision at every threshold times the recall that it adds."""
    points = curve_points(maps, masks)
    total = Fraction(0)
    for (_, before, _), (wrong, found, _) in pairwise(points):
        total += Fraction(found - before, points[-1][1]) * Fraction(found, found + wrong)
    return float(total)


def f1_max(maps, masks):
    """Largest F1 over the thresholds."""
    points = curve_points(maps, masks)
    return float(max(Fraction(2 * found, wrong + found + points[-1][1]) for wrong, found, _ in points[1:]))


def iou_max(maps, masks):
    """Largest intersection over union over the thresholds."""
    points = curve_points(maps, masks)
    return float(max(Fraction(found, wrong + points[-1][1]) for wrong, found, _ in points[1:]))


def overlap_200(scores, mask):
    """One image's overlap area with 200 linear thresholds and no interpolation, rates below 0.3 stretched to 1."""
    scores = np.asarray(scores, dtype=np.float64)
    low, high = scores.min(), scores.max()
    points = []
    for step in range(200):
        predicted = scores > low + step * (high - low) / 200
        overlap = np.mean([np.mean([predicted[pixel] for pixel in region]) for region in regions(mask)])
        points.append((np.sum(predicted & (mask == 0)) / np.sum(mask == 0), overlap))
    points = [point for point in points if point[0] < 0.3]
    largest = max(rate for rate, _ in points)
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        area += (x0 - x1) / largest * (y0 + y1) / 2
    return area
