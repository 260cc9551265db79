"""Training images from a store, and evaluation images from files: what the loaders hand to the device."""

from collections.abc import Sequence
from copy import copy
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dmdd.core.errors import UserError
from dmdd.core.resize import resize_images, resize_masks
from dmdd.data.augmentation import Augmentation, Jitter, draw_views
from dmdd.data.images import read_pair
from dmdd.data.listing import Sample
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
    """

    images: Tensor
    others: Tensor
    foreground: Tensor
    textures: Tensor
    plan: Tensor
    jitter: Tensor
    indices: Tensor


class PairBatch(NamedTuple):
    """Pairs as the networks see them.

    Args:
        normal: ``(B, 3, h, w)`` uint8 RGB as read, or float32 in [0, 1] where jittered.
        anomalous: ``(B, 3, h, w)`` float32 in [0, 1], channels last in memory.
        mask: ``(B, 1, h, w)`` float32 in {0, 1}: one where the twin was changed.
        indices: Position of each normal image in its set, plus its view times the size of the set. Plain numbers: with
            several GPUs a tensor would be moved to the GPU, and read back to look something up.
    """

    normal: Tensor
    anomalous: Tensor
    mask: Tensor
    indices: tuple[int, ...]


class EvaluationBatch(NamedTuple):
    """Images to be scored, with what is known about them.

    Args:
        images: ``(B, 3, h, w)`` uint8 RGB at the input size.
        masks: ``(B, 1, h, w)`` bool at the input size, or B masks ``(1, H, W)`` of the images' own sizes; all False for
            a normal image.
        labels: ``(B,)`` int64, 0 normal, 1 anomalous.
        indices: ``(B,)`` int64, position in the evaluated set; a twin has minus one minus that of its normal image.
    """

    images: Tensor
    masks: Tensor | list[Tensor]
    labels: Tensor
    indices: Tensor


class PlannedDataset(Dataset[PlannedBatch]):
    """Normal images with the plans of their twins; the twins are made later, on the device.

    Args:
        images: The normal images, with the part found on each.
        textures: Texture images, or None.
        seed: Seed of the run.
        augmentation: What is done to the normal images, or None.
    """

    def __init__(
        self,
        *,
        images: ImageStore,
        textures: ImageStore | None,
        seed: int,
        augmentation: Augmentation | Jitter | None = None,
    ) -> None:
        self.images, self.textures, self.seed, self.augmentation = images, textures, seed, augmentation
        self.views = augmentation.views(len(images)) if isinstance(augmentation, Jitter) else 1
        drawn = isinstance(augmentation, Jitter)
        self.drawn = draw_views(seed, images=len(images) if drawn else 0, views=self.views)

    @property
    def nbytes(self) -> int:
        """What images, foregrounds and textures take where they are in memory."""
        return sum(store.nbytes for store in (self.images, self.textures) if store is not None)

    def on(self, device: torch.device) -> "PlannedDataset":
        """Give the same data set with its images on a device, where batches are gathered then."""
        other = copy(self)
        other.images = self.images.on(device)
        other.textures = None if self.textures is None else self.textures.on(device)
        return other

    def __getitems__(self, places: list[Place]) -> PlannedBatch:
        """Gather one device's part of a batch, or of several steps' batches, at once."""
        by_step = groupby(places, key=lambda place: place[0])
        plan = torch.cat([draw_plan(self.seed, step, [place for _, place, _ in part]) for step, part in by_step])
        view = torch.tensor([index for _, _, index in places])
        own = view % len(self.images)
        # Another image: a shift by 1 to N - 1, so never the image itself (unless it is the only one).
        shift = 1 + (plan[:, Column.OTHER] * max(len(self.images) - 1, 1)).long()
        other = (own + shift) % len(self.images)
        images, foreground = self.images.read(own)
        others = self.images.pixels(other)
        textures = others[:0]
        if self.textures is not None:
            textures = self.textures.pixels((plan[:, Column.TEXTURE] * len(self.textures)).long())
        if isinstance(self.augmentation, Augmentation):
            images, foreground = self._augment(self.augmentation, images, foreground, places)
        jitter = self.drawn[view] if len(self.drawn) else self.drawn
        return PlannedBatch(images, others, foreground, textures, plan, jitter, view)

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


class FileDataset(Dataset[EvaluationBatch]):
    """Test images and masks from files, at the input size.

    Args:
        samples: What to read.
        size: Height and width in pixels.
        native_masks: Leave the masks at the images' own sizes.
    """

    def __init__(self, samples: Sequence[Sample], size: tuple[int, int], *, native_masks: bool = False) -> None:
        self.samples, self.size, self.native_masks = samples, size, native_masks

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.samples)

    def __getitems__(self, indices: list[int]) -> EvaluationBatch:
        """Read a batch."""
        images, masks = [], []
        for index in indices:
            sample = self.samples[index]
            image, mask = read_pair(sample.path, sample.mask_path)
            images.append(resize_images(_as_batch(image), self.size))
            masks.append(torch.from_numpy(mask)[None])
        labels = torch.tensor([self.samples[index].label for index in indices])
        if self.native_masks:
            return EvaluationBatch(torch.cat(images), masks, labels, torch.tensor(indices))
        resized = torch.cat([resize_masks(mask[None], self.size) for mask in masks])
        return EvaluationBatch(torch.cat(images), resized, labels, torch.tensor(indices))


def _as_batch(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).unsqueeze(0)  # a copy: decoded arrays are read-only
