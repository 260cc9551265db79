"""The exported file against the detector it came from: differences, metrics, time."""

import statistics
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torchmetrics import MetricCollection

from dmdd.core.resize import resize_images, resize_masks
from dmdd.deploy.bench.speed import time_runs
from dmdd.deploy.export.sources import Example
from dmdd.deploy.runtimes import Run
from dmdd.metrics import AUPRO, PixelAUROC, image_metrics

SIDES = ("torch", "exported")
TIMED_IMAGES = 20


class _Metrics:
    """Pixel AUROC, AUPRO and image AUROC of one side, by the protocol of ``dmdd.evaluate``."""

    def __init__(self) -> None:
        self.pixels = MetricCollection(
            {"pixel_auroc": PixelAUROC(), "aupro_30": AUPRO(0.3)}, compute_groups=[["pixel_auroc", "aupro_30"]]
        )
        self.images = image_metrics()
        self.has_pixels = self.has_images = False

    def update(self, outputs: dict[str, np.ndarray], example: Example) -> None:
        if example.label is not None:
            self.has_images = True
            self.images.update(torch.tensor(outputs["score"]), torch.tensor([example.label]))
        if example.mask is not None:
            self.has_pixels = True
            # Tiles have no map at the input size; theirs are compared at the images' own.
            maps = torch.tensor(outputs["raw"] if "raw" in outputs else outputs["map"])[:, None]
            mask = torch.from_numpy(example.mask)[None, None]
            self.pixels.update(maps, resize_masks(mask, (maps.shape[2], maps.shape[3])))

    def compute(self) -> dict[str, float]:
        values = self.pixels.compute() if self.has_pixels else {}
        if self.has_images:
            values["image_auroc"] = self.images.compute()["image_auroc"]
        return {name: float(value) for name, value in values.items() if not np.isnan(float(value))}


def compare(
    reference: Run,
    exported: Run,
    examples: Iterable[Example],
    *,
    input_size: tuple[int, int],
    tolerance: float,
    threshold: float | None,
) -> dict[str, Any]:
    """Run both on the same images.

    Where an image differs by more than ``tolerance``, both are run again on that image resized beforehand, so that both
    networks see the same pixels: in the resize, a value within float32 rounding of a half may become either of two grey
    levels, in about one of 100000, and that is not an error of the export.

    Args:
        reference: The detector in PyTorch.
        exported: The file in its runtime.
        examples: Images, with labels and masks where they are known.
        input_size: Height and width the networks see, in pixels.
        tolerance: Difference above which an image is run again.
        threshold: Image threshold of the calibration, to count verdicts that change; None if there is none.

    Returns:
        Plain JSON values: ``images`` their number, ``difference`` of ``map`` and ``score`` (largest and mean
        absolute, in map units), ``decisive`` the largest difference without that of rounding, but at least a tenth of
        ``difference``, ``verdicts_changed``, ``metrics`` of both where labels are known,
        ``latency_ms`` (median, batch 1).
    """
    runs = dict(zip(SIDES, (reference, exported), strict=True))
    metrics = {side: _Metrics() for side in SIDES}
    timed: list[np.ndarray] = []
    maps: list[tuple[float, float]] = []
    scores: list[float] = []
    decisive: list[float] = []
    changed = 0
    for example in examples:
        if len(timed) < TIMED_IMAGES:
            timed.append(example.image[None])
        outputs = {side: run(example.image[None]) for side, run in runs.items()}
        for side in SIDES:
            metrics[side].update(outputs[side], example)
        first, second = (outputs[side] for side in SIDES)
        maps.append(_map_difference(first, second))
        scores.append(_score_difference(first, second))
        decisive.append(max(maps[-1][0], scores[-1]))
        if decisive[-1] > tolerance:
            resized = resize_images(torch.tensor(example.image).permute(2, 0, 1)[None], input_size)
            first, second = (run(resized.permute(0, 2, 3, 1).contiguous().numpy()) for run in runs.values())
            again = max(_map_difference(first, second)[0], _score_difference(first, second))
            decisive[-1] = max(again, decisive[-1] / 10)
            first, second = (outputs[side] for side in SIDES)
        if threshold is not None:
            changed += (first["score"][0] >= threshold) != (second["score"][0] >= threshold)
    report: dict[str, Any] = {
        "images": len(scores),
        "difference": {
            "map": {"max": max(top for top, _ in maps), "mean": statistics.fmean(mean for _, mean in maps)},
            "score": {"max": max(scores), "mean": statistics.fmean(scores)},
        },
        "decisive": max(decisive) if not np.isnan(decisive).any() else float("nan"),
        # After the loop, not in it: the threads of one runtime wait busily after a run and slow the other.
        "latency_ms": {side: round(_latency(run, timed), 2) for side, run in runs.items()},
    }
    if threshold is not None:
        report["verdicts_changed"] = int(changed)
    if found := {side: values for side in SIDES if (values := metrics[side].compute())}:
        report["metrics"] = found
    return report


def _map_difference(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> tuple[float, float]:
    difference = np.abs(first["map"] - second["map"])
    return float(difference.max()), float(difference.mean())


def _score_difference(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> float:
    """Compare raw scores: how steep the scale for people is says nothing of the export."""
    name = "raw_score" if "raw_score" in first else "score"
    return abs(float(first[name][0]) - float(second[name][0]))


def _latency(run: Run, images: list[np.ndarray]) -> float:
    return statistics.median(time_runs(partial(run, image), 1)[0] for image in images)


def print_comparison(report: dict[str, Any]) -> None:
    """Print the comparison as tables.

    Args:
        report: As :func:`compare` gives it, with ``file``, ``format``, ``precision`` and ``compared_on``.
    """
    console = Console()
    table = Table(title=f"{report['format']} {report['precision']} against PyTorch, {report['images']} images")
    for name, title in (("", ""), ("max", "largest difference"), ("mean", "mean difference")):
        table.add_column(title, justify="right" if name else "left")
    for name in ("map", "score"):
        row = report["difference"][name]
        table.add_row(name, f"{row['max']:.2e}", f"{row['mean']:.2e}")
    console.print(table)
    sides = Table()
    metrics = report.get("metrics", {})
    titles = {"pixel_auroc": "pixel AUROC %", "aupro_30": "AUPRO@0.3 %", "image_auroc": "image AUROC %"}
    known = [name for name in titles if name in metrics.get(SIDES[0], {})]
    for title in ("", *(titles[name] for name in known), "ms an image"):
        sides.add_column(title, justify="right" if title else "left")
    for side in SIDES:
        values = [f"{100 * metrics[side][name]:.2f}" for name in known]
        sides.add_row(side, *values, f"{report['latency_ms'][side]:.1f}")
    console.print(sides)
    if "verdicts_changed" in report:
        console.print(f"verdicts changed at the image threshold: {report['verdicts_changed']}")
    console.print(f"compared on {report['compared_on']}", soft_wrap=True)
