"""What a pair needs to know of its normal image: where the part is, where it has structure, its colours."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dmdd.pairs.window import as_float, send

_CELLS = 64  # cells along the shorter side of the coarse grid: 4 px at 256 px, below the size of any defect made here
_FEWEST_CELLS = 4  # a foreground of fewer cells is an estimation failure: the whole image is used instead

_GREY = 0.02  # largest difference between the channels of a grey image: five grey levels of JPEG noise


class Scene(NamedTuple):
    """Facts of a batch of normal images, one row per pair."""

    anchor: Tensor  # (B, 2) float32, y and x in px: a pixel of the foreground
    escape: Tensor  # (B, 2) float32, px: from the anchor to the nearest background; zeros where unknown
    colour: Tensor  # (B, 3) float32: mean colour around the anchor
    grey: Tensor  # (B,) bool: the image has no colour

    def take(self, rows: Tensor) -> "Scene":
        """Select pairs."""
        return Scene(*(fact[rows] for fact in self))


def _pick_cell(weights: Tensor, uniform: Tensor) -> Tensor:
    """Draw a cell index (B,) with probability proportional to integer weights (B, h, w): exact on every device."""
    total = weights.flatten(1).cumsum(1)
    target = (uniform * total[:, -1]).long()
    target = torch.minimum(target, total[:, -1] - 1)  # a float32 product may round up to the total
    return torch.searchsorted(total, target[:, None], right=True)[:, 0]


def _structure(thumbnail: Tensor) -> Tensor:
    """Integer weights (B, h, w): 1 on flat ground, up to 256 where neighbouring cells differ most."""
    down = (thumbnail[:, :, 1:] - thumbnail[:, :, :-1]).abs().amax(1)
    across = (thumbnail[:, :, :, 1:] - thumbnail[:, :, :, :-1]).abs().amax(1)
    change = torch.maximum(F.pad(down, (0, 0, 0, 1)), F.pad(across, (0, 1)))
    return (change * 255).round().long() + 1


def _nearest_background(foreground: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Cells (B, 2) from the given cell to the nearest background cell, zeros where there is none."""
    height, width = foreground.shape[1:]
    rows = torch.arange(height, device=row.device)[None, :, None] - row[:, None, None]
    columns = torch.arange(width, device=row.device)[None, None, :] - column[:, None, None]
    # The index breaks ties, which devices would resolve differently.
    rank = (rows**2 + columns**2) * (height * width) + torch.arange(height * width, device=row.device).view(
        height, width
    )
    best = rank.masked_fill(foreground, torch.iinfo(torch.int64).max).flatten(1).argmin(1)
    escape = torch.stack([best // width - row, best % width - column], dim=1)
    return escape * (~foreground).flatten(1).any(1)[:, None]


def _mean_colour(thumbnail: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Mean (B, 3) of the given cells and their neighbours, those outside the image repeated from its edge."""
    near = torch.arange(-1, 2, device=row.device)
    rows = (row[:, None, None] + near[:, None]).clamp(0, thumbnail.shape[2] - 1)
    columns = (column[:, None, None] + near).clamp(0, thumbnail.shape[3] - 1)
    batch = torch.arange(len(row), device=row.device)[:, None, None]
    return thumbnail[batch, :, rows, columns].mean((1, 2))


def _stride(images: Tensor) -> int:
    return max(1, min(images.shape[-2:]) // _CELLS)


def coarse(images: Tensor) -> Tensor:
    """Take the first pixel of each cell of (..., H, W)."""
    stride = _stride(images)
    return images[..., ::stride, ::stride]


def survey(images: Tensor, uniform: Tensor, *, inside: Tensor | None, structural: Tensor, escaping: Tensor) -> Scene:
    """Choose the place of each anomaly and read what is there.

    Args:
        images: (B, 3, H, W) in [0, 1], or uint8.
        uniform: (B,) float32 in [0, 1): the plan's ANCHOR column.
        inside: (B, H, W) bool, the foreground, or None for the whole image.
        structural: (B,) bool on the CPU: these pairs change structure, so they prefer places that have some.
        escaping: (B,) bool on the CPU: these pairs need the way to the background.

    Returns:
        The facts, on the images' device.

    Source: ours.
    """
    stride = _stride(images)
    thumbnail = as_float(coarse(images).contiguous())
    cells = torch.ones_like(thumbnail[:, 0], dtype=torch.bool)
    if inside is not None:
        cells = coarse(inside)
        cells = cells | (cells.flatten(1).sum(1) < _FEWEST_CELLS)[:, None, None]
    weights = cells.long()
    if structural.any():
        at = send(torch.nonzero(structural)[:, 0], images.device)
        weights[at] *= _structure(thumbnail[at])
    cell = _pick_cell(weights, uniform)
    row, column = cell // cells.shape[2], cell % cells.shape[2]
    escape = torch.zeros(len(images), 2, device=images.device)
    if escaping.any():
        at = send(torch.nonzero(escaping)[:, 0], images.device)
        escape[at] = (_nearest_background(cells[at], row[at], column[at]) * stride).float()
    return Scene(
        anchor=(torch.stack([row, column], dim=1) * stride).float(),
        escape=escape,
        colour=_mean_colour(thumbnail, row, column),
        grey=(thumbnail.amax(1) - thumbnail.amin(1)).flatten(1).amax(1) < _GREY,
    )
