"""How often the 95 % intervals hold the true value, by simulation.

    python benchmarks/coverage.py                        # image metrics: 3 sizes, 5 kinds of detector, 5 areas
    python benchmarks/coverage.py --pixels --sets 300    # pixel metrics of small maps with one level an image
    python benchmarks/coverage.py --sets 200 --shapes equal --aurocs 0.983

The true value is that of 800,000 images with the test set's share of anomalous ones. Of 1,000 test sets the share is
known within 1.4 points (two standard errors at 95 %).
"""

import argparse
import math
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray

from dmdd.metrics import (
    Interval,
    PixelBootstrap,
    bootstrap_image_metrics,
    image_intervals,
    percentile_interval,
    pixel_metrics,
)
from dmdd.metrics.bootstrap import weighted_image_metrics

Scores = NDArray[np.float64]
SIZES = ((12, 24), (60, 80), (20, 60))
SHAPES = ("equal", "wide", "narrow", "hidden", "outliers")
AUROCS = (0.75, 0.9, 0.97, 0.983, 0.995)
METRICS = ("image_auroc", "image_ap", "image_f1_max")
SPREADS = {"equal": 1.0, "wide": 2.5, "narrow": 0.4}
TRUTH_IMAGES = 400_000


def draw(shape: str, auroc: float, n_normal: int, n_anomalous: int, rng: np.random.Generator) -> tuple[Scores, Scores]:
    """Draw scores of normal and anomalous images.

    Both are normally distributed, the anomalous ones as widely, more widely or more narrowly. Or a share of the
    anomalous images look normal ("hidden"), or of the normal ones anomalous ("outliers"), and the others are far apart.
    """
    normal, anomalous = rng.normal(size=n_normal), rng.normal(size=n_anomalous)
    if shape in SPREADS:
        spread = SPREADS[shape]
        return normal, spread * anomalous + NormalDist().inv_cdf(auroc) * math.hypot(1, spread)
    lost = 2 * (1 - auroc)
    if shape == "hidden":
        return normal, np.where(rng.random(n_anomalous) < lost, anomalous, anomalous + 8)
    return np.where(rng.random(n_normal) < lost, normal + 8, normal), anomalous + 8


def true_values(shape: str, auroc: float, n_normal: int, n_anomalous: int) -> dict[str, float]:
    normal, anomalous = draw(shape, auroc, TRUTH_IMAGES, TRUTH_IMAGES, np.random.default_rng(99))
    labels = np.arange(2 * TRUTH_IMAGES) >= TRUTH_IMAGES
    weight = np.where(labels, n_anomalous, n_normal)[None] / TRUTH_IMAGES
    values = weighted_image_metrics(np.concatenate([normal, anomalous]).astype(np.float32), labels, weight)
    return {name: float(value[0]) for name, value in values.items()}


def coverage(
    shape: str,
    auroc: float,
    size: tuple[int, int],
    *,
    sets: int,
    resamples: int,
    seed: int = 0,
    percentiles: bool = False,
) -> dict[str, tuple[float, float]]:
    """Give the share of the intervals that hold the true value, and their mean width."""
    truth, rng = true_values(shape, auroc, *size), np.random.default_rng(seed)
    held, width = dict.fromkeys(METRICS, 0), dict.fromkeys(METRICS, 0.0)
    labels = torch.arange(sum(size)) >= size[0]
    for number in range(sets):
        scores = torch.from_numpy(np.concatenate(draw(shape, auroc, *size, rng)))
        if percentiles:
            samples = bootstrap_image_metrics(scores, labels, n_resamples=resamples, seed=number)
            intervals = {name: percentile_interval(values) for name, values in samples.items()}
        else:
            intervals = image_intervals(scores, labels, n_resamples=resamples, seed=number)
        for name in METRICS:
            held[name] += intervals[name].lower <= truth[name] <= intervals[name].upper
            width[name] += intervals[name].upper - intervals[name].lower
    return {name: (held[name] / sets, width[name] / sets) for name in METRICS}


def image_table(args: argparse.Namespace) -> None:
    lowest = dict.fromkeys(METRICS, 1.0)
    print("share of intervals that hold the true value, percent, and mean width: AUROC, AP, F1-max")
    for n_normal, n_anomalous in SIZES:
        for shape in args.shapes:
            for auroc in args.aurocs:
                row = coverage(
                    *(shape, auroc, (n_normal, n_anomalous)),
                    sets=args.sets,
                    resamples=args.resamples,
                    percentiles=args.percentiles,
                )
                cells = "   ".join(f"{100 * share:5.1f} {width:.3f}" for share, width in row.values())
                print(f"{n_normal:3} + {n_anomalous:2} {shape:9} {auroc:.3f}   {cells}", flush=True)
                lowest = {name: min(lowest[name], row[name][0]) for name in METRICS}
    print("lowest", {name: f"{100 * share:.1f}" for name, share in lowest.items()})


def draw_maps(n_normal: int, n_anomalous: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw maps of 16 x 16 pixels: noise around a level of the image, and a square that stands out by its own step."""
    count = n_normal + n_anomalous
    maps = rng.normal(size=(count, 16, 16)) + 0.7 * rng.normal(size=(count, 1, 1))
    masks = np.zeros(maps.shape, bool)
    for index in range(n_normal, count):
        top, left, side = (*rng.integers(0, 10, 2), int(rng.integers(2, 7)))
        masks[index, top : top + side, left : left + side] = True
        maps[index][masks[index]] += rng.exponential(4)
    return torch.from_numpy(maps.astype(np.float32)), torch.from_numpy(masks)


def measure_maps(maps: torch.Tensor, masks: torch.Tensor) -> dict[str, float]:
    metrics = pixel_metrics(exact=True)
    for first in range(0, len(maps), 500):
        metrics.update(maps[first : first + 500], masks[first : first + 500])
    return {name: float(value) for name, value in metrics.compute().items()}


def pixel_table(args: argparse.Namespace) -> None:
    """Pixel metrics: the true value is that of 100 times as many images."""
    for size in SIZES:
        truth = measure_maps(*draw_maps(*(100 * count for count in size), np.random.default_rng(99)))
        rng, held = np.random.default_rng(0), dict.fromkeys(truth, 0)
        for number in range(args.sets):
            maps, masks = draw_maps(*size, rng)
            bootstrap = PixelBootstrap(n_resamples=args.resamples, seed=number)
            bootstrap.update(maps, masks)
            intervals: dict[str, Interval] = bootstrap.intervals(measure_maps(maps, masks))
            for name, (lower, upper) in intervals.items():
                held[name] += lower <= truth[name] <= upper
        shares = "  ".join(f"{name} {100 * count / args.sets:.1f}" for name, count in held.items() if count)
        print(f"{size[0]} + {size[1]}  {shares}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=1000, help="test sets of each kind")
    parser.add_argument("--resamples", type=int, default=300)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=SHAPES)
    parser.add_argument("--aurocs", type=float, nargs="+", default=AUROCS)
    parser.add_argument("--percentiles", action="store_true", help="the percentile bootstrap instead, for comparison")
    parser.add_argument("--pixels", action="store_true", help="pixel metrics instead")
    args = parser.parse_args()
    pixel_table(args) if args.pixels else image_table(args)


if __name__ == "__main__":
    main()
