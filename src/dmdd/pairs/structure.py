"""Changes of structure made from the image itself: shifted or turned parts, missing pieces, deformations.

All are one resampling: the pixel p shows what was at p + w(p) (M (p - anchor) + t), with w one inside the mask for cut
and pasted pieces and falling smoothly to zero at its outline for deformations.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dmdd.pairs.hashing import hash_uniform, hash_uniforms
from dmdd.pairs.masks import between
from dmdd.pairs.plan import Column
from dmdd.pairs.scene import Scene
from dmdd.pairs.window import Window


def _direction(angle: Tensor) -> Tensor:
    """Unit vectors (b, 2), y and x, of uniforms in [0, 1)."""
    return torch.stack([torch.sin(2 * math.pi * angle), torch.cos(2 * math.pi * angle)], dim=1)


def _turn(angle: Tensor, scale: Tensor) -> Tensor:
    """Matrices (b, 2, 2) on (y, x): rotation times scale, minus the identity."""
    cosine, sine = scale * torch.cos(angle), scale * torch.sin(angle)
    rows = torch.stack([torch.stack([cosine, -sine], dim=1), torch.stack([sine, cosine], dim=1)], dim=1)
    return rows - torch.eye(2, device=angle.device)


def shift_motion(uniform: Tensor, keys: Tensor, lengths_px: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Draw how pieces are displaced: moved only (half), or moved and turned.

    Args:
        uniform: (b, PLAN_LENGTH) float32.
        keys: (b,) int64 source keys.
        lengths_px: Smallest and largest displacement, px (log-uniform).

    Returns:
        Matrices (b, 2, 2) and translations (b, 2), px.

    Source: ours; CutPaste's idea at the scale of real defects.
    """
    move = _direction(uniform[:, Column.MOVE_ANGLE]) * between(uniform[:, Column.MOVE_LENGTH], *lengths_px)[:, None]
    turned = uniform[:, Column.VARIANT] < 0.5
    angle = torch.where(turned, (hash_uniform(keys, 50) - 0.5) * math.pi, 0.0)
    return _turn(angle, torch.ones_like(angle)), move


def missing_motion(uniform: Tensor, scene: Scene, radius_px: Tensor) -> tuple[Tensor, Tensor]:
    """Draw where the background comes from that shows in place of a missing piece.

    Args:
        uniform: (b, PLAN_LENGTH) float32.
        scene: Facts of the normal images; without any background the piece comes from two radii away.
        radius_px: (b,) radius of the piece, px.

    Returns:
        Matrices (b, 2, 2), all zero, and translations (b, 2), px: past the nearest background, so a short one moves the
        contour inwards (a notch) and a long one leaves a hole.

    Source: ours.
    """
    distance = scene.escape.norm(dim=1)
    longer = distance + radius_px * (0.3 + 1.2 * uniform[:, Column.MOVE_LENGTH])
    escape = scene.escape * (longer / distance.clamp(min=1))[:, None]
    elsewhere = _direction(uniform[:, Column.MOVE_ANGLE]) * (2 * radius_px)[:, None]
    move = torch.where((distance > 0)[:, None], escape, elsewhere)
    return torch.zeros(len(move), 2, 2, device=move.device), move


def warp_motion(uniform: Tensor, keys: Tensor, radius_px: Tensor) -> tuple[Tensor, Tensor]:
    """Draw a bend, a bulge, a pinch or a twist.

    Args:
        uniform: (b, PLAN_LENGTH) float32.
        keys: (b,) int64 source keys.
        radius_px: (b,) radius of the deformed place, px.

    Returns:
        Matrices (b, 2, 2) and translations (b, 2), px.

    Source: ours.
    """
    # Above about 0.5 radii the window's slope folds the image over itself.
    move = (
        _direction(uniform[:, Column.MOVE_ANGLE]) * (radius_px * (0.2 + 0.3 * uniform[:, Column.MOVE_LENGTH]))[:, None]
    )
    bent = (uniform[:, Column.VARIANT] < 0.6)[:, None]
    drawn = hash_uniforms(keys, 54)
    angle = (0.4 + 0.9 * drawn[51]) * torch.where(drawn[52] < 0.5, 1.0, -1.0)
    scale = between(drawn[53], 0.5, 1.6)
    return torch.where(bent[:, None], 0.0, _turn(angle, scale)), torch.where(bent, move, 0.0)


def resample(
    images: Tensor, anchor: Tensor, matrix: Tensor, move: Tensor, weight: Tensor | None, window: Window
) -> Tensor:
    """Show at each pixel what lies at its displaced position.

    Args:
        images: (b, 3, H, W) float32, whole images.
        anchor: (b, 2) y and x, px.
        matrix: (b, 2, 2) on (y, x).
        move: (b, 2), px.
        weight: (b, h, w) in [0, 1], scales the displacement; None for one everywhere.
        window: Where the result is wanted.

    Returns:
        (b, 3, h, w) float32, bilinear, mirrored at the border.

    Source: ours.
    """
    rows, columns = window.pixels(0)[:, :, None], window.pixels(1)[:, None, :]
    down, across = rows - anchor[:, :1, None], columns - anchor[:, 1:, None]
    grid = torch.empty(len(images), 2, *window.size, device=images.device)
    for axis, base in ((0, rows), (1, columns)):
        shift = matrix[:, axis, :1, None] * down + (matrix[:, axis, 1:, None] * across + move[:, axis, None, None])
        # Half a pixel: without corner alignment, -1 and 1 are the outer edges of the outer pixels.
        shift = shift if weight is None else shift.mul_(weight)
        torch.mul(shift.add_(base + 0.5), 2 / window.image_size[axis], out=grid[:, 1 - axis]).sub_(1)
    return F.grid_sample(images, grid.permute(0, 2, 3, 1), padding_mode="reflection", align_corners=False)
