"""Training images from a store, and evaluation images from files: what the loaders hand to the device."""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dmdd.core.errors import UserError
from dmdd.core.resize import resize_images, resize_masks
from dmdd.data.augmentation import Augmentation, Jitter, draw_views
from dmdd.data.images import read_pair, read_size
from dmdd.data.listing import NORMAL, Category, Sample
from dmdd.data.regions import PackedMasks, Regions, paint_outside
from dmdd.data.sampling import Place, augmentation_seed
from dmdd.data.store import ImageStore
from dmdd.pairs import Column, draw_plan


class PlannedBatch(NamedTuple):
    """Normal images and the plan of their twins, as it leaves the loader.

    Args:
        images: ``(B, 3, h, w)`` uint8 RGB, normal.
        others: ``(B, 3, h, w)`` uint8 RGB, a different normal image for each.
        foreground: ``(B, 1, h, w)`` bool.
        textures: ``(B, 3, h, w)`` uint8 RGB, or an empty tensor where no source needs them.
        plan: ``(B, PLAN_LENGTH)`` float64 in [0, 1).
        jitter: ``(B, len(Draw))`` float64 in [0, 1), or an empty tensor where images stay as they are.
        indices: ``(B,)`` int64, position of each normal image in its set, plus its view times the size of the set.
        inside: ``(B, 1, h, w)`` bool, pixels of the region of interest; None where all count.
    """

    images: Tensor
    others: Tensor
    foreground: Tensor
    textures: Tensor
    plan: Tensor
    jitter: Tensor
    indices: Tensor
    inside: Tensor | None = None


class PairBatch(NamedTuple):
    """Pairs as the networks see them.

    Args:
        normal: ``(B, 3, h, w)`` uint8 RGB as read, or float32 in [0, 1] where jittered.
        anomalous: ``(B, 3, h, w)`` float32 in [0, 1], channels last in memory.
        mask: ``(B, 1, h, w)`` float32 in {0, 1}: one where the twin was changed.
        indices: Position of each normal image in its set, plus its view times the size of the set. Plain numbers: with
            several GPUs a tensor would be moved to the GPU, and read back to look something up.
        inside: As in the planned batch.
    """

    normal: Tensor
    anomalous: Tensor
    mask: Tensor
    indices: tuple[int, ...]
    inside: Tensor | None = None


class EvaluationBatch(NamedTuple):
    """Images to be scored, with what is known about them.

    Args:
        images: ``(B, 3, h, w)`` uint8 RGB at the input size.
        masks: ``(B, 1, h, w)`` bool at the input size, or B masks ``(1, H, W)`` of the images' own sizes; all False for
            a normal image.
        labels: ``(B,)`` int64, 0 normal, 1 anomalous.
        indices: ``(B,)`` int64, position in the evaluated set; a twin has minus one minus that of its normal image.
        inside: B regions of interest ``(1, H, W)`` bool, of the images' own sizes or of ``images``; None where all
            pixels count.
    """

    images: Tensor
    masks: Tensor | list[Tensor]
    labels: Tensor
    indices: Tensor
    inside: list[Tensor] | None = None


def load_regions(paths: Sequence[Path], regions: Regions, size: tuple[int, int]) -> PackedMasks:
    """Give the regions of interest of images, resized as masks are.

    Args:
        paths: Image files.
        regions: Which pixels of them count.
        size: Height and width in pixels.

    Returns:
        N of this height and width; those that are alike take the memory of one.

    Raises:
        UserError: An image cannot be read, or its region does not fit or is empty.
    """
    found = (torch.from_numpy(regions.of(path, read_size(path)))[None, None] for path in paths)
    return PackedMasks.of((resize_masks(mask, size) for mask in found), size)


def within(category: Category, regions: Regions) -> Category:
    """Take the anomalous test images whose defects all lie outside their regions for normal ones.

    Args:
        category: The files.
        regions: Which pixels of the images count.

    Returns:
        The category; the same where all pixels count, or no masks are known.

    Raises:
        UserError: An image or a mask cannot be read, or a region does not fit or is empty.
    """
    if not regions or not category.has_masks:
        return category

    def judge(sample: Sample) -> Sample:
        if sample.mask_path is None:
            return sample
        mask = read_pair(sample.path, sample.mask_path)[1]
        inside = regions.of(sample.path, (mask.shape[0], mask.shape[1]))
        return sample if (mask & inside).any() else replace(sample, label=0, defect=NORMAL, mask_path=None)

    return replace(category, test=tuple(judge(sample) for sample in category.test))


class PlannedDataset(Dataset[PlannedBatch]):
    """Normal images with the plans of their twins; the twins are made later, on the device.

    Args:
        images: The normal images, with the part found on each.
        textures: Texture images; None where no source needs them.
        seed: Seed of the run.
        augmentation: What is done to the normal images, or None.
        inside: N regions of interest; None where all pixels count.
        counts: Number of images of each category, which follow each other; None where all are of one.
    """

    def __init__(
        self,
        *,
        images: ImageStore,
        textures: ImageStore | None,
        seed: int,
        augmentation: Augmentation | Jitter | None = None,
        inside: PackedMasks | None = None,
        counts: Sequence[int] | None = None,
    ) -> None:
        self.images, self.textures, self.inside = images, textures, inside
        self.seed, self.augmentation = seed, augmentation
        self._draw_views(len(images))
        self._know_categories(counts or [len(images)])

    def _know_categories(self, counts: Sequence[int]) -> None:
        own = torch.tensor(counts, dtype=torch.int64)
        self._first, self._count = (own.cumsum(0) - own).repeat_interleave(own), own.repeat_interleave(own)

    def __len__(self) -> int:
        """Return the number of normal images."""
        return len(self.images)

    def _draw_views(self, count: int) -> None:
        drawn = isinstance(self.augmentation, Jitter)
        self.views = self.augmentation.views(count) if isinstance(self.augmentation, Jitter) else 1
        self.drawn = draw_views(self.seed, images=count if drawn else 0, views=self.views)

    @property
    def nbytes(self) -> int:
        """What images, foregrounds and textures take where they are in memory."""
        return sum(store.nbytes for store in (self.images, self.textures) if store is not None)

    @property
    def shares(self) -> Tensor:
        """The share of each image that is part and counts, ``(N,)`` float32."""
        if self.inside is None:
            return self.images.shares
        rows = torch.arange(len(self)).split(64)
        return torch.cat([self._take(some, [])[1].float().mean((1, 2, 3)) for some in rows])

    def on(self, device: torch.device) -> "PlannedDataset":
        """Give the same data set with its images on a device, where batches are gathered then."""
        other = copy(self)
        other.images = self.images.on(device)
        other.textures = None if self.textures is None else self.textures.on(device)
        other.inside = None if self.inside is None else self.inside.on(device)
        return other

    def __getitems__(self, places: list[Place]) -> PlannedBatch:
        """Gather one device's part of a batch, or of several steps' batches, at once."""
        by_step = groupby(places, key=lambda place: place[0])
        plan = torch.cat([draw_plan(self.seed, step, [place for _, place, _ in part]) for step, part in by_step])
        view = torch.tensor([index for _, _, index in places])
        own = view % len(self)
        # Another image of its category: a shift by 1 to N - 1, so never the image itself (unless it is the only one).
        first, count = self._first[own], self._count[own]
        shift = 1 + (plan[:, Column.OTHER] * (count - 1).clamp(min=1)).long()
        other = first + (own - first + shift) % count
        images, foreground, inside = self._take(own, places)
        if isinstance(self.augmentation, Augmentation):
            images, foreground = self._augment(self.augmentation, images, foreground, places)
        jitter = self.drawn[view] if len(self.drawn) else self.drawn
        others = self._take_others(other, places)
        textures = others[:0]
        if self.textures is not None:
            textures = self.textures.pixels((plan[:, Column.TEXTURE] * len(self.textures)).long())
        return PlannedBatch(images, others, foreground, textures, plan, jitter, view, inside)

    def plain(self, places: list[Place]) -> Tensor:
        """Give normal images without augmentation and twins, grey where pixels do not count, ``(B, 3, h, w)`` uint8."""
        images, _, inside = self._take(torch.tensor([index for _, _, index in places]), places)
        return images if inside is None else paint_outside(images, inside)

    def _take(self, own: Tensor, places: list[Place]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Give the normal images, their foregrounds and their regions."""
        images, foreground = self.images.read(own)
        if self.inside is None:
            return images, foreground, None
        inside = self.inside[own]
        return images, part_inside(foreground, inside), inside

    def _take_others(self, other: Tensor, places: list[Place]) -> Tensor:
        return self.images.pixels(other)

    def _augment(
        self, augmentation: Augmentation, images: Tensor, foreground: Tensor, places: list[Place]
    ) -> tuple[Tensor, Tensor]:
        results = []
        for image, mask, (step, place, _) in zip(images, foreground, places, strict=True):
            given = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
            result = augmentation(
                seed=augmentation_seed(self.seed, step=step, place=place),
                image=given,
                mask=mask[0].numpy().astype(np.uint8),
            )
            made = result["image"]
            if made.dtype != np.uint8 or made.shape != given.shape:
                raise UserError(
                    f"the augmentation turns {given.dtype} images {given.shape} into {made.dtype} {made.shape}; use "
                    "transforms that keep kind and size (normalisation is the teacher's business)"
                )
            results.append(result)
        changed = torch.stack([torch.from_numpy(np.ascontiguousarray(r["image"])).permute(2, 0, 1) for r in results])
        masks = torch.stack([torch.from_numpy(np.ascontiguousarray(r["mask"])).bool()[None] for r in results])
        return changed, masks


def part_inside(foreground: Tensor, inside: Tensor) -> Tensor:
    """Give the part within the region of interest; the region where none of the part lies in it.

    Args:
        foreground: ``(B, 1, h, w)`` bool.
        inside: Same shape.

    Returns:
        Same shape.
    """
    part = foreground & inside
    return torch.where(part.flatten(1).any(1).view(-1, 1, 1, 1), part, inside)


class NormalPixels:
    """Normal images as the networks see them, without augmentation and twins, some at a time.

    Args:
        dataset: The images; of large ones a crop of each is taken.
        step: By which crops are drawn.
    """

    def __init__(self, dataset: PlannedDataset, *, step: int) -> None:
        self.dataset, self.step = dataset, step

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.dataset)

    def __getitem__(self, part: slice | Tensor) -> Tensor:
        """Give images by a slice or by positions: ``(B, 3, h, w)`` uint8, grey where pixels do not count."""
        return self.dataset.plain([(self.step, i, i) for i in torch.arange(len(self))[part].tolist()])


class FileDataset(Dataset[EvaluationBatch]):
    """Test images and masks from files, at the input size.

    Args:
        samples: What to read.
        size: Height and width in pixels; None for the images' own, which is for one image at a time.
        native_masks: Leave the masks at the images' own sizes.
        regions: Which pixels of them count.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        size: tuple[int, int] | None,
        *,
        native_masks: bool = False,
        regions: Regions | None = None,
    ) -> None:
        self.samples, self.size, self.native_masks, self.regions = samples, size, native_masks, regions

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.samples)

    def __getitems__(self, indices: list[int]) -> EvaluationBatch:
        """Read a batch."""
        images, masks, inside = [], [], []
        for index in indices:
            sample = self.samples[index]
            image, mask = read_pair(sample.path, sample.mask_path)
            height, width = mask.shape
            images.append(resize_images(_as_batch(image), self.size or (height, width)))
            if self.regions:
                region = self.regions.of(sample.path, (height, width))
                mask = mask & region
                inside.append(torch.from_numpy(region)[None])
            masks.append(torch.from_numpy(mask)[None])
        labels = torch.tensor([self.samples[index].label for index in indices])
        known = (labels, torch.tensor(indices), inside or None)
        if self.native_masks:
            return EvaluationBatch(torch.cat(images), masks, *known)
        resized = torch.cat([resize_masks(mask[None], self.size or (mask.shape[1], mask.shape[2])) for mask in masks])
        return EvaluationBatch(torch.cat(images), resized, *known)


def _as_batch(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).unsqueeze(0)  # a copy: decoded arrays are read-only
