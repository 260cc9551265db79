"""Bootstrap of the pixel metrics over images, from each image's scores at a few hundred ranks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from dmdd.core.errors import UserError
from dmdd.metrics import drawn
from dmdd.metrics.bootstrap import resample
from dmdd.metrics.functional import Floats
from dmdd.metrics.histogram import REGION_WEIGHT, check_maps
from dmdd.metrics.intervals import Interval, sample_interval
from dmdd.metrics.regions import OverlapPixels, overlap_pixels

# A cell begins at ranks 1, 2, 3, ... and from 50 on every 2 %: a tie within a cell moves the share of an image's pixels
# above a score by at most 2 % of that share, whatever the range, the sign and the spacing of the scores.
_GROWTH = 1.02
# Images whose cells are spelled out, and test sets whose metrics are computed, at a time.
_AT_A_TIME = 64
_MAGNITUDE = 0x7FFFFFFF
# Columns of the state: image, score, and of the cell the pixels, the anomalous ones, and these weighted by region.
_IMAGE, _SCORE, _ALL, _ANOMALOUS, _OVERLAP = range(5)


class PixelBootstrap(Metric):
    """Bootstrap distribution of the pixel metrics over images.

    Args:
        n_resamples: number of test sets to draw.
        seed: see `dmdd.metrics.bootstrap.resample`.
        kwargs: arguments of `torchmetrics.Metric`.

    Each image keeps its counts between the scores at a few hundred of its ranks (about 560 of 256 x 256 pixels), 40
    bytes each, so only the order of the scores matters. A value is a little coarser than that of the metrics
    themselves: this class is for the width of an interval.

    Source: ours, see `dmdd.metrics.bootstrap.resample`.
    """

    full_state_update = False
    is_differentiable = False

    cells: list[Tensor]
    images: list[Tensor]
    n_images: Tensor

    def __init__(self, *, n_resamples: int = 1000, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n_resamples, self.seed = n_resamples, seed
        self.add_state("cells", [], dist_reduce_fx="cat")  # (M, 5), see above
        self.add_state("images", [], dist_reduce_fx="cat")  # (I, 2): image, regions
        self.add_state("n_images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self,
        maps: Tensor,
        masks: Tensor,
        indices: Sequence[int] | None = None,
        overlap: Sequence[OverlapPixels] | None = None,
    ) -> None:
        """Add a batch.

        Args:
            maps: (B, H, W) or (B, 1, H, W), floating, any finite scores.
            masks: same spatial shape, bool or numbers 0 and 1.
            indices: B positions in the test set, each once; needed with several processes, where it fixes the order.
                Counted up from 0 by default.
            overlap: B times the pixels that count for the overlap; those of the connected regions by default.

        Raises:
            UserError: there are not as many indices as maps, or see `dmdd.metrics.histogram.check_maps`.
        """
        first = int(self.n_images)
        maps, masks = check_maps(maps, masks, images_before=first)
        indices = range(first, first + len(maps)) if indices is None else indices
        if len(indices) != len(maps):
            raise UserError(f"{len(maps)} maps but {len(indices)} indices")
        for place, (index, scores, mask) in enumerate(zip(indices, maps.cpu(), masks.cpu(), strict=True)):
            pixels = overlap_pixels(mask.numpy()) if overlap is None else overlap[place]
            cells = _cells(scores.numpy().ravel(), mask.numpy().ravel() == 1, pixels)
            cells[:, _IMAGE] = int(index)
            self.cells.append(torch.from_numpy(cells).to(self.device))
            self.images.append(torch.tensor([[int(index), pixels.n_regions]], device=self.device))
        self.n_images += len(maps)

    def compute(self) -> dict[str, Tensor]:
        """Draw the test sets and compute the metrics of each.

        Returns:
            (n_resamples,) float64 values of `pixel_auroc`, `pixel_ap`, `aupro_30`, `aupro_5`, `pixel_f1_max`,
            `pixel_iou_max`, `aupro_pooled_200` and `aupimo`; NaN where undefined.

        Raises:
            UserError: two images have the same index; an image that several processes have seen is one.
        """
        return {name: torch.from_numpy(values[1:].copy()) for name, values in self._samples(_Images(self)).items()}

    def intervals(self, values: Mapping[str, float], threshold: float | None = None) -> dict[str, Interval]:
        """Compute the 95 % intervals over the choice of test images that this process has seen.

        Args:
            values: the metrics of the test set by name, as of `pixel_metrics`; others than those of `compute` are
                passed over.
            threshold: of `pixel_f1`; None leaves it out.

        Returns:
            The intervals by name, see `dmdd.metrics.intervals.sample_interval`; a metric that a drawn test set has not
            is absent. Wrap the call in `metric.sync_context()` for the images of all processes.

        Raises:
            UserError: two images have the same index.
        """
        images = _Images(self)
        return _intervals(values, self._samples(images, threshold), images.count(images.anomalous))

    def intervals_by_type(
        self, types: Mapping[str, Sequence[int]], values: Mapping[str, Mapping[str, float]], threshold: float
    ) -> dict[str, dict[str, Interval]]:
        """Compute the 95 % intervals of the figures of each defect type, see `dmdd.metrics.per_type.DefectTypes`.

        Args:
            types: the indices of the images of each type.
            values: by type, the metrics `aupro_30`, `aupro_5` or `pixels_found`, the share of the anomalous pixels at
                or above the threshold.
            threshold: where a pixel counts as found.

        Returns:
            The intervals by type and metric; what is undefined is absent.

        Raises:
            UserError: two images have the same index.
        """
        images, found = _Images(self), {}
        for name, wanted in values.items():
            own = np.isin(images.index, list(types[name])) & images.anomalous
            if own.any():
                samples = self._samples_of_type(images, own, threshold)
                found[name] = _intervals(wanted, samples, images.count(own))
        return found

    def _samples(self, images: "_Images", threshold: float | None = None) -> dict[str, Floats]:
        """Compute the metrics of the test set itself and of each drawn one."""
        draws = self._draws(images.anomalous.astype(np.int64))
        is_normal, per_pixel = ~images.anomalous, 1 / np.maximum(1, images.pixels_anomalous)
        rows = {
            "normal": images.sums(draws, _ALL) - images.sums(draws, _ANOMALOUS),
            "anomalous": images.sums(draws, _ANOMALOUS),
            "overlap": images.sums(draws, _OVERLAP),
            "normal_images": images.sums(draws * is_normal, _ALL),
            "recall": images.sums(draws * per_pixel, _ANOMALOUS),
        }
        counts = drawn.Counts(**rows, regions=draws @ images.regions, images=draws @ images.anomalous)
        parts = [drawn.pixel_values(part, images.scores, threshold) for part in counts.split(_AT_A_TIME)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _samples_of_type(self, images: "_Images", own: NDArray[np.bool_], threshold: float) -> dict[str, Floats]:
        draws = self._draws(images.anomalous.astype(np.int64) + own)
        normal = images.sums(draws, _ALL) - images.sums(draws, _ANOMALOUS)
        overlap, anomalous = images.sums(draws * own, _OVERLAP), images.sums(draws * own, _ANOMALOUS)
        regions = draws @ (images.regions * own)
        with np.errstate(invalid="ignore"):
            found = anomalous[:, images.scores >= threshold].sum(axis=1) / anomalous.sum(axis=1)
        areas = {name: drawn.aupro(normal, overlap, regions, limit) for name, limit in drawn.AUPRO_LIMITS.items()}
        return {"pixels_found": found, **areas}

    def _draws(self, kind: NDArray[np.int64]) -> Floats:
        return np.concatenate([np.ones((1, kind.size)), resample(kind, self.n_resamples, self.seed)])

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the state of all processes, see `torchmetrics.Metric.sync`."""
        # as in `StepMetric.sync`: a process without images must not send float32
        for name, width in (("cells", 5), ("images", 2)):
            kept = getattr(self, name)
            if isinstance(kept, list) and not kept:
                kept.append(torch.zeros(0, width, dtype=torch.int64, device=self.device))
        super().sync(*args, **kwargs)


class _Images:
    """The cells of all images, in columns that all share: each column holds the cells down to a score."""

    def __init__(self, metric: PixelBootstrap) -> None:
        # Sorted, and each once: of fewer images than processes every process has seen all.
        images, cells = np.unique(_rows(metric.images, 2), axis=0), np.unique(_rows(metric.cells, 5), axis=0)
        if np.any(images[1:, 0] == images[:-1, 0]):
            raise UserError("two images have the same index; with several processes give indices to update")
        self.index, self.regions = images[:, 0], images[:, 1]
        self._cells, self._owner = cells, np.searchsorted(self.index, cells[:, _IMAGE])
        self.anomalous = self.regions > 0
        self.pixels_anomalous = np.bincount(self._owner, weights=cells[:, _ANOMALOUS], minlength=len(images))
        levels = _levels(cells)  # ascending
        self.scores = _from_order(levels)[::-1]  # descending: the lowest score of each column
        self._column = len(levels) - np.searchsorted(levels, cells[:, _SCORE], side="right")

    def count(self, own: NDArray[np.bool_]) -> float:
        """Give the harmonic mean of the numbers of normal images and of the anomalous ones that count."""
        n_own, n_normal = int(own.sum()), int((~self.anomalous).sum())
        return 2 * n_own * n_normal / (n_own + n_normal) if n_normal and n_own else max(n_own, n_normal, 1)

    def sums(self, weights: Floats, count: int) -> Floats:
        """Add one count up over the images, (R, I) how often each is drawn, to (R, columns)."""
        totals = np.zeros((len(weights), self.scores.size))
        for first in range(0, len(self.index), _AT_A_TIME):
            own = (self._owner >= first) & (self._owner < first + _AT_A_TIME)
            dense = np.zeros((min(_AT_A_TIME, len(self.index) - first), self.scores.size))
            np.add.at(dense, (self._owner[own] - first, self._column[own]), self._cells[own, count])
            totals += weights[:, first : first + len(dense)] @ dense
        return totals / REGION_WEIGHT if count == _OVERLAP else totals


def _rows(parts: list[Tensor] | Tensor, width: int) -> NDArray[np.int64]:
    parts = [parts] if isinstance(parts, Tensor) else parts
    return torch.cat([torch.zeros(0, width, dtype=torch.int64), *(part.cpu() for part in parts)]).numpy()


def _ranks(count: int) -> NDArray[np.int64]:
    """Give the ranks from 1 to `count` that cells end at."""
    steps = np.ceil(_GROWTH ** np.arange(np.ceil(np.log(max(count, 2)) / np.log(_GROWTH)) + 1)).astype(np.int64)
    return np.unique(np.append(steps[steps < count], count))


def _cells(scores: NDArray[np.float32], anomalous: NDArray[np.bool_], pixels: OverlapPixels) -> NDArray[np.int64]:
    """Count the pixels of one image between the scores at its ranks; equal scores stay together."""
    ascending = np.sort(scores)
    levels = np.unique(ascending[scores.size - _ranks(scores.size)]) if scores.size else scores
    weight = (2 * REGION_WEIGHT + pixels.region_size) // (2 * pixels.region_size)
    order = np.argsort(scores[pixels.position], kind="stable")
    below = np.append(0, np.cumsum(weight[order]))
    at = np.searchsorted(scores[pixels.position][order], levels)
    cells = np.zeros((levels.size, 5), dtype=np.int64)
    cells[:, _SCORE] = _order(levels)
    cells[:, _ALL] = np.diff(np.searchsorted(ascending, levels), append=scores.size)
    marked = np.sort(scores[anomalous])
    cells[:, _ANOMALOUS] = np.diff(np.searchsorted(marked, levels), append=marked.size)
    cells[:, _OVERLAP] = np.diff(below[at], append=below[-1])
    return cells


def _levels(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """Choose the scores that columns end at, by the ranks of all pixels and by those of the normal ones."""
    descending = cells[np.argsort(-cells[:, _SCORE], kind="stable")]
    chosen = [descending[-1:, _SCORE]]
    for counts in (descending[:, _ALL], descending[:, _ALL] - descending[:, _ANOMALOUS]):
        total = np.cumsum(counts)
        if total.size and total[-1]:
            chosen.append(descending[np.searchsorted(total, _ranks(int(total[-1]))), _SCORE])
    return np.unique(np.concatenate(chosen))


def _order(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Give integers that compare as the scores do, 0 for both zeros."""
    bits = np.ascontiguousarray(scores, dtype=np.float32).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & _MAGNITUDE), bits)


def _from_order(order: NDArray[np.int64]) -> Floats:
    magnitude = np.abs(order).astype(np.int32).view(np.float32)
    return np.where(order < 0, -magnitude, magnitude).astype(np.float64)


def _intervals(values: Mapping[str, float], samples: Mapping[str, Floats], count: float) -> dict[str, Interval]:
    found = {}
    for name, value in values.items():
        if name in samples and not np.isnan(value) and not np.isnan(samples[name]).any():
            found[name] = sample_interval(value, samples[name][1:], count=count, centre=float(samples[name][0]))
    return found
