"""Images much larger than the detector's input, seen in overlapping tiles at their own resolution."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from dmdd.core.errors import UserError
from dmdd.models.blocks import upsample
from dmdd.models.detector import DetectorOutput

MAX_OVERLAP = 0.9
CHUNK = 16
"""Tiles that go through the network at once: at 256 px their largest activations take about 100 MB."""


class TileDetector(Protocol):
    """What tiles are given to: a ``Detector``, or its form in an exported graph."""

    input_size: tuple[int, int]

    def __call__(self, images: Tensor, /) -> Any:
        """Map ``(B, 3, H, W)`` uint8 images to a ``DetectorOutput`` at the input size."""


class _Axis(NamedTuple):
    """Tiles along one side: where they start, how long they and the image are, and how many cover a pixel at most."""

    starts: Tensor
    size: int
    length: int
    most: int


def detect_tiled(
    detector: TileDetector, images: Tensor, *, tile_px: int | Sequence[int] | None = None, overlap: float = 0.25
) -> DetectorOutput:
    """Detect in overlapping tiles and blend their maps.

    Tiles lie inside the image, evenly spaced, the first and the last at its borders; each is resized to the detector's
    input size. Their maps are weighed with a squared sine that falls to almost zero at the tile's border, so that no
    seam shows; where tiles agree, the blend is exactly what they agree on. A side shorter than a tile is taken whole,
    so an image smaller than a tile is one tile.

    Args:
        detector: A ``Detector`` in evaluation mode.
        images: ``(B, 3, H, W)`` uint8 in [0, 255], RGB, any size.
        tile_px: Side of a tile, or its height and width, in pixels of the image; the detector's input size if None.
        overlap: Share of a tile that at least lies in the next one, from 0 to ``MAX_OVERLAP``.

    Returns:
        The map ``(B, 1, H, W)`` float32 in [0, 1] at the images' size, and the score ``(B,)``: the largest of the
        tiles' scores, since one anomalous tile makes an anomalous image.

    Raises:
        UserError: ``tile_px`` or ``overlap`` is out of its range.

    Source: ours. Only tensor operations on shapes, so that ``torch.export`` can trace it for any image size.
    """
    tile, overlap = check_tiling(detector, tile_px, overlap)
    batch = images.shape[0]
    rows, columns = (
        _place(length, size, overlap, images.device) for length, size in zip(images.shape[-2:], tile, strict=True)
    )
    prediction = _detect(detector, _cut(images, rows, columns))
    maps = upsample(prediction.map, (rows.size, columns.size))
    grid = maps.reshape(batch, rows.starts.shape[0], columns.starts.shape[0], rows.size, columns.size)
    mosaic = grid.permute(0, 1, 3, 2, 4).flatten(3, 4).flatten(1, 2)
    whole = _blend(_blend(mosaic, rows, dim=1), columns, dim=2)
    return DetectorOutput(whole.unsqueeze(1), prediction.score.reshape(batch, -1).amax(1))


def check_tiling(
    detector: TileDetector, tile_px: int | Sequence[int] | None, overlap: float
) -> tuple[tuple[int, int], float]:
    """Check what was given for tiles.

    Args:
        detector: Its input size is the default.
        tile_px: As for :func:`detect_tiled`.
        overlap: As for :func:`detect_tiled`.

    Returns:
        Height and width of a tile in pixels, and the overlap.

    Raises:
        UserError: One of them is out of its range.
    """
    sides = detector.input_size if tile_px is None else (tile_px, tile_px) if isinstance(tile_px, int) else tile_px
    try:
        height, width = (int(side) for side in sides)
    except (TypeError, ValueError):
        height = width = 0
    if height < 1 or width < 1:
        raise UserError(f"tile_px={tile_px}: give a number of pixels, or height and width as in tile_px=[256,256]")
    if not isinstance(overlap, int | float) or not 0 <= overlap <= MAX_OVERLAP:
        raise UserError(f"overlap={overlap}: give a number from 0 to {MAX_OVERLAP}")
    return (height, width), float(overlap)


def _place(length: int, tile: int, overlap: float, device: torch.device) -> _Axis:
    """Spread tiles evenly over one side."""
    stride = max(1, round(tile * (1 - overlap)))
    # Python's min would decide on a length that is a symbol when traced.
    size: Any = torch.sym_min(length, tile)
    count = (length - size + stride - 1) // stride + 1
    spaces: Any = torch.sym_max(count - 1, 1)
    starts = torch.arange(count, device=device) * (length - size) // spaces
    # Evenly spaced starts are closer than the stride, but never closer than half of it.
    return _Axis(starts, size, length, (tile - 1) // max(1, stride // 2) + 1)


def _cut(images: Tensor, rows: _Axis, columns: _Axis) -> Tensor:
    """Cut ``(B, 3, H, W)`` into ``(B * tiles, 3, height, width)``, row by row."""
    parts = images
    for dim, axis in ((2, rows), (3, columns)):
        places = axis.starts[:, None] + torch.arange(axis.size, device=images.device)
        parts = parts.index_select(dim, places.flatten())
    parts = parts.unflatten(3, (columns.starts.shape[0], columns.size))
    parts = parts.unflatten(2, (rows.starts.shape[0], rows.size))
    return parts.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def _detect(detector: TileDetector, tiles: Tensor) -> DetectorOutput:
    if torch.compiler.is_exporting():
        return detector(tiles)  # a graph has no loop over a number of tiles that it does not know
    parts = [detector(chunk) for chunk in tiles.split(CHUNK)]
    return DetectorOutput(torch.cat([part.map for part in parts]), torch.cat([part.score for part in parts]))


def _blend(values: Tensor, axis: _Axis, *, dim: int) -> Tensor:
    """Merge the tiles that lie one after the other along ``dim`` into one side of the image."""
    pixels = torch.arange(axis.length, device=values.device)[:, None]
    first = (axis.starts + axis.size <= pixels).sum(1, keepdim=True)
    # Of the tiles that may cover a pixel, as many as can: ``(length, most)``.
    tile = first + torch.arange(axis.most, device=values.device)
    exists = tile < axis.starts.shape[0]
    tile = torch.where(exists, tile, first)
    offset = pixels - axis.starts[tile]
    covers = exists & (offset >= 0)
    offset = torch.where(covers, offset, 0)
    weights = torch.sin((offset + 0.5) * (math.pi / axis.size)) ** 2 * covers
    weights = weights / weights.sum(1, keepdim=True)
    covering = values.index_select(dim, (tile * axis.size + offset).flatten()).unflatten(dim, (axis.length, axis.most))
    # The first tile plus weighted differences, not a weighted sum: weights that add up to 1 only nearly would show.
    base = covering.select(dim + 1, 0)
    shape = [-1, axis.most, *[1] * (values.ndim - 1 - dim)]
    return base + (weights.reshape(shape) * (covering - base.unsqueeze(dim + 1))).sum(dim + 1)
