"""Confidence intervals by resampling images, for one model and for the difference of two."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from dmdd.core.errors import UserError
from dmdd.metrics import functional
from dmdd.metrics.binning import N_BINS, bin_floors
from dmdd.metrics.exact import exact_steps
from dmdd.metrics.functional import Floats, Steps
from dmdd.metrics.histogram import ALL, ANOMALOUS, OVERLAP, REGION_WEIGHT, add_pixels, check_maps, empty_histograms

# A cell is 256 neighbouring bins: 7 mantissa bits where maps live. An image occupies a few hundred of the cells.
_CELL_SHIFT = 8
N_CELLS = ((N_BINS - 1) >> _CELL_SHIFT) + 1
# Images whose cells are spelled out at a time.
_IMAGES_AT_A_TIME = 64


class Interval(NamedTuple):
    """A percentile interval.

    Args:
        lower: its lower end.
        upper: its upper end.
    """

    lower: float
    upper: float


def resample(anomalous: NDArray[np.bool_], n_resamples: int, seed: int) -> NDArray[np.int32]:
    """Draw images with replacement, as many normal and as many anomalous ones as there are.

    Args:
        anomalous: (I,) whether an image is anomalous.
        n_resamples: number of test sets to draw.
        seed: seed of the draws; the same seed and the same images give the same draws, so that two models can be
            compared pair by pair.

    Returns:
        (n_resamples, I) int32, how often each image is drawn.

    Source: the stratified bootstrap; how many images of a kind a test set holds is its makers' choice, not chance.
    """
    rng = np.random.default_rng(seed)
    drawn = np.zeros((n_resamples, anomalous.size), dtype=np.int32)
    for members in (np.flatnonzero(~anomalous), np.flatnonzero(anomalous)):
        for row in drawn if members.size else ():  # one at a time: numpy draws int64
            row[members] = rng.multinomial(members.size, np.full(members.size, 1 / members.size))
    return drawn


def percentile_interval(samples: Sequence[float] | Floats, level: float = 0.95) -> Interval:
    """Find the interval that holds the middle share of the samples.

    Args:
        samples: (n_resamples,) values of a metric, or the differences of two models' values with the same seed: where
            that interval leaves out 0, the test set tells the models apart.
        level: share of the samples, in (0, 1).

    Returns:
        The quantiles (1 - level) / 2 and (1 + level) / 2.

    Raises:
        UserError: `level` outside (0, 1).

    Source: the percentile bootstrap.
    """
    if not 0 < level < 1:
        raise UserError(f"level must lie in (0, 1), not {level}")
    lower, upper = np.quantile(np.asarray(samples), ((1 - level) / 2, (1 + level) / 2))
    return Interval(float(lower), float(upper))


def bootstrap_image_metrics(
    scores: Tensor, labels: Tensor, *, n_resamples: int = 1000, seed: int = 0
) -> dict[str, Floats]:
    """Draw the image metrics' bootstrap distribution.

    Args:
        scores: (I,) floating, finite.
        labels: (I,) 0 normal and 1 anomalous.
        n_resamples: number of test sets to draw.
        seed: see `resample`.

    Returns:
        (n_resamples,) values of `image_auroc`, `image_ap` and `image_f1_max`, exact for each drawn test set; NaN with
        images of one class only.

    Source: ours, see `resample`.
    """
    values, anomalous = scores.detach().cpu().float().numpy(), labels.cpu().numpy().astype(bool)
    samples: dict[str, list[float]] = {"image_auroc": [], "image_ap": [], "image_f1_max": []}
    for counts in resample(anomalous, n_resamples, seed):
        drawn, kind = np.repeat(values, counts), np.repeat(anomalous, counts)
        n_anomalous = int(kind.sum())
        steps = exact_steps(drawn[~kind], drawn[kind], np.ones(n_anomalous, np.int64), n_anomalous)
        samples["image_auroc"].append(functional.auroc(steps).value)
        samples["image_ap"].append(functional.average_precision(steps).value)
        samples["image_f1_max"].append(functional.f1_max(steps).value)
    return {name: np.array(row) for name, row in samples.items()}


class PixelBootstrap(Metric):
    """Bootstrap distribution of the pixel metrics over images.

    Args:
        n_resamples: number of test sets to draw.
        seed: see `resample`.
        kwargs: arguments of `torchmetrics.Metric`.

    Each image keeps the counts of the cells that it occupies, 40 bytes a cell and at most `N_CELLS` cells, whatever
    its size. The cells are 256 times wider than the bins of the metrics themselves, which shifts a value a little; an
    interval's width is what this class is for, the value comes from the metrics.

    Source: ours, see `resample`.
    """

    full_state_update = False
    is_differentiable = False

    cells: list[Tensor]
    images: list[Tensor]
    n_images: Tensor

    def __init__(self, *, n_resamples: int = 1000, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n_resamples, self.seed = n_resamples, seed
        self.add_state("cells", [], dist_reduce_fx="cat")  # (M, 5): image, cell, all, anomalous, overlap
        self.add_state("images", [], dist_reduce_fx="cat")  # (I, 2): image, regions
        self.add_state("n_images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, maps: Tensor, masks: Tensor, indices: Sequence[int] | None = None) -> None:
        """Add a batch.

        Args:
            maps: (B, H, W) or (B, 1, H, W), floating, any finite scores.
            masks: same spatial shape, bool or numbers 0 and 1.
            indices: B positions in the test set, each once; needed with several processes, where it fixes the order.
                Counted up from 0 by default.

        Raises:
            UserError: there are not as many indices as maps, or see `dmdd.metrics.histogram.check_maps`.
        """
        first = int(self.n_images)
        maps, masks = check_maps(maps, masks, images_before=first)
        indices = range(first, first + len(maps)) if indices is None else indices
        if len(indices) != len(maps):
            raise UserError(f"{len(maps)} maps but {len(indices)} indices")
        histograms = empty_histograms(maps.device).contiguous()
        for index, scores, mask in zip(indices, maps, masks, strict=True):
            n_regions = add_pixels(histograms.zero_(), scores[None], mask[None])
            occupied = torch.nonzero(histograms[ALL]).flatten()
            cell, place = torch.unique(occupied >> _CELL_SHIFT, return_inverse=True)
            counts = torch.zeros(len(cell), 3, dtype=torch.int64, device=maps.device)
            counts.index_add_(0, place, histograms[:, occupied].T.contiguous())
            self.cells.append(torch.column_stack((torch.full_like(cell, int(index)), cell, counts)))
            self.images.append(torch.tensor([[int(index), n_regions]], device=maps.device))
        self.n_images += len(maps)

    def compute(self) -> dict[str, Tensor]:
        """Draw the test sets and compute the metrics of each.

        Returns:
            (n_resamples,) float64 values of `pixel_auroc`, `pixel_ap`, `aupro_30`, `aupro_5` and `pixel_f1_max`; NaN
            where undefined.

        Raises:
            UserError: two images have the same index; an image that several processes have seen is one.
        """
        # Sorted, and each once: of fewer images than processes every process has seen all.
        images, cells = np.unique(_rows(self.images, 2), axis=0), np.unique(_rows(self.cells, 5), axis=0)
        if np.any(images[1:, 0] == images[:-1, 0]):
            raise UserError("two images have the same index; with several processes give indices to update")
        owner = np.searchsorted(images[:, 0], cells[:, 0])
        columns, column = np.unique(cells[:, 1], return_inverse=True)
        drawn = resample(images[:, 1] > 0, self.n_resamples, self.seed)
        # (resample, count, cell), filled from a few images at a time
        totals = np.zeros((self.n_resamples, 3 * columns.size))
        for first in range(0, len(images), _IMAGES_AT_A_TIME):
            own = (owner >= first) & (owner < first + _IMAGES_AT_A_TIME)
            dense = np.zeros((min(_IMAGES_AT_A_TIME, len(images) - first), 3, columns.size))
            dense[owner[own] - first, :, column[own]] = cells[own, 2:]
            totals += drawn[:, first : first + len(dense)].astype(np.float64) @ dense.reshape(len(dense), -1)
        floors = bin_floors(columns << _CELL_SHIFT).astype(np.float64)
        regions = drawn @ images[:, 1]
        samples: dict[str, list[float]] = {}
        for counts, n_regions in zip(totals.reshape(self.n_resamples, 3, -1), regions, strict=True):
            for name, value in _pixel_values(_cell_steps(floors, counts, float(n_regions))).items():
                samples.setdefault(name, []).append(value)
        return {name: torch.tensor(row, dtype=torch.float64) for name, row in samples.items()}

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the state of all processes, see `torchmetrics.Metric.sync`."""
        # as in `StepMetric.sync`: a process without images must not send float32
        for name, width in (("cells", 5), ("images", 2)):
            kept = getattr(self, name)
            if isinstance(kept, list) and not kept:
                kept.append(torch.zeros(0, width, dtype=torch.int64, device=self.device))
        super().sync(*args, **kwargs)


def _rows(parts: list[Tensor] | Tensor, width: int) -> NDArray[np.int64]:
    parts = [parts] if isinstance(parts, Tensor) else parts
    return torch.cat([torch.zeros(0, width, dtype=torch.int64), *(part.cpu() for part in parts)]).numpy()


def _cell_steps(floors: Floats, counts: Floats, n_regions: float) -> Steps:
    total, anomalous, overlap = (np.append(0.0, np.cumsum(counts[row, ::-1])) for row in (ALL, ANOMALOUS, OVERLAP))
    scale = max(1.0, n_regions) * REGION_WEIGHT
    return Steps(floors[::-1], total - anomalous, anomalous, overlap / scale, 0.0, tied=False)


def _pixel_values(steps: Steps) -> dict[str, float]:
    return {
        "pixel_auroc": functional.auroc(steps).value,
        "pixel_ap": functional.average_precision(steps).value,
        "aupro_30": functional.aupro(steps, 0.3).value,
        "aupro_5": functional.aupro(steps, 0.05).value,
        "pixel_f1_max": functional.f1_max(steps).value,
    }
