"""Regions of interest: which pixels of an image count, by masks or polygons."""

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from dmdd.core.errors import UserError
from dmdd.data.images import read_mask
from dmdd.data.listing import list_images, name_key

GREY = 128
"""What is painted over pixels that do not count: the middle of the range, which teachers see as zero."""

Shapes = dict[str | None, Any]
"""By image, or for all under None: a mask file, a mask ``(H, W)`` bool, or a list of polygons."""


class Regions:
    """Tell for each image which pixels count: those of ``roi`` that ``ignore`` does not take away.

    Each of the two is an image file that is not black where the region is, for all images; a folder with one such file
    an image, of the image's name; a JSON file with polygons, a list for all images or an object that names images; or
    a list of polygons. A polygon is a list of corners ``[x, y]`` in pixels. An image without an entry of its own has
    nothing to ignore, but must have a region of interest.

    Args:
        roi: The region of interest; None for the whole image.
        ignore: What does not count within it; None for nothing.
        base: The folder that the images' names count from.

    Raises:
        UserError: A file or folder is missing, or holds neither masks nor polygons.

    Source: ours.
    """

    def __init__(self, roi: Any = None, ignore: Any = None, *, base: Path | None = None) -> None:
        self.base = base
        given = {name: value for name, value in (("roi", roi), ("ignore", ignore)) if value is not None}
        self._told = {
            name: f"{name}={value}" if isinstance(value, str | Path) else f"{name}=" for name, value in given.items()
        }
        self._shapes = {name: _read_shapes(name, value) for name, value in given.items()}
        self._mask = lru_cache(maxsize=4)(self._draw)

    def __bool__(self) -> bool:
        """Return whether any image has a region."""
        return bool(self._shapes)

    def common(self, size: tuple[int, int]) -> np.ndarray | None:
        """Give the region ``(H, W)`` bool of all images of a size; None where images have regions of their own."""
        named = any(key is not None for shapes in self._shapes.values() for key in shapes)
        return None if named or not self else self.of(None, size)

    def of(self, path: Path | None, size: tuple[int, int]) -> np.ndarray:
        """Give the region of one image.

        Args:
            path: The image file; None for an image without a name.
            size: Its height and width in pixels.

        Returns:
            ``(H, W)`` bool, True where pixels count.

        Raises:
            UserError: The region is of another size, empty, or missing.
        """
        inside = np.ones(size, bool)
        for name in self._shapes:
            key = self._key(name, path)
            if key is None and None not in self._shapes[name]:
                if name == "roi":
                    raise UserError(f"{self._told[name]} has no region for {path or 'an image without a name'}")
                continue
            mask = self._mask(name, key, size)
            inside &= mask if name == "roi" else ~mask
        if not inside.any():
            told = ", ".join(self._told.values())
            raise UserError(f"{told}: no pixel is left{f' of {path}' if path else ''}; give a larger region")
        return inside

    def _key(self, name: str, path: Path | None) -> str | None:
        """Find the name under which an image has a region of its own; None for that of all."""
        if path is None:
            return None
        below = self.base is not None and path.is_relative_to(self.base)
        key = name_key(path, below=self.base if below and self.base is not None else path.parent)
        return key if key in self._shapes[name] else None

    def _draw(self, name: str, key: str | None, size: tuple[int, int]) -> np.ndarray:
        shape = self._shapes[name][key]
        if isinstance(shape, list):
            canvas = np.zeros(size, np.uint8)
            cv2.fillPoly(canvas, [np.asarray(polygon, np.float64).round().astype(np.int32) for polygon in shape], 1)
            return canvas > 0
        mask = read_mask(shape) if isinstance(shape, Path) else shape
        if mask.shape != tuple(size):
            raise UserError(
                f"the region {self._told[name]} is {mask.shape[1]} x {mask.shape[0]} px but the image is {size[1]} x "
                f"{size[0]} px: both must have the same size"
            )
        return mask


class PackedMasks:
    """Masks of one size, each distinct one once and eight pixels to the byte: many images often share a region.

    Args:
        packed: ``(M, L)`` uint8, the distinct ones, L bytes each.
        which: ``(N,)`` int64, the one of each image.
        size: Height and width in pixels.

    Source: ours.
    """

    def __init__(self, packed: Tensor, which: Tensor, size: tuple[int, int]) -> None:
        self.packed, self.which, self.size = packed, which, size

    @classmethod
    def of(cls, masks: Iterable[Tensor], size: tuple[int, int]) -> "PackedMasks":
        """Keep masks that come one after the other.

        Args:
            masks: At least one, of ``h w`` bool values each.
            size: Height and width in pixels.

        Returns:
            All of them.
        """
        places: dict[bytes, int] = {}
        which = [places.setdefault(np.packbits(mask.numpy()).tobytes(), len(places)) for mask in masks]
        packed = np.empty((len(places), -(-size[0] * size[1] // 8)), np.uint8)
        while places:  # each is freed once it is copied
            mask, row = places.popitem()
            packed[row] = np.frombuffer(mask, np.uint8)
        return cls(torch.from_numpy(packed), torch.tensor(which), size)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.which)

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Give some of them, ``(B, 1, h, w)`` bool, where they lie."""
        device, (height, width) = self.packed.device, self.size
        rows = rows if isinstance(rows, slice) else rows.to(device, non_blocking=True)
        bits = self.packed[self.which[rows]].unsqueeze(-1) >> torch.arange(7, -1, -1, device=device, dtype=torch.uint8)
        return (bits & 1).bool().flatten(1)[:, : height * width].reshape(-1, 1, height, width)

    def part(self, rows: Sequence[int]) -> "PackedMasks":
        """Give those of some images."""
        return PackedMasks(self.packed, self.which[list(rows)], self.size)

    def on(self, device: torch.device) -> "PackedMasks":
        """Give the same in the memory of a device."""
        return PackedMasks(self.packed.to(device), self.which.to(device), self.size)


def choose_regions(own: Tensor | None, *, roi: Any, ignore: Any, base: Path | None = None) -> Regions:
    """Take the regions that were given, else the one that a model was trained on.

    Args:
        own: ``(H, W)`` bool, the model's, or None.
        roi: As for :class:`Regions`.
        ignore: As for :class:`Regions`.
        base: The folder that images' names count from.

    Returns:
        Which pixels count.

    Raises:
        UserError: A region cannot be read.
    """
    if roi is None and ignore is None and own is not None:
        regions = Regions(own.numpy())
        regions._told["roi"] = "of the model"
        return regions
    return Regions(roi, ignore, base=base)


def _read_shapes(name: str, given: Any) -> Shapes:
    if isinstance(given, np.ndarray):
        return {None: given}
    if not isinstance(given, str | Path):
        return {None: _polygons(name, given, given)}
    path = Path(given).expanduser()
    if path.is_dir():
        files: Shapes = {name_key(file, below=path): file for file in list_images(path, nested=True)}
        if not files:
            raise UserError(f"{name}={given}: no mask files in this folder")
        return files
    if not path.is_file():
        raise UserError(f"{name}={given}: no such file or folder")
    if path.suffix.lower() != ".json":
        return {None: path}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{name}={given} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        return {None: _polygons(name, given, content)}
    return {
        name_key(Path(image), below=Path()): _polygons(name, given, polygons) for image, polygons in content.items()
    }


def _polygons(name: str, given: Any, content: Any) -> list[Any]:
    try:
        shapes = [np.asarray(polygon, np.float64) for polygon in content]
    except (TypeError, ValueError):
        shapes = []
    if not shapes or any(s.ndim != 2 or s.shape[1] != 2 or len(s) < 3 or not np.isfinite(s).all() for s in shapes):
        raise UserError(f"{name}={given}: give a list of polygons, each of three or more corners [x, y] in pixels")
    return [shape.tolist() for shape in shapes]


def paint_outside(images: Tensor, inside: Tensor) -> Tensor:
    """Paint grey what does not count, so that nothing there is seen.

    Args:
        images: ``(B, 3, h, w)`` uint8 in [0, 255] or float in [0, 1].
        inside: ``(B, 1, h, w)`` bool, or of one image for all.

    Returns:
        The same where ``inside`` is True.
    """
    grey = GREY if images.dtype == torch.uint8 else GREY / 255
    return torch.where(inside.to(images.device), images, torch.full((), grey, dtype=images.dtype, device=images.device))
