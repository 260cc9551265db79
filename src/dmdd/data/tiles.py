"""Training on tiles: random crops of large images, of which only some are kept decoded."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dmdd.core.errors import UserError
from dmdd.core.resize import resize_images, resize_masks
from dmdd.data.augmentation import Augmentation, Jitter
from dmdd.data.datasets import EvaluationBatch, PlannedDataset, part_inside
from dmdd.data.images import read_image
from dmdd.data.regions import Regions
from dmdd.data.sampling import Place, crop_draws
from dmdd.data.store import ImagesInMemory, ImageStore
from dmdd.pairs import Column, PairSynthesis, draw_plan, estimate_foreground

KEPT_BYTES = 4_000_000_000
"""Decoded images that stay in memory; the others are decoded anew for each crop."""

ON_THE_PART = 0.75
"""Share of the crops that are drawn around a place of the part; the others lie anywhere, since maps cover all."""


class LargeImages:
    """Images at their own sizes, with an estimate of where the part is.

    Args:
        paths: Image files.
        tile_px: Height and width of a tile in pixels.
        size: Height and width at which the part is estimated.
        regions: Which pixels of the images count.

    Raises:
        UserError: A file cannot be read, or an image is not larger than a tile.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        tile_px: tuple[int, int],
        size: tuple[int, int],
        regions: Regions | None = None,
    ) -> None:
        self.paths, self.tile_px, self.regions = list(paths), tile_px, regions
        self._kept: list[Tensor] = []
        self.sizes: list[tuple[int, int]] = []
        foregrounds, regions_seen, left = [], [], KEPT_BYTES
        for path in self.paths:
            image = _read(path)
            height, width = image.shape[1:]
            if height <= tile_px[0] and width <= tile_px[1]:
                raise UserError(
                    f"data.tile_px={list(tile_px)}: {path} is not larger than a tile, it has {height} x {width} px; "
                    "give a smaller tile, or leave data.tile_px out"
                )
            left -= image.numel()
            if left >= 0 or not self._kept:
                self._kept.append(image)
            self.sizes.append((height, width))
            small = resize_images(image[None], size)[0].permute(1, 2, 0).contiguous().numpy()
            foregrounds.append(torch.from_numpy(estimate_foreground(small))[None, None])
            inside = self.inside(len(self.sizes) - 1)
            regions_seen.append(torch.ones_like(foregrounds[-1]) if inside is None else resize_masks(inside, size))
        # At this size both: where pairs are made, and where crops are taken at all.
        self._inside = torch.cat(regions_seen)
        self.foregrounds = part_inside(torch.cat(foregrounds), self._inside)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    @property
    def kept(self) -> int:
        """How many of the first images stay decoded."""
        return len(self._kept)

    def image(self, index: int) -> Tensor:
        """Give one image ``(3, H, W)`` uint8."""
        return self._kept[index] if index < len(self._kept) else _read(self.paths[index])

    def place(self, index: int, draws: np.ndarray) -> tuple[slice, slice]:
        """Choose where a crop lies, on the part more often than not, and at the image's border as often as tiles do.

        Args:
            index: Of the image.
            draws: Four numbers in [0, 1).

        Returns:
            Rows and columns of the image.
        """
        part = self.foregrounds[index, 0].numpy()
        inside = np.flatnonzero(part if draws[0] < ON_THE_PART and part.any() else self._inside[index, 0].numpy())
        row, column = divmod(int(inside[int(draws[1] * len(inside))]), part.shape[1])
        sides = []
        for at, count, length, tile, draw in zip(
            (row, column), part.shape, self.sizes[index], self.tile_px, draws[2:4], strict=True
        ):
            side = min(length, tile)
            # Around the place, not with it in the middle; what would lie outside is pushed to the border.
            start = round((at + 0.5) / count * length - draw * side)
            start = min(max(start, 0), length - side)
            sides.append(slice(start, start + side))
        return sides[0], sides[1]

    def foreground(self, index: int, place: tuple[slice, slice], size: tuple[int, int]) -> Tensor:
        """Give the part within a crop, ``(1, *size)`` bool."""
        part, places = self.foregrounds[index, 0], []
        for crop, length, count, wanted in zip(place, self.sizes[index], part.shape, size, strict=True):
            pixels = crop.start + (np.arange(wanted) + 0.5) * (crop.stop - crop.start) / wanted
            places.append(torch.from_numpy((pixels * count / length).astype(np.int64)))
        return part[places[0]][:, places[1]][None]

    def inside(self, index: int) -> Tensor | None:
        """Give the region of interest of one image, ``(1, 1, H, W)`` bool; None where all pixels count."""
        if not self.regions:
            return None
        return torch.from_numpy(self.regions.of(self.paths[index], self.sizes[index]))[None, None]

    def crop(self, index: int, place: tuple[slice, slice]) -> Tensor:
        """Give a part of one image, ``(3, h, w)`` uint8."""
        return self.image(index)[:, place[0], place[1]]


def _read(path: Path) -> Tensor:
    return torch.from_numpy(np.array(read_image(path))).permute(2, 0, 1).contiguous()


class TileDataset(PlannedDataset):
    """Random crops of normal images with the plans of their twins.

    Args:
        large: The images.
        size: Height and width of the networks' input; crops are resized to it as tiles are.
        textures: Texture images; None where no source needs them.
        seed: Seed of the run.
        augmentation: What is done to the crops, or None.
        counts: As of a `PlannedDataset`.

    Source: ours.
    """

    def __init__(
        self,
        *,
        large: LargeImages,
        size: tuple[int, int],
        textures: ImageStore | None,
        seed: int,
        augmentation: Augmentation | Jitter | None = None,
        counts: Sequence[int] | None = None,
    ) -> None:
        super().__init__(images=ImagesInMemory.empty(size), textures=textures, seed=seed)
        self.large, self.size, self.augmentation = large, size, augmentation
        self._draw_views(len(large))
        self._know_categories(counts or [len(large)])

    def __len__(self) -> int:
        """Return the number of images that crops are taken from."""
        return len(self.large)

    @property
    def shares(self) -> Tensor:
        """The share of each image that is part and counts, ``(N,)`` float32."""
        return torch.stack([part.float().mean() for part in self.large.foregrounds])

    def _take(self, own: Tensor, places: list[Place]) -> tuple[Tensor, Tensor, Tensor | None]:
        images, foregrounds, inside = [], [], []
        for index, (step, place, _) in zip(own.tolist(), places, strict=True):
            where = self.large.place(index, crop_draws(self.seed, step=step, place=place)[0])
            images.append(resize_images(self.large.crop(index, where)[None], self.size))
            foregrounds.append(self.large.foreground(index, where, self.size))
            if (region := self.large.inside(index)) is not None:
                inside.append(resize_masks(region[:, :, where[0], where[1]], self.size))
        seen = torch.cat(images).contiguous(memory_format=torch.channels_last)
        return seen, torch.stack(foregrounds), torch.cat(inside) if inside else None

    def _take_others(self, other: Tensor, places: list[Place]) -> Tensor:
        crops = []
        for index, (step, place, _) in zip(other.tolist(), places, strict=True):
            index %= self.large.kept  # one that need not be decoded
            where = self.large.place(index, crop_draws(self.seed, step=step, place=place)[1])
            crops.append(resize_images(self.large.crop(index, where)[None], self.size))
        return torch.cat(crops).contiguous(memory_format=torch.channels_last)


class WholeDataset(Dataset[EvaluationBatch]):
    """Normal images at their own sizes, each with a twin that is changed within one crop: the synthetic validation.

    Args:
        large: The images held out.
        synthesis: What makes a twin of a crop, at the size of a tile, as in training.
        textures: Texture images; None where no source needs them.
        seed: Seed of the run.
        first_step: Step of the first round; of later ones, which have other twins, only the twins are given.

    Source: ours.
    """

    def __init__(
        self, *, large: LargeImages, synthesis: PairSynthesis, textures: ImageStore | None, seed: int, first_step: int
    ) -> None:
        self.large, self.synthesis, self.textures, self.seed = large, synthesis, textures, seed
        self.first_step = first_step

    def __len__(self) -> int:
        """Return the number of normal images."""
        return len(self.large)

    def __getitems__(self, places: list[Place]) -> EvaluationBatch:
        """Make one pair, laid out as two images to be scored."""
        ((step, place, index),) = places
        image, plan = self.large.image(index), draw_plan(self.seed, step, [place])
        own, other = crop_draws(self.seed, step=step, place=place)
        where = self.large.place(index, own)
        crop = image[:, where[0], where[1]][None]
        size = (crop.shape[2], crop.shape[3])
        made, changed = self.synthesis(
            crop,
            plan,
            others=self._other(index, float(plan[0, Column.OTHER]), other, size),
            foreground=self.large.foreground(index, where, size)[None],
            textures=self._texture(float(plan[0, Column.TEXTURE]), size),
        )
        twin, mask = image.clone(), torch.zeros(1, *image.shape[1:], dtype=torch.bool)
        mask[:, where[0], where[1]] = changed[0].bool()
        twin[:, where[0], where[1]] = (made[0] * 255).round().to(torch.uint8)
        inside = self.large.inside(index)
        if inside is not None:
            twin, mask = torch.where(inside[0], twin, image), mask & inside[0]
        images, masks = torch.stack([image, twin]), torch.stack([torch.zeros_like(mask), mask])
        number = (step - self.first_step) * len(self) + index
        kept = slice(0 if step == self.first_step else 1, 2)
        indices, labels = torch.tensor([number, -1 - number]), masks.flatten(1).any(1).long()
        regions = None if inside is None else [inside[0], inside[0]][kept]
        return EvaluationBatch(images[kept], masks[kept], labels[kept], indices[kept], regions)

    def _other(self, index: int, shift: float, draws: np.ndarray, size: tuple[int, int]) -> Tensor:
        other = (index + 1 + int(shift * max(len(self) - 1, 1))) % self.large.kept
        return resize_images(self.large.crop(other, self.large.place(other, draws))[None], size)

    def _texture(self, draw: float, size: tuple[int, int]) -> Tensor | None:
        if self.textures is None:
            return None
        return resize_images(self.textures.pixels(torch.tensor([int(draw * len(self.textures))])), size)
