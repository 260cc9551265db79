"""Resizing in graphs whose image size is not known when traced: images by matrix products, maps by gathering.

ONNX has an antialiased ``Resize``, but its runtimes do not agree with PyTorch: ONNX Runtime 1.32 differs by up to 13
grey levels at the borders, OpenVINO 2026.4 ignores the antialiasing. The matrices are computed in the graph from the
image's size, with PyTorch's arithmetic.
"""

from typing import Any

import torch
from torch import Tensor, nn

from dmdd.core.resize import TIE_SHIFT

BLOCK = 16
"""Rows of the result computed together: more need fewer copies of the input but more multiplications by zero."""


def resize_traced(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images, antialiased bilinear, rounded to whole grey values.

    Args:
        images: ``(B, H, W, 3)`` uint8 in [0, 255].
        size: Height and width in pixels, multiples of ``BLOCK``.

    Returns:
        ``(B, 3, *size)`` float32, whole numbers in [0, 255]; those of ``resize_images``, except that a value within
        float32 rounding of where rounding changes may fall to the other side.

    Source: ours; the weights are those of ``F.interpolate(mode="bilinear", antialias=True)``.
    """
    batch, height, width = images.shape[:3]
    rows = _resize_first(images.flatten(2), height, size[0])
    columns = _resize_first(rows.unflatten(2, (width, 3)).transpose(1, 2).flatten(2), width, size[1])
    pixels = columns.reshape(batch, size[1], size[0], 3).permute(0, 3, 2, 1)
    return (pixels + TIE_SHIFT).round().clamp(0, 255)


class FixedResize(nn.Module):
    """:func:`resize_traced` for images of one size: the weights are constants, and the graph computes none.

    Args:
        given: Height and width of the images in pixels.
        wanted: Those of the result, multiples of ``BLOCK``.

    Source: ours.
    """

    def __init__(self, given: tuple[int, int], wanted: tuple[int, int]) -> None:
        super().__init__()
        self.given, self.wanted = given, wanted
        for name, length, size in zip(("rows", "columns"), given, wanted, strict=True):
            places, weights = spans(length, size, torch.device("cpu"))
            self.register_buffer(f"{name}_places", places)
            self.register_buffer(f"{name}_weights", weights)

    def forward(self, pixels: Tensor) -> Tensor:
        """Resize ``(B, 3, *given)`` float32 in [0, 255] to ``(B, 3, *wanted)``, whole numbers."""
        if self.given != self.wanted:
            batch, height = pixels.shape[0], self.wanted[0]
            rows = _apply(pixels.transpose(1, 2).flatten(2), self.rows_places, self.rows_weights)  # type: ignore[arg-type]
            columns = rows.unflatten(2, (3, self.given[1])).permute(0, 3, 1, 2).flatten(2)
            columns = _apply(columns, self.columns_places, self.columns_weights)  # type: ignore[arg-type]
            pixels = columns.reshape(batch, self.wanted[1], height, 3).permute(0, 3, 2, 1)
        return (pixels + TIE_SHIFT).round().clamp(0, 255)


def _resize_first(values: Tensor, length: int, wanted: int) -> Tensor:
    """Resize ``(B, length, M)`` to ``(B, wanted, M)`` float32.

    Each block of the result depends on a short span of the input, so the products are of blocks with their spans and
    not of the whole matrix, which is nearly all zeros.
    """
    return _apply(values, *spans(length, wanted, values.device))


def _apply(values: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    blocks, span = places.shape
    found = values.index_select(1, places.flatten()).float()
    return (weights @ found.unflatten(1, (blocks, span))).flatten(1, 2)


def spans(length: int, wanted: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Say what each block of a resized side is made of.

    Args:
        length: Pixels of the side.
        wanted: Pixels of the result.
        device: Where the result is to be.

    Returns:
        For each block the places of its span, ``(blocks, span)`` int64, and the weights ``(blocks, BLOCK, span)``.
    """
    scale = torch.ones((), device=device) * length / wanted
    support = scale.clamp(min=1)
    centres = scale * (torch.arange(wanted, device=device) + 0.5)
    starts = (centres[::BLOCK] - support + 0.5).long().clamp(min=0)
    reach: Any = torch.sym_max((length + wanted - 1) // wanted, 1)
    span = ((BLOCK - 1) * length + wanted - 1) // wanted + 2 * reach + 2
    places = starts[:, None] + torch.arange(span, device=device)
    distances = (places[:, None, :] - centres.unflatten(0, (-1, BLOCK))[..., None] + 0.5) * (1 / support)
    weights = (1 - distances.abs()).clamp(min=0) * (places < length)[:, None, :]
    weights = weights / weights.cumsum(2)[..., -1:]  # not sum: it adds one after the other, as PyTorch does
    return places.clamp(max=length - 1), weights


def enlarge_traced(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps bilinearly, corners not aligned.

    Args:
        maps: ``(B, h, w)`` float32.
        size: Height and width in pixels.

    Returns:
        ``(B, *size)`` float32, as ``F.interpolate(mode="bilinear")`` gives it.

    Source: ours. OpenVINO's own ``Interpolate`` took 7 of 35 ms for one channel at 1024 px, this takes 2.
    """
    columns = _enlarge_first(maps.transpose(1, 2), size[1])
    return _enlarge_first(columns.transpose(1, 2), size[0])


def _enlarge_first(values: Tensor, wanted: int) -> Tensor:
    """Resize ``(B, n, M)`` to ``(B, wanted, M)``."""
    given = values.shape[1]
    scale = torch.full((), float(given), device=values.device) / wanted
    places = (scale * (torch.arange(wanted, device=values.device) + 0.5) - 0.5).clamp(min=0)
    below = places.long()
    low, high = values.index_select(1, below), values.index_select(1, (below + 1).clamp(max=given - 1))
    return low + (places - below)[:, None] * (high - low)
