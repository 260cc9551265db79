"""Perlin noise for a whole batch as two small matrix products, and its rotation."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dmdd.pairs.hashing import derive_key
from dmdd.pairs.window import Window


def lattice_gradients(keys: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Draw the unit gradient at each lattice point of each pair.

    Args:
        keys: (b,) int64 in [0, 2^32).
        rows: (b, m) int64, numbers of the lattice's rows.
        columns: (b, n) int64, and of its columns.

    Returns:
        The x and the y components, each (b, m, n) float32; an element depends on (key, row, column) only.

    Source: Perlin 1985; gradients by hash instead of by table are ours.
    """
    words = derive_key(derive_key(keys[:, None], rows)[:, :, None], columns[:, None, :])
    angles = words.to(torch.float32) * (2 * math.pi * 2.0**-32)
    return torch.cos(angles), torch.sin(angles)


def _fade_weights(positions: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Fade weight (b, n, m) of each of (b, m) lattice points at each of (b, n) positions, and times the distance."""
    offset = positions[:, :, None] - points[:, None, :]
    # 6t^5 - 15t^4 + 10t^3 falls to 0 one point away, so each row has two weights that sum to one.
    near = (1 - offset.abs()).clamp_(min=0)
    weights = (near * 6).sub_(15).mul_(near).add_(10).mul_(near).mul_(near).mul_(near)
    return weights, weights * offset


def _axis(scale: Tensor, window: Window, axis: int, lattice: int) -> tuple[Tensor, Tensor]:
    """Positions (b, n) of a window's rows or columns on the lattice, and the points (b, m) that they lie between."""
    length = window.image_size[axis]
    step = scale[:, None] / length
    # The most that any scale needs: pairs of one window size have the same number, whatever batch they come in.
    count = min(lattice, -(-(lattice - 1) * window.size[axis] // length) + 2)
    first = (window.origin[:, axis, None] * step).floor().clamp_(max=lattice - count)
    return window.pixels(axis) * step, first.long() + torch.arange(count, device=scale.device)


def perlin_field(keys: Tensor, scales: Tensor, window: Window, *, lattice: int = 33) -> Tensor:
    """Make one Perlin noise field per pair.

    On an axis-aligned lattice the noise is a sum of two separable products, so a field costs two small matrix products
    instead of gathers per pixel. Fields of different scales share a batch because the lattice is padded to `lattice`
    points.

    Args:
        keys: (b,) int64 in [0, 2^32).
        scales: (b, 2) float32, lattice cells down and across the whole image, in (0, lattice - 1].
        window: Where the field is wanted.
        lattice: Points per axis, at least the largest scale + 1.

    Returns:
        (b, h, w) float32, about [-1, 1] (the noise times sqrt 2, as DRAEM scales it).

    Source: reconstructed; the recipe is DRAEM's, the factorisation ours.
    """
    # On CUDA a float32 product may silently be TF32 (a user's setting), which would move mask edges against the CPU's.
    exact = torch.float64 if keys.device.type == "cuda" else torch.float32
    (down_at, rows), (across_at, columns) = (_axis(scales[:, axis], window, axis, lattice) for axis in (0, 1))
    gradient_x, gradient_y = (part.to(exact) for part in lattice_gradients(keys, rows, columns))
    down, down_offset = (part.to(exact) for part in _fade_weights(down_at, rows))
    across, across_offset = (part.to(exact).transpose(1, 2) for part in _fade_weights(across_at, columns))
    field = torch.bmm(torch.bmm(down, gradient_x), across_offset)
    return field.baddbmm_(torch.bmm(down_offset, gradient_y), across).mul_(math.sqrt(2)).float()


def rotate_field(field: Tensor, angles: Tensor) -> Tensor:
    """Rotate each field about its centre.

    Args:
        field: (B, H, W) float32.
        angles: (B,) radians, counter-clockwise as seen in an image whose rows run down.

    Returns:
        (B, H, W) float32; what comes from outside is mirrored (the classic code leaves zeros there, hence bare
        corners).

    Source: reconstructed, as DRAEM's; mirroring is ours.
    """
    height, width = field.shape[-2:]
    down = torch.arange(height, device=field.device) - (height - 1) / 2
    across = torch.arange(width, device=field.device) - (width - 1) / 2
    cosine, sine = torch.cos(angles)[:, None], torch.sin(angles)[:, None]
    # One plane per axis: filling interleaved coordinates takes three times as long on a CPU.
    grid = torch.empty(len(field), 2, height, width, device=field.device)
    torch.sub((cosine * across * (2 / width))[:, None, :], (sine * down * (2 / width))[:, :, None], out=grid[:, 0])
    torch.add((sine * across * (2 / height))[:, None, :], (cosine * down * (2 / height))[:, :, None], out=grid[:, 1])
    grid = grid.permute(0, 2, 3, 1)
    return F.grid_sample(field[:, None], grid, padding_mode="reflection", align_corners=False)[:, 0]
