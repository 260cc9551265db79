"""What the page shows of one run beside its figures: curves, scores and losses, reduced to what can be seen."""

import csv
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dmdd.report.collect import Unreadable

CURVE_TOLERANCE = 5e-4  # a fifth of a pixel in a drawing of 400
HISTOGRAM_BINS = 36
LOSS_POINTS = 300
LOSSES = {
    "distillation": ("distillation/loss", "distillation/ngm", "distillation/aim"),
    "segmentation": ("segmentation/loss",),
}


class Score(NamedTuple):
    """One line of ``scores.csv``.

    Args:
        file: The image, relative to its category.
        defect: Its type; "good" for a normal one.
        label: 0 normal, 1 anomalous.
        score: Of the image, as users see it.
        readable: Whether that is on the scale with the threshold at 0.5, not the raw score.
    """

    file: str
    defect: str
    label: int
    score: float
    readable: bool = False


def read_scores(folder: Path, unreadable: list[Unreadable]) -> list[Score]:
    """Read ``scores.csv``.

    Args:
        folder: The run's.
        unreadable: Gets an entry if the file is damaged.

    Returns:
        Its lines; none where there is no such file.
    """
    file = folder / "scores.csv"
    if not file.is_file():
        return []
    try:
        with file.open(encoding="utf-8", errors="surrogateescape", newline="") as opened:
            rows = [
                Score(row["file"], row["defect"], int(row["label"]), float(row["score"]), "raw_score" in row)
                for row in csv.DictReader(opened)
            ]
        if all(row.label in (0, 1) and math.isfinite(row.score) for row in rows):
            return rows
        reason = "damaged: a label other than 0 and 1, or a score that is no number"
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        reason = f"damaged: {type(error).__name__} {error}"
    unreadable.append(Unreadable(file, reason))
    return []


def histogram(scores: list[Score], threshold: float | None) -> dict[str, Any] | None:
    """Count scores by label in bins of equal width.

    Args:
        scores: Of a test set.
        threshold: Is inside the range if known.

    Returns:
        ``low``, ``high``, and counts of ``normal`` and ``anomalous``; None without scores.
    """
    if not scores:
        return None
    values = [score.score for score in scores] + ([] if threshold is None else [threshold])
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 0.5, high + 0.5
    by_label = [[score.score for score in scores if score.label == label] for label in (0, 1)]
    normal, anomalous = (np.histogram(v, HISTOGRAM_BINS, (low, high))[0].tolist() for v in by_label)
    return {"low": low, "high": high, "normal": normal, "anomalous": anomalous}


def read_curves(folder: Path, unreadable: list[Unreadable]) -> dict[str, list[list[float]]]:
    """Read ``curves.json`` and leave out points that lie on the line between their neighbours.

    Args:
        folder: The run's.
        unreadable: Gets an entry if the file is damaged.

    Returns:
        ``[xs, ys]`` by curve.
    """
    file = folder / "curves.json"
    if not file.is_file():
        return {}
    try:
        curves = json.loads(file.read_text(encoding="utf-8"))
        return {str(name): _reduce(curve["x"], curve["y"]) for name, curve in curves.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        unreadable.append(Unreadable(file, f"damaged: {type(error).__name__} {error}"))
        return {}


def _reduce(x: list[float], y: list[float]) -> list[list[float]]:
    import cv2

    points = np.stack([np.asarray(x, np.float32), np.asarray(y, np.float32)], axis=1)
    if not np.isfinite(points).all() or len(points) == 0:
        raise ValueError("a point that is no number, or none")
    kept = cv2.approxPolyDP(points[:, None], CURVE_TOLERANCE, closed=False)[:, 0]
    return [[round(float(value), 5) for value in column] for column in kept.T]


def read_losses(folder: Path, unreadable: list[Unreadable]) -> dict[str, dict[str, list[list[float]]]]:
    """Read the training losses from ``metrics.csv``.

    Args:
        folder: The run's.
        unreadable: Gets an entry if the file is damaged.

    Returns:
        ``[steps, values]`` by stage and loss, at most ``LOSS_POINTS`` points each; what was not logged is absent.
    """
    file = folder / "metrics.csv"
    if not file.is_file():
        return {}
    try:
        with file.open(encoding="utf-8", newline="") as opened:
            rows = list(csv.DictReader(opened))
        found = {
            stage: {name.partition("/")[2]: points for name in names if (points := _column(rows, name))}
            for stage, names in LOSSES.items()
        }
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        unreadable.append(Unreadable(file, f"damaged: {type(error).__name__} {error}"))
        return {}
    return {stage: losses for stage, losses in found.items() if losses}


def _column(rows: list[dict[str, str]], name: str) -> list[list[float]] | None:
    points = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
    points = [point for point in points if math.isfinite(point[1])]
    if len(points) < 2:
        return None
    every = math.ceil(len(points) / LOSS_POINTS)
    kept = points[::every] if (len(points) - 1) % every == 0 else [*points[::every], points[-1]]
    return [[float(step) for step, _ in kept], [float(f"{value:.5g}") for _, value in kept]]
