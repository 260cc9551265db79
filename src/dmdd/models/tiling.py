"""Images much larger than the detector's input, seen in overlapping tiles at their own resolution."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dmdd.core.errors import UserError, check_tiles
from dmdd.core.resize import resize_masks
from dmdd.data.regions import paint_outside
from dmdd.models.blocks import upsample
from dmdd.models.detector import Detector, DetectorOutput, Tiling

CHUNK = 16
"""Tiles that go through the network at once: at 256 px their largest activations take about 100 MB."""


class TileDetector(Protocol):
    """What tiles are given to: a ``Detector``, or its form in an exported graph."""

    input_size: tuple[int, int]

    def __call__(self, images: Tensor, /) -> Any:
        """Map ``(B, 3, H, W)`` uint8 images to a ``DetectorOutput`` at the input size."""


class Axis(NamedTuple):
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
        overlap: Share of a tile that at least lies in the next one, from 0 to 0.9.

    Returns:
        The map ``(B, 1, H, W)`` float32 in [0, 1] at the images' size, and the score ``(B,)``: the largest of the
        tiles' scores, since one anomalous tile makes an anomalous image.

    Raises:
        UserError: ``tile_px`` or ``overlap`` is out of its range.

    Source: ours. Only tensor operations on shapes, so that ``torch.export`` can trace it for any image size.
    """
    rows, columns = _axes(images, Tiling(*check_tiling(detector, tile_px, overlap)))
    prediction = _detect(detector, _cut(images, rows, columns))
    whole = _stitch(prediction.map, rows, columns, batch=images.shape[0])
    return DetectorOutput(whole, prediction.score.reshape(images.shape[0], -1).amax(1))


class Seen(NamedTuple):
    """What a detector says of images, by map.

    Args:
        maps: ``(B, 1, H, W)`` float32 in [0, 1] by name; at the images' size where they were cut into tiles, else at
            the detector's input size.
        scores: ``(B,)`` in [0, 1] by name; with tiles the largest of the tiles' scores.
        tile_scores: ``(B, T)`` scores of each image's tiles, read from the detector's score map; ``T`` is 1 without.
        tile_baselines: ``(B, T)`` means of the score map.
    """

    maps: dict[str, Tensor]
    scores: dict[str, Tensor]
    tile_scores: Tensor
    tile_baselines: Tensor


def look(
    detector: Detector,
    images: Tensor,
    *,
    only: Sequence[str],
    tiling: Tiling | None = None,
    inside: Tensor | None = None,
) -> Seen:
    """Compute several maps and scores of images, seen whole or in tiles.

    Tiles are cut and blended as :func:`detect_tiled` does it, one map after the other, so that the memory taken is that
    of one image and not that of the number of maps.

    Args:
        detector: In evaluation mode.
        images: ``(B, 3, H, W)`` uint8 in [0, 255] or, without tiles, float in [0, 1], RGB, any size.
        only: Names of the maps wanted; the detector's ``score_map`` is among them.
        tiling: How images are cut; None sees them whole.
        inside: ``(B, 1, H, W)`` bool, the region of interest, of the images' size; without tiles of any. What is
            outside is painted grey after the resize; scores and baselines know only the rest, maps are of all pixels.

    Returns:
        Maps and scores.

    Raises:
        UserError: There is a region, and the detector's score is read from the smoothed map.

    Source: ours.
    """
    batch = images.shape[0]
    axes = None if tiling is None else _axes(images, tiling)
    tiles = images if axes is None else _cut(images, *axes)
    windows = None
    if inside is not None:
        inside = inside.to(images.device)
        windows = resize_masks(inside if axes is None else _cut(inside, *axes), detector.input_size)
    parts = []
    for start in range(0, len(tiles), CHUNK if axes else len(tiles)):
        rows = slice(start, start + CHUNK if axes else None)
        chunk = tiles[rows]
        if windows is not None:
            chunk = paint_outside(detector.resize(chunk), windows[rows])
        parts.append(detector.raw_maps(chunk, only=only))
    raw = {name: torch.cat([part[name] for part in parts]) for name in only}
    scores = {name: score_inside(detector, name, values, windows).reshape(batch, -1) for name, values in raw.items()}
    maps = {}
    for name, values in raw.items():
        smooth = torch.cat([detector.smooth(chunk) for chunk in values.split(CHUNK)])
        maps[name] = smooth if axes is None else _stitch(smooth, *axes, batch=batch)
    own = raw[detector.score_map]
    own = detector.smooth(own) if detector.score_smoothed else own
    baselines = baselines_inside(own, windows).reshape(batch, -1)
    best = {name: values.amax(1) for name, values in scores.items()}
    return Seen(maps, best, scores[detector.score_map], baselines)


def score_inside(detector: Detector, name: str, raw: Tensor, inside: Tensor | None) -> Tensor:
    """Score raw maps by what lies in a region.

    Args:
        detector: Knows how.
        name: Of the map.
        raw: ``(B, 1, h, w)`` in [0, 1].
        inside: ``(B, 1, H, W)`` bool, the region of interest; None where all pixels count.

    Returns:
        ``(B,)`` in [0, 1]; 0 where no pixel counts.

    Raises:
        UserError: There is a region, and the detector's score is read from the smoothed map.
    """
    if inside is None:
        return detector.image_score(name, raw)
    if detector.score_smoothed:
        raise UserError("a region of interest needs a score of the raw map: detector.score_smoothed=false")
    counted = share_inside(inside, (raw.shape[2], raw.shape[3]))
    scores = raw.new_zeros(len(raw))
    for row, (values, kept) in enumerate(zip(raw, counted, strict=True)):
        if kept.any():
            scores[row] = detector.image_score(name, values[kept].view(1, 1, 1, -1))[0]
    return scores


def baselines_inside(raw: Tensor, inside: Tensor | None) -> Tensor:
    """Average raw maps within a region.

    Args:
        raw: ``(B, 1, h, w)``.
        inside: ``(B, 1, H, W)`` bool; None where all pixels count.

    Returns:
        ``(B,)``; 0 where no pixel counts.
    """
    if inside is None:
        return raw.mean((1, 2, 3))
    counted = share_inside(inside, (raw.shape[2], raw.shape[3]))
    return (raw * counted).sum((1, 2, 3)) / counted.sum((1, 2, 3)).clamp(min=1)


def share_inside(inside: Tensor, size: tuple[int, int]) -> Tensor:
    """Say which pixels of raw maps lie in a region for the most part; where none does, those that touch it.

    Args:
        inside: ``(B, 1, H, W)`` bool, the region.
        size: Height and width of the raw maps.

    Returns:
        ``(B, 1, *size)`` bool.
    """
    share = F.adaptive_avg_pool2d(inside.float(), size)
    most = share >= 0.5
    return torch.where(most.flatten(1).any(1).view(-1, 1, 1, 1), most, share > 0)


def _axes(images: Tensor, tiling: Tiling) -> tuple[Axis, Axis]:
    sides = zip(images.shape[-2:], tiling.tile_px, strict=True)
    rows, columns = (place_tiles(length, size, tiling.overlap, images.device) for length, size in sides)
    return rows, columns


def _stitch(maps: Tensor, rows: Axis, columns: Axis, *, batch: Any) -> Tensor:
    """Blend the maps ``(B * tiles, 1, h, w)`` of tiles, as :func:`_cut` orders them, to ``(B, 1, H, W)``."""
    maps = upsample(maps, (rows.size, columns.size))
    grid = maps.reshape(batch, rows.starts.shape[0], columns.starts.shape[0], rows.size, columns.size)
    mosaic = grid.permute(0, 1, 3, 2, 4).flatten(3, 4).flatten(1, 2)
    return blend(blend(mosaic, rows, dim=1), columns, dim=2).unsqueeze(1)


def tile_images(images: Tensor, tiling: Tiling) -> Tensor:
    """Cut images into the tiles that :func:`look` sees.

    Args:
        images: ``(B, C, H, W)``.
        tiling: How they are cut.

    Returns:
        ``(B * tiles, C, h, w)``, row by row.
    """
    return _cut(images, *_axes(images, tiling))


def choose_tiling(detector: Detector, *, tile_px: int | Sequence[int] | None, overlap: float | None) -> Tiling:
    """Take the tiles that were given, else those the detector was trained on, else tiles of its input size.

    Args:
        detector: Trained on tiles or not.
        tile_px: Side of a tile, or its height and width, in pixels of the image, or None.
        overlap: Share of a tile that at least lies in the next one, or None.

    Returns:
        How images are cut.

    Raises:
        UserError: One of them is out of its range.
    """
    own = detector.tiling or Tiling(detector.input_size, 0.25)
    return Tiling(
        *check_tiles(tile_px if tile_px is not None else own.tile_px, own.overlap if overlap is None else overlap)
    )


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
    return check_tiles(detector.input_size if tile_px is None else tile_px, overlap)


def place_tiles(length: int, tile: int, overlap: float, device: torch.device | None = None) -> Axis:
    """Spread tiles evenly over one side.

    Args:
        length: Of the side, in pixels.
        tile: Side of a tile in pixels.
        overlap: Share of a tile that at least lies in the next one.
        device: Where the starts are to be.

    Returns:
        The tiles.
    """
    stride = max(1, round(tile * (1 - overlap)))
    # Python's min would decide on a length that is a symbol when traced.
    size: Any = torch.sym_min(length, tile)
    count = (length - size + stride - 1) // stride + 1
    spaces: Any = torch.sym_max(count - 1, 1)
    starts = torch.arange(count, device=device) * (length - size) // spaces
    # Evenly spaced starts are closer than the stride, but never closer than half of it.
    return Axis(starts, size, length, (tile - 1) // max(1, stride // 2) + 1)


def _cut(images: Tensor, rows: Axis, columns: Axis) -> Tensor:
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


def blend(values: Tensor, axis: Axis, *, dim: int) -> Tensor:
    """Merge the tiles that lie one after the other along ``dim`` into one side of the image.

    Args:
        values: Of any shape; ``dim`` is as long as all tiles together.
        axis: The tiles.
        dim: Which dimension.

    Returns:
        The same with ``dim`` as long as the image.
    """
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
