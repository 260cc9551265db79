"""Shapes of anomalies: each function returns a signed field, positive inside, in px from the outline (roughly).

All take the plan as float32 on the device (`uniform`, (b, PLAN_LENGTH)), the mask keys (b,) and the anchors (b, 2),
for the pairs that have this shape, and fill the window (h, w).
"""

import math

import torch
from torch import Tensor

from dmdd.pairs.hashing import derive_key, hash_uniform, hash_uniforms
from dmdd.pairs.perlin import perlin_field, rotate_field
from dmdd.pairs.plan import Column
from dmdd.pairs.window import Window

MOST_PARTS = 3  # blobs or strokes of one pair
PARTS_APART = 0.1  # largest distance along an axis between the first part and another, share of the shorter side
_BLOB_STRETCH = 3.0  # largest ratio of length to width
_RECTANGLE_STRETCH = 6.0
_STROKE_BEND = 0.5  # largest deviation from a straight line, in half lengths
_LATTICE = 33  # scales up to 2^5


def count_parts(plan: Tensor) -> Tensor:
    """Number of blobs or strokes per pair (B,) int64: 1, 2 or 3 with probability 0.6, 0.25, 0.15."""
    return 1 + (plan[:, Column.COUNT] >= 0.6).long() + (plan[:, Column.COUNT] >= 0.85).long()


def between(uniform: Tensor, low: float, high: float) -> Tensor:
    """Map uniforms in [0, 1) to log-uniforms in [low, high)."""
    return low * (high / low) ** uniform


def relative_positions(anchor: Tensor, angle: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    """Pixel positions along and across an axis through the anchor.

    Args:
        anchor: (b, 2) y and x, px.
        angle: (b,) radians, of the axis against the image's rows.
        window: Where the shape is wanted.

    Returns:
        Two (b, h, w) float32, px.

    Source: ours.
    """
    down = (window.pixels(0) - anchor[:, :1])[:, :, None]
    across = (window.pixels(1) - anchor[:, 1:])[:, None, :]
    cosine, sine = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
    return cosine * across + sine * down, cosine * down - sine * across


def perlin_scales(plan: Tensor) -> Tensor:
    """Draw 2^0 to 2^5 periods per axis: (B, 2) float32 from the (float64) plan."""
    exponents = (torch.stack([plan[:, Column.SCALE_Y], plan[:, Column.SCALE_X]], dim=1) * 6).floor().clamp_(max=5)
    return (2.0**exponents).float()


def classic_shape(uniform: Tensor, keys: Tensor, window: Window, *, threshold: float, rotate: bool) -> Tensor:
    """Threshold a rotated Perlin field at a fixed value, as DRAEM does.

    Args:
        uniform: (b, PLAN_LENGTH) float32.
        keys: (b,) int64 mask keys.
        window: Where the shape is wanted.
        threshold: Value of the field at the outline.
        rotate: Whether the field is rotated by a random angle in [-90, 90) degrees.

    Returns:
        (b, h, w) float32.

    Source: reconstructed, DRAEM's recipe (Zavrtanik et al., ICCV 2021).
    """
    scales = perlin_scales(uniform)
    field = perlin_field(keys, scales, window, lattice=_LATTICE)
    if rotate:
        field = rotate_field(field, (uniform[:, Column.ANGLE] - 0.5) * math.pi)
    return field.sub_(threshold).mul_(_px_per_unit(scales, window))


def _px_per_unit(scales: Tensor, window: Window) -> Tensor:
    """Px over which a Perlin field changes by one: about half a period."""
    return (0.5 * window.side / scales.amax(1))[:, None, None]


def area_shape(
    uniform: Tensor,
    keys: Tensor,
    anchor: Tensor,
    inside: Tensor,
    *,
    area_range: tuple[float, float],
    gathered: float,
    rotate: bool,
) -> Tensor:
    """Take the highest share of a Perlin field inside the foreground, in some pairs gathered around the anchor.

    Unlike a fixed threshold this cannot come out empty, and its area does not hang on the size of the part.

    Args:
        uniform: (b, PLAN_LENGTH) float32.
        keys: (b,) int64 mask keys.
        anchor: (b, 2) y and x, px.
        inside: (b, h, w) bool: the foreground.
        area_range: Smallest and largest share of the foreground (log-uniform).
        gathered: Share of pairs that are gathered, in [0, 1]; the others lie scattered over the foreground.
        rotate: Whether the field is rotated.

    Returns:
        (b, h, w) float32.

    Source: ours.
    """
    window = Window.whole(inside)
    scales = perlin_scales(uniform)
    field = perlin_field(keys, scales, window, lattice=_LATTICE)
    if rotate:
        field = rotate_field(field, (uniform[:, Column.ANGLE] - 0.5) * math.pi)
    share = between(uniform[:, Column.AREA], *area_range)
    along, across = relative_positions(anchor, torch.zeros_like(share), window)
    near = (hash_uniform(keys, 1) < gathered).float()
    # The window is as wide as the wanted area, so that the field, not the circle, still draws the outline.
    reach = (2.5 * share * inside.flatten(1).float().sum(1)).clamp_(min=1)
    field -= along.square_().add_(across.square_()).mul_((near / reach)[:, None, None])
    return field.sub_(_quantile_inside(field, inside, share)).mul_(_px_per_unit(scales, window))


def _quantile_inside(field: Tensor, inside: Tensor, share: Tensor) -> Tensor:
    """Value (b, 1, 1) above which a share of the pixels inside lies, on every fourth row and column at 256 px."""
    stride = max(1, min(field.shape[1:]) // 64)
    coarse = inside[:, ::stride, ::stride]
    values = field[:, ::stride, ::stride].masked_fill(~coarse, -torch.inf).flatten(1).sort(1, descending=True).values
    rank = (share * coarse.flatten(1).sum(1)).long().clamp_(max=values.shape[1] - 1)
    return values.gather(1, rank[:, None])[:, :, None].clamp(min=-1e4)


def blob_reach(radius: Tensor, aspect: Tensor) -> Tensor:
    """Largest distance from the anchor to the outline of a blob, in the unit of the radius."""
    return 1.5 * radius * between(aspect, 1.0, _BLOB_STRETCH).sqrt()


def rectangle_reach(radius: Tensor, aspect: Tensor) -> Tensor:
    """Largest distance from the anchor to the corner of a rectangle, in the unit of the radius."""
    stretch = between(aspect, 1.0, _RECTANGLE_STRETCH)
    return radius * torch.sqrt(stretch + 1 / stretch)


def stroke_reach(length: Tensor, width: float) -> Tensor:
    """Largest distance from the anchor to the end of a stroke, in the unit of length and width."""
    return 0.5 * length * math.hypot(1, _STROKE_BEND) + 2 * width


def _part(uniform: Tensor, keys: Tensor, anchor: Tensor, part: int, window: Window) -> tuple[Tensor, ...]:
    """Anchor, angle, size, aspect and key of one of several parts; the first keeps the plan's numbers."""
    angle, extent, aspect = (uniform[:, column] for column in (Column.ANGLE, Column.SIZE, Column.ASPECT))
    if part == 0:
        return anchor, angle, extent, aspect, keys
    keys = derive_key(keys, 100 + part)
    drawn = hash_uniforms(keys, 6)
    away = drawn[2:4].T - 0.5
    # Parts lie near each other and look alike, as several scratches from one accident do.
    angle = angle + 0.1 * (drawn[4] - 0.5)
    return anchor + away * (2 * PARTS_APART * window.side), angle, extent * drawn[5], aspect, keys


def blob_shape(
    uniform: Tensor, keys: Tensor, anchor: Tensor, window: Window, *, radii: tuple[float, float], part: int = 0
) -> Tensor:
    """Draw an ellipse with a ragged outline.

    Args:
        uniform: (b, PLAN_LENGTH) float32.
        keys: (b,) int64 mask keys.
        anchor: (b, 2) y and x, px.
        window: Where the shape is wanted.
        radii: Smallest and largest radius as a share of the shorter side (log-uniform).
        part: Which of several blobs.

    Returns:
        (b, h, w) float32, px.

    Source: ours.
    """
    anchor, angle, extent, aspect, keys = _part(uniform, keys, anchor, part, window)
    radius = between(extent, *radii) * window.side
    stretch = between(aspect, 1.0, _BLOB_STRETCH).sqrt()[:, None, None]
    along, across = relative_positions(anchor, angle * math.pi, window)
    distance = torch.sqrt((along / stretch) ** 2 + (across * stretch) ** 2)
    scale = (window.side / radius).clamp(2, _LATTICE - 1)
    ragged = perlin_field(keys, torch.stack([scale, scale], dim=1), window, lattice=_LATTICE)
    return radius[:, None, None] * (1 + 0.5 * ragged) - distance


def rectangle_shape(uniform: Tensor, anchor: Tensor, window: Window, *, radii: tuple[float, float]) -> Tensor:
    """Draw a rotated rectangle.

    Args:
        uniform: (b, PLAN_LENGTH) float32.
        anchor: (b, 2) y and x, px.
        window: Where the shape is wanted.
        radii: Smallest and largest half-side as a share of the shorter side (log-uniform).

    Returns:
        (b, h, w) float32, px.

    Source: ours; the shape is CutPaste's.
    """
    radius = between(uniform[:, Column.SIZE], *radii) * window.side
    stretch = between(uniform[:, Column.ASPECT], 1.0, _RECTANGLE_STRETCH).sqrt()
    along, across = relative_positions(anchor, uniform[:, Column.ANGLE] * math.pi, window)
    return torch.minimum(
        (radius * stretch)[:, None, None] - along.abs_(), (radius / stretch)[:, None, None] - across.abs_()
    )


def stroke_shape(
    uniform: Tensor,
    keys: Tensor,
    anchor: Tensor,
    window: Window,
    *,
    widths: tuple[float, float],
    lengths: tuple[float, float],
    part: int = 0,
) -> Tensor:
    """Draw a curved stroke that tapers to its ends and is uneven along its way: a scratch, a hair, a crack.

    Args:
        uniform: (b, PLAN_LENGTH) float32.
        keys: (b,) int64 mask keys.
        anchor: (b, 2) y and x, px.
        window: Where the shape is wanted.
        widths: Smallest and largest width as a share of the shorter side (log-uniform); never below 1 px.
        lengths: Smallest and largest length as a share of the shorter side (log-uniform).
        part: Which of several strokes.

    Returns:
        (b, h, w) float32, px.

    Source: ours.
    """
    anchor, angle, extent, aspect, keys = _part(uniform, keys, anchor, part, window)
    half_length = 0.5 * between(extent, *lengths) * window.side
    half_width = 0.5 * (between(aspect, *widths) * window.side).clamp_(min=1)
    along, across = relative_positions(anchor, angle * math.pi, window)
    along = along / half_length[:, None, None]
    bend = (hash_uniform(keys, 6) * 2 - 1) * _STROKE_BEND * half_length
    waves = perlin_field(keys, torch.full_like(anchor, 12.0), window, lattice=13)
    centre = bend[:, None, None] * along**2 + waves * (1.5 * half_width)[:, None, None]
    # Thicker than its width nowhere; the square root of the parabola keeps the ends thin but not needle-like.
    taper = (1 - along**2).clamp_(min=0).sqrt_() * (0.8 + 0.6 * waves)
    inside = half_width[:, None, None] * taper - (across - centre).abs_()
    return inside.sub_((along.abs_() >= 1).float().mul_(1e4))
