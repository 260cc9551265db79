"""Charts of a run: the test's curves with the operating point, and the losses of both stages."""

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from dmdd.core.files import write_atomically
from dmdd.metrics import Curve

DOTS_PER_INCH = 110


class Axes(NamedTuple):
    """How a curve is drawn: its figure of merit, and the threshold whose point is marked."""

    title: str
    metric: str
    metric_title: str
    x_label: str
    y_label: str
    threshold: str
    x_limit: float = 1.0


CURVE_AXES = {
    "image_roc": Axes(
        "Image ROC", "image_auroc", "AUROC", "false-positive rate", "true-positive rate", "image_threshold"
    ),
    "image_pr": Axes("Image precision-recall", "image_ap", "AP", "recall", "precision", "image_threshold"),
    "pixel_roc": Axes(
        "Pixel ROC", "pixel_auroc", "AUROC", "false-positive rate", "true-positive rate", "pixel_threshold"
    ),
    "pixel_pr": Axes("Pixel precision-recall", "pixel_ap", "AP", "recall", "precision", "pixel_threshold"),
    "pro": Axes(
        "Per-region overlap", "aupro_30", "AUPRO@0.3", "false-positive rate", "mean overlap", "pixel_threshold", 0.3
    ),
}


def operating_point(curve: Curve, threshold: float | None) -> tuple[float, float] | None:
    """Find the point of a curve at a threshold.

    Args:
        curve: In the order of descending thresholds.
        threshold: ``score >= threshold`` is anomalous; None where there is none.

    Returns:
        The nearest point that was kept; None without a threshold, or where nothing reaches it.
    """
    if threshold is None or not (reached := np.flatnonzero(curve.threshold >= threshold)).size:
        return None
    return float(curve.x[reached[-1]]), float(curve.y[reached[-1]])


def write_curves(
    folder: Path, curves: Mapping[str, Curve], *, metrics: Mapping[str, float], thresholds: Mapping[str, Any]
) -> None:
    """Write the test curves as data and as a chart: ``curves.json`` and ``curves.png``.

    Args:
        folder: Where to.
        curves: By name, see ``CURVE_AXES``.
        metrics: Of the test by name; the title of a curve says its own.
        thresholds: ``image_threshold`` and ``pixel_threshold``, whose points are marked; absent or None where unknown.
    """
    if not curves:
        return
    points = {name: {"x": curve.x.round(6).tolist(), "y": curve.y.round(6).tolist()} for name, curve in curves.items()}
    write_atomically(folder / "curves.json", json.dumps(points) + "\n")
    figure = Figure(figsize=(3.4 * len(curves), 3.6), layout="constrained")
    for axes, (name, curve) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        drawn = CURVE_AXES[name]
        value = f": {drawn.metric_title} {metrics[drawn.metric]:.4f}" if drawn.metric in metrics else ""
        axes.plot(curve.x, curve.y, linewidth=1.5)
        point = operating_point(curve, thresholds.get(drawn.threshold))
        if point is not None and point[0] <= drawn.x_limit:
            axes.plot(
                *point, "o", color="tab:red", clip_on=False, label=f"at the threshold: {point[0]:.3f}, {point[1]:.3f}"
            )
            axes.legend(loc="lower right" if name != "pixel_pr" else "lower left", fontsize="small")
        axes.set_title(f"{drawn.title}{value}", fontsize="medium")
        axes.set(xlabel=drawn.x_label, ylabel=drawn.y_label, xlim=(0, drawn.x_limit), ylim=(0, 1.01))
        axes.grid(alpha=0.3)
    _write(folder / "curves.png", figure)


LOSSES = {
    "distillation": {"loss": "loss", "ngm": "NGM", "aim": "AIM"},
    "segmentation": {"loss": "loss"},
}
"""Logged losses of each stage, and what the chart calls them."""


def write_training(folder: Path) -> None:
    """Draw the losses that ``metrics.csv`` holds: ``training.png``; nothing without that file.

    Args:
        folder: Of the run.
    """
    file = folder / "metrics.csv"
    if not file.is_file():
        return
    with file.open(newline="", encoding="utf-8") as text:
        rows = list(csv.DictReader(text))
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, (stage, names) in zip(figure.subplots(1, len(LOSSES)), LOSSES.items(), strict=True):
        for name, label in names.items():
            points = [(int(row["step"]), float(row[key])) for row in rows if row.get(key := f"{stage}/{name}")]
            points = [point for point in points if math.isfinite(point[1]) and point[1] > 0]
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    marker="." if len(points) < 20 else "",
                    linewidth=1.2,
                    label=f"{label}, last {points[-1][1]:.4g}",
                )
        axes.set_title(stage.capitalize(), fontsize="medium")
        axes.set(xlabel="step", ylabel="loss", yscale="log")
        axes.grid(alpha=0.3, which="both")
        if axes.lines:
            axes.legend(fontsize="small")
    _write(folder / "training.png", figure)


def _write(file: Path, figure: Figure) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, dpi=DOTS_PER_INCH)
    write_atomically(file, picture.getvalue())
