"""How well each type of defect is found."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dmdd.core.errors import UserError
from dmdd.metrics import functional
from dmdd.metrics.functional import Estimate
from dmdd.metrics.histogram import ALL, ANOMALOUS, OVERLAP, add_pixels, check_maps, empty_histograms
from dmdd.metrics.image import ImageAUROC
from dmdd.metrics.zero_state import ZeroStateMetric


class TypeRow(NamedTuple):
    """One defect type at one threshold.

    Args:
        n_images: images of the type.
        n_regions: their anomalous regions.
        n_pixels: their anomalous pixels.
        image_recall: share of the images with a pixel of their map at or above the threshold, NaN without images.
        pixel_recall: share of the anomalous pixels at or above the threshold, NaN without pixels.
        aupro: area under the overlap curve of the type's regions against the normal pixels of *all* images.
    """

    n_images: int
    n_regions: int
    n_pixels: int
    image_recall: float
    pixel_recall: float
    aupro: Estimate


class DefectTypes(ZeroStateMetric):
    """Recall at a threshold and AUPRO of each defect type.

    Args:
        types: the names, each once; images of any other type are refused.
        normal_type: the type of the normal images, which gets no row but whose pixels all rows share.
        threshold: `score >= threshold` is anomalous; it comes from held-out normal images, never from the test set.
        fpr_limit: upper end of the AUPRO integral, in (0, 1].
        kwargs: arguments of `torchmetrics.Metric`.

    Raises:
        UserError: a type given twice, or `fpr_limit` outside (0, 1].

    The state takes 17 MB a type. All of it is integers reduced by sum.

    Source: ours.
    """

    full_state_update = False
    is_differentiable = False

    normal: Tensor
    anomalous: Tensor
    counts: Tensor
    n_images: Tensor

    def __init__(
        self,
        types: Sequence[str],
        *,
        threshold: float,
        normal_type: str = "good",
        fpr_limit: float = 0.3,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        functional.check_fpr_limit(fpr_limit)
        if len(set(types)) != len(types):
            raise UserError(f"defect types must differ: {', '.join(types)}")
        self.types = tuple(types)
        self.normal_type, self.threshold, self.fpr_limit = normal_type, threshold, fpr_limit
        n_bins = empty_histograms().shape[1]
        self.add_state("normal", torch.zeros(n_bins, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_zero_state("anomalous", (len(types), 2, n_bins))
        # images, images found, regions, anomalous pixels, anomalous pixels found
        self.add_state("counts", torch.zeros(len(types), 5, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("n_images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, maps: Tensor, masks: Tensor, types: Sequence[str]) -> None:
        """Add a batch.

        Args:
            maps: (B, H, W) or (B, 1, H, W), floating, any finite scores.
            masks: same spatial shape, bool or numbers 0 and 1.
            types: B names.

        Raises:
            UserError: there are not as many types as maps, a type was not announced, a normal image has an anomalous
                pixel, or see `dmdd.metrics.histogram.check_maps`; nothing of the batch is then counted.
        """
        maps, masks = check_maps(maps, masks, images_before=int(self.n_images))
        if len(types) != len(maps):
            raise UserError(f"{len(maps)} maps but {len(types)} defect types")
        for name in types:
            if name != self.normal_type and name not in self.types:
                raise UserError(f"unknown defect type {name!r}; known are {', '.join(self.types)}")
        marked = masks.flatten(1).any(dim=1).tolist()
        for index, name in enumerate(types):
            if name == self.normal_type and marked[index]:
                raise UserError(f"image {int(self.n_images) + index} is {name!r}, but its mask is not empty")
        for name in dict.fromkeys(types):
            chosen = torch.tensor([other == name for other in types], device=maps.device)
            self._add(name, maps[chosen], masks[chosen])
        self.n_images += maps.shape[0]

    def _add(self, name: str, maps: Tensor, masks: Tensor) -> None:
        histograms = empty_histograms(maps.device).contiguous()
        n_regions = add_pixels(histograms, maps, masks)
        self.normal += histograms[ALL] - histograms[ANOMALOUS]
        if name == self.normal_type:
            return
        row = self.types.index(name)
        self.counted("anomalous")[row] += histograms[[ANOMALOUS, OVERLAP]]
        found = maps >= self.threshold
        self.counts[row, 0] += len(maps)
        self.counts[row, 1] += found.flatten(1).any(dim=1).sum()
        self.counts[row, 2] += n_regions
        self.counts[row, 3] += masks.sum()
        self.counts[row, 4] += (found & (masks == 1)).sum()

    def compute(self) -> dict[str, Tensor]:
        """Compute the AUPRO of each type.

        Returns:
            float64 scalars by type, NaN where a type has no anomalous pixel.
        """
        return {name: torch.tensor(row.aupro.value, dtype=torch.float64) for name, row in self.table().items()}

    def table(self) -> Mapping[str, TypeRow]:
        """Give the whole table of what this process has seen.

        Returns:
            A row for each type. Wrap the call in `metric.sync_context()` to have those of all processes.
        """
        return {name: self._row(index) for index, name in enumerate(self.types)}

    def _row(self, index: int) -> TypeRow:
        n_images, images_found, n_regions, n_pixels, pixels_found = (int(n) for n in self.counts[index])
        anomalous, overlap = self.anomalous[index]
        steps = functional.histogram_steps(torch.stack((self.normal + anomalous, anomalous, overlap)), n_regions)
        return TypeRow(
            n_images=n_images,
            n_regions=n_regions,
            n_pixels=n_pixels,
            image_recall=images_found / n_images if n_images else np.nan,
            pixel_recall=pixels_found / n_pixels if n_pixels else np.nan,
            aupro=functional.aupro(steps, self.fpr_limit),
        )


def recall_by_type(
    scores: Tensor, types: Sequence[str], threshold: float, normal_type: str = "good"
) -> dict[str, float]:
    """Compute the share of each type's images whose image score reaches a threshold.

    Args:
        scores: (B,) image scores.
        types: B names.
        threshold: `score >= threshold` is anomalous.
        normal_type: the type of the normal images; its share is the false-positive rate.

    Returns:
        Share in [0, 1] by type, the normal type first if there is one, the others by name.

    Raises:
        UserError: there are not as many types as scores.

    Source: ours.
    """
    if len(types) != len(scores):
        raise UserError(f"{len(scores)} scores but {len(types)} defect types")
    found: dict[str, list[bool]] = {}
    for name, hit in zip(types, (scores >= threshold).tolist(), strict=True):
        found.setdefault(name, []).append(hit)
    names = sorted(found, key=lambda name: (name != normal_type, name))
    return {name: sum(found[name]) / len(found[name]) for name in names}


def auroc_by_type(scores: Tensor, types: Sequence[str], normal_type: str = "good") -> dict[str, float]:
    """Compute the area under the ROC curve of each type's images against all normal ones.

    Args:
        scores: (B,) image scores, finite.
        types: B names.
        normal_type: the type of the normal images.

    Returns:
        Area in [0, 1] by type, by name; empty without normal images.

    Raises:
        UserError: there are not as many types as scores.

    Source: `dmdd.metrics.functional.auroc`.
    """
    if len(types) != len(scores):
        raise UserError(f"{len(scores)} scores but {len(types)} defect types")
    areas = {}
    for name in sorted(set(types) - {normal_type}):
        own, labels = of_type(scores, types, name, normal_type)
        metric = ImageAUROC(sync_on_compute=False)  # the scores given are all there are
        metric.update(own, labels)
        if not math.isnan(area := float(metric.compute())):
            areas[name] = area
    return areas


def of_type(scores: Tensor, types: Sequence[str], name: str, normal_type: str = "good") -> tuple[Tensor, Tensor]:
    """Take the images of one defect type and the normal ones.

    Args:
        scores: (B,) image scores.
        types: B names.
        name: the type.
        normal_type: the type of the normal images.

    Returns:
        Their scores, and their labels: 0 normal, 1 of the type.

    Source: ours.
    """
    chosen = [position for position, other in enumerate(types) if other in (name, normal_type)]
    return scores[chosen], torch.tensor([int(types[position] == name) for position in chosen], dtype=torch.int64)
