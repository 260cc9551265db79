"""Figures of a test set from its image scores: at the calibrated threshold, by type, and as MVTec LOCO's tables."""

import math
from collections.abc import Mapping, Sequence

import torch

from dmdd.metrics import (
    Decisions,
    Interval,
    auroc_by_type,
    decide,
    image_intervals,
    of_type,
    recall_by_type,
    wilson_interval,
)
from dmdd.training.saturated import METRIC as AU_SPRO

ImageScore = tuple[int, int, float]  # index, label, score
Figures = dict[str, float]
LOCO_TYPES = {"logical": "logical_anomalies", "structural": "structural_anomalies"}
"""Short names of the types of MVTec LOCO, whose tables give figures of each and their mean."""


def decisions_at(scores: Sequence[ImageScore], threshold: float) -> Decisions:
    """Count the decisions at a threshold.

    Args:
        scores: Index, label and score of each image.
        threshold: ``score >= threshold`` is anomalous.

    Returns:
        The counts.
    """
    labels = torch.tensor([label for _, label, _ in scores])
    return decide(torch.tensor([score for _, _, score in scores]), labels, threshold)


def image_figures_by_type(
    scores: Sequence[ImageScore], defects: Sequence[str], threshold: float | None
) -> dict[str, Figures]:
    """Compute the image figures of each type.

    Args:
        scores: Index, label and score of each image.
        defects: Type of each image, by index; "good" for a normal one.
        threshold: Calibrated; None where unknown.

    Returns:
        By type, sorted by name: ``images``, their number; ``images_found``, the share at or above the threshold; and
        ``image_auroc`` against the normal images. What is unknown is absent.
    """
    names, values = [defects[index] for index, _, _ in scores], torch.tensor([score for _, _, score in scores])
    rows: dict[str, Figures] = {name: {"images": names.count(name)} for name in sorted(set(names))}
    if threshold is not None:
        for name, share in recall_by_type(values, names, threshold).items():
            rows[name]["images_found"] = share
    for name, area in auroc_by_type(values, names).items():
        rows[name]["image_auroc"] = area
    return rows


def image_intervals_by_type(
    scores: Sequence[ImageScore], defects: Sequence[str], rows: Mapping[str, Figures], *, resamples: int
) -> dict[str, dict[str, Interval]]:
    """Compute the 95 % intervals of `image_figures_by_type`.

    Args:
        scores: Index, label and score of each image.
        defects: Type of each image, by index.
        rows: The figures.
        resamples: Test sets to draw.

    Returns:
        By type and figure.
    """
    names, values = [defects[index] for index, _, _ in scores], torch.tensor([score for _, _, score in scores])
    found: dict[str, dict[str, Interval]] = {}
    for name, figures in rows.items():
        found[name] = {}
        if "images_found" in figures:
            found[name]["images_found"] = wilson_interval(figures["images_found"], figures["images"])
        if "image_auroc" in figures:
            drawn = image_intervals(*of_type(values, names, name), n_resamples=resamples)
            found[name]["image_auroc"] = drawn["image_auroc"]
    return found


def loco_figures(rows: Mapping[str, Figures]) -> Figures:
    """Give the figures of MVTec LOCO's tables.

    Args:
        rows: Figures by type.

    Returns:
        ``image_auroc_logical``, ``image_auroc_structural``, ``image_auroc_loco``, their mean, and the same of
        ``au_spro_5``; none where the types are others.

    Source: Bergmann et al., IJCV 2022.
    """
    figures: Figures = {}
    for metric in ("image_auroc", AU_SPRO):
        parts = {short: rows[name][metric] for short, name in LOCO_TYPES.items() if metric in rows.get(name, {})}
        if len(parts) == len(LOCO_TYPES):
            figures |= {f"{metric}_{short}": value for short, value in parts.items()}
            figures[f"{metric}_loco"] = sum(parts.values()) / len(parts)
    return figures


def loco_intervals(rows: Mapping[str, Figures], intervals: Mapping[str, Mapping[str, Interval]]) -> dict[str, Interval]:
    """Compute the 95 % intervals of `loco_figures`.

    Args:
        rows: Figures by type.
        intervals: Their intervals by type.

    Returns:
        By figure; the mean moves by what each of the two moves, as if they shared no normal images.

    Source: Newcombe (1998), square-and-add.
    """
    found: dict[str, Interval] = {}
    for metric in ("image_auroc", AU_SPRO):
        parts = {
            s: (rows[n][metric], intervals[n][metric]) for s, n in LOCO_TYPES.items() if metric in intervals.get(n, {})
        }
        if len(parts) == len(LOCO_TYPES):
            found |= {f"{metric}_{short}": interval for short, (_, interval) in parts.items()}
            mean = sum(value for value, _ in parts.values()) / len(parts)
            below = math.hypot(*(value - interval.lower for value, interval in parts.values())) / len(parts)
            above = math.hypot(*(interval.upper - value for value, interval in parts.values())) / len(parts)
            found[f"{metric}_loco"] = Interval(max(0.0, mean - below), min(1.0, mean + above))
    return found
