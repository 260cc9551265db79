"""Figures of each category by itself, where one model is for several."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from dmdd.metrics import (
    PixelBootstrap,
    PixelDecisions,
    decision_figures,
    decision_intervals,
    image_intervals,
    image_metrics,
    pixel_metrics,
)
from dmdd.training.figures import ImageScore, decisions_at


class CategoryFigures(nn.Module):
    """Measure each category's test images as a test set of their own.

    Args:
        categories: Of each test image, by index.
        resamples: Test sets drawn for the intervals; 0 for none.
        exact: Keep every score, see `dmdd.training.evaluation.choose_exact`.
    """

    def __init__(self, categories: Sequence[str], *, resamples: int, exact: bool) -> None:
        super().__init__()
        self.categories, self.resamples = tuple(categories), resamples
        self.names = tuple(dict.fromkeys(categories))
        self.pixels = nn.ModuleList(pixel_metrics(exact=exact) for _ in self.names)
        self.decisions = nn.ModuleList(PixelDecisions() for _ in self.names)
        self.bootstraps = nn.ModuleList(PixelBootstrap(n_resamples=max(resamples, 1)) for _ in self.names)

    def decide_at(self, thresholds: Sequence[float]) -> None:
        """Set the pixel threshold of each category, in the order of ``names``; infinite where there is none."""
        for metric, threshold in zip(self.decisions, thresholds, strict=True):
            metric.threshold = threshold  # type: ignore[assignment]

    def reset(self) -> None:
        """Forget everything seen."""
        for metric in (*self.pixels, *self.decisions, *self.bootstraps):
            metric.reset()

    def update(self, maps: Tensor, masks: Tensor, indices: Sequence[int]) -> None:
        """Add a batch.

        Args:
            maps: ``(B, 1, h, w)``, or ``(B, h, w)``.
            masks: Same shape.
            indices: B positions in the test set.
        """
        own = [self.names.index(self.categories[index]) for index in indices]
        for place in dict.fromkeys(own):
            rows = [row for row, other in enumerate(own) if other == place]
            for metric in (self.pixels[place], self.decisions[place]):
                metric.update(maps[rows], masks[rows])  # type: ignore[operator]
            if self.resamples:
                self.bootstraps[place].update(maps[rows], masks[rows], [indices[row] for row in rows])  # type: ignore[operator]

    def entries(
        self, scores: Sequence[ImageScore], thresholds: Mapping[str, float | None], *, pixels_known: bool
    ) -> dict[str, dict[str, Any]]:
        """Compute the figures.

        Args:
            scores: Index, label and score of each test image.
            thresholds: The image threshold of each category; None where there is none.
            pixels_known: Whether maps and masks were given.

        Returns:
            By category ``metrics``, ``intervals_95`` and the counts of ``decisions``, as in ``result.json``.
        """
        found = {}
        for place, name in enumerate(self.names):
            own = [row for row in scores if self.categories[row[0]] == name]
            entry = image_entry(own, thresholds[name], resamples=self.resamples)
            decisions: Any = self.decisions[place]
            if pixels_known:
                values = {k: float(v) for k, v in self.pixels[place].compute().items()}  # type: ignore[operator]
                if decisions.threshold < math.inf:
                    values["pixel_f1"] = float(decisions.compute())
                entry["metrics"] |= {name: value for name, value in values.items() if not math.isnan(value)}
            if pixels_known and self.resamples:
                bootstrap: Any = self.bootstraps[place]
                with bootstrap.sync_context():
                    drawn = bootstrap.intervals(entry["metrics"], decisions.threshold)
                entry["intervals_95"] |= {key: list(interval) for key, interval in drawn.items()}
            found[name] = entry
        return found


def image_entry(scores: Sequence[ImageScore], threshold: float | None, *, resamples: int) -> dict[str, Any]:
    """Compute the image figures of a part of a test set.

    Args:
        scores: Index, label and score of each of its images.
        threshold: Image threshold; None leaves out what depends on it.
        resamples: Test sets drawn for the intervals; 0 for none.

    Returns:
        ``metrics``, ``intervals_95`` and the counts of ``decisions``.
    """
    values, labels = torch.tensor([row[2] for row in scores]), torch.tensor([row[1] for row in scores])
    metrics = image_metrics()
    for metric in metrics.values(copy_state=False):
        metric.sync_on_compute = False  # every device has all scores, and these are on none
    metrics.update(values, labels)
    figures = {name: float(value) for name, value in metrics.compute().items()}
    intervals = image_intervals(values, labels, n_resamples=resamples) if resamples else {}
    entry: dict[str, Any] = {}
    if threshold is not None:
        decisions = decisions_at(scores, threshold)
        figures |= decision_figures(decisions)
        intervals |= decision_intervals(decisions) if resamples else {}
        entry["decisions"] = decisions._asdict()
    known = {name: value for name, value in figures.items() if not math.isnan(value)}
    return {"metrics": known, "intervals_95": {name: list(interval) for name, interval in intervals.items()}, **entry}


def mean_figures(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Average the metrics that every category has, as tables of the literature do.

    Args:
        entries: What `CategoryFigures.entries` gives.

    Returns:
        The means by name.
    """
    rows = [entry["metrics"] for entry in entries.values()]
    common = [name for name in rows[0] if all(name in row for row in rows)] if rows else []
    return {name: fmean(row[name] for row in rows) for name in common}
