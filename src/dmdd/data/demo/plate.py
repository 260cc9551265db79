"""The demo's part: a brushed steel plate with a bore, two slots and four brass bolts, lit from one side.

Lengths are fractions of the image's side; `u` runs along the plate's long axis, `v` along the short one.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from dmdd.data.demo.textures import brushed_grain, handling_wear, smooth_noise

SUPERSAMPLING = 2
HALF_LENGTH, HALF_WIDTH, CORNER_RADIUS = 0.385, 0.285, 0.06
BOLTS = ((-0.305, -0.205), (0.305, -0.205), (-0.305, 0.205), (0.305, 0.205))
BOLT_RADIUS, BORE_RADIUS, RING_RADIUS = 0.042, 0.085, 0.125
SLOTS = ((-0.225, 0.0), (0.225, 0.0))
SLOT_HALF_LENGTH, SLOT_RADIUS = 0.075, 0.02

STEEL = np.array([0.60, 0.62, 0.64], dtype=np.float32)
BRASS = np.array([0.70, 0.55, 0.30], dtype=np.float32)
GROUND = np.array([0.13, 0.14, 0.16], dtype=np.float32)


@dataclass(frozen=True)
class Look:
    """How one part lies under the camera: everything that varies among normal parts.

    Args:
        offset: Displacement of the plate's centre, in sides of the image.
        angle: Rotation in radians.
        scale: Magnification.
        light: Direction of the light in radians.
        gain: Exposure.
        falloff: Slope of the light across the image, per side.
        warmth: Shift from blue (-) to red (+).
        bolt_angles: Rotation of each bolt's head in radians.
        texture_seed: Seed of grain, wear and sensor noise.

    Source: ours.
    """

    offset: tuple[float, float]
    angle: float
    scale: float
    light: float
    gain: float
    falloff: tuple[float, float]
    warmth: float
    bolt_angles: tuple[float, ...]
    texture_seed: int


@dataclass
class Surface:
    """A part as the light will find it, all arrays `(h, w)` or `(h, w, 3)`, float32, supersampled.

    Args:
        u: Coordinate along the plate.
        v: Coordinate across the plate.
        height: Height of the surface; its slope makes the shading.
        colour: Reflectance per channel, 0..1.
        gloss: Strength of the shading, 0..1.

    Source: ours.
    """

    u: np.ndarray
    v: np.ndarray
    height: np.ndarray
    colour: np.ndarray
    gloss: np.ndarray


def draw_look(rng: np.random.Generator) -> Look:
    """Draw the natural variation of one part.

    Args:
        rng: Source of the random numbers.

    Returns:
        The look.

    Source: ours.
    """
    return Look(
        offset=(float(rng.uniform(-0.02, 0.02)), float(rng.uniform(-0.02, 0.02))),
        angle=float(np.deg2rad(rng.uniform(-5, 5))),
        scale=float(rng.uniform(0.985, 1.015)),
        light=float(np.deg2rad(rng.uniform(-70, -20))),
        gain=float(rng.uniform(0.88, 1.10)),
        falloff=(float(rng.uniform(-0.12, 0.12)), float(rng.uniform(-0.12, 0.12))),
        warmth=float(rng.uniform(-0.015, 0.015)),
        bolt_angles=tuple(float(angle) for angle in rng.uniform(0, np.pi / 3, size=len(BOLTS))),
        texture_seed=int(rng.integers(2**31)),
    )


def normal_surface(look: Look, *, side: int) -> Surface:
    """Build a part without defect.

    Args:
        look: The part's natural variation.
        side: Side of the image in supersampled pixels.

    Returns:
        The surface.

    Source: ours.
    """
    u, v = _plate_coordinates(look, side=side)
    rng = np.random.default_rng(look.texture_seed)
    pixel = 1 / side
    radius = np.hypot(u, v)
    solid = solid_distance(u, v)
    inside = coverage(solid, pixel)
    height = 0.012 * np.clip(-solid / 0.014, 0, 1) + 0.006 * np.clip(
        1 - np.square((radius - RING_RADIUS) / 0.012), 0, 1
    )
    grain = brushed_grain(rng, u=u, v=v, side=side)
    turned = 0.015 * np.sin(radius * 900) * coverage(radius - RING_RADIUS, pixel)
    steel = STEEL * (1 + grain + turned + handling_wear(rng, u=u, v=v, side=side))[:, :, None]
    shadow = coverage(outline_distance(u - 0.012, v - 0.012) - 0.012, 0.03)
    ground = (
        GROUND
        * (1 + 0.22 * smooth_noise(rng, side, blur=1.2) + 0.12 * smooth_noise(rng, side, blur=side / 40))[:, :, None]
    )
    ground *= (1 - 0.65 * shadow)[:, :, None]
    surface = Surface(
        u=u,
        v=v,
        height=height * inside,
        colour=ground + (steel - ground) * inside[:, :, None],
        gloss=0.15 + 0.85 * inside,
    )
    for (x, y), angle in zip(BOLTS, look.bolt_angles, strict=True):
        _add_bolt(surface, x=x, y=y, angle=angle, pixel=pixel)
    return surface


def _add_bolt(surface: Surface, *, x: float, y: float, angle: float, pixel: float) -> None:
    part = _window(surface, x=x, y=y, reach=1.3 * BOLT_RADIUS)
    u, v = part.u - x, part.v - y
    radius = np.hypot(u, v)
    sector = np.mod(np.arctan2(v, u) - angle, np.pi / 3) - np.pi / 6
    hexagon = radius * np.cos(sector) - 0.78 * BOLT_RADIUS
    washer = coverage(radius - BOLT_RADIUS * 1.12, pixel)
    head = coverage(hexagon, pixel)
    part.colour += (STEEL * 0.72 - part.colour) * washer[:, :, None]
    part.colour += (BRASS - part.colour) * head[:, :, None]
    part.height += 0.004 * np.clip((BOLT_RADIUS * 1.12 - radius) / 0.006, 0, 1)
    part.height += 0.012 * np.clip(-hexagon / 0.01, 0, 1) - 0.006 * np.clip(1 - radius / 0.016, 0, 1)


def _window(surface: Surface, *, x: float, y: float, reach: float) -> Surface:
    """Cut out the box around a place, as views: drawing a bolt over the whole plate took half of the time."""
    rows, columns = np.nonzero((np.abs(surface.u - x) < reach) & (np.abs(surface.v - y) < reach))
    box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return Surface(surface.u[box], surface.v[box], surface.height[box], surface.colour[box], surface.gloss[box])


def shade(surface: Surface, *, look: Look) -> np.ndarray:
    """Light a surface: slope towards the light is bright, away from it dark.

    Args:
        surface: The part.
        look: Gives the light's direction.

    Returns:
        float32 array `(side, side, 3)`, linear brightness, 0 and up.

    Source: ours.
    """
    side = surface.height.shape[0]
    slope_x = cv2.Sobel(surface.height, cv2.CV_32F, 1, 0, ksize=3) * (side / 8)
    slope_y = cv2.Sobel(surface.height, cv2.CV_32F, 0, 1, ksize=3) * (side / 8)
    towards = slope_x * np.float32(np.cos(look.light)) + slope_y * np.float32(np.sin(look.light))
    light = 1 + surface.gloss * np.tanh(-0.9 * towards) * 0.75
    return surface.colour * light[:, :, None]


def expose(linear: np.ndarray, *, look: Look, size: int) -> np.ndarray:
    """Average to pixels and apply the camera: uneven light, exposure, colour cast, noise.

    Args:
        linear: float32 array `(size * SUPERSAMPLING, size * SUPERSAMPLING, 3)`.
        look: The camera's variation.
        size: Side of the image in pixels.

    Returns:
        uint8 RGB image `(size, size, 3)`.

    Source: ours.
    """
    image = linear.reshape(size, SUPERSAMPLING, size, SUPERSAMPLING, 3).mean(axis=(1, 3))
    ramp = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    image *= (look.gain * (1 + look.falloff[0] * ramp[None, :] + look.falloff[1] * ramp[:, None]))[:, :, None]
    image *= np.array([1 + look.warmth, 1, 1 - look.warmth], dtype=np.float32)
    noise = np.random.default_rng([look.texture_seed, 1]).standard_normal(image.shape, dtype=np.float32)
    image += noise * np.float32(0.008)
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _plate_coordinates(look: Look, *, side: int) -> tuple[np.ndarray, np.ndarray]:
    axis = (np.arange(side, dtype=np.float32) + np.float32(0.5)) / side - np.float32(0.5)
    x, y = axis[None, :] - np.float32(look.offset[0]), axis[:, None] - np.float32(look.offset[1])
    cos, sin = np.float32(np.cos(look.angle) / look.scale), np.float32(np.sin(look.angle) / look.scale)
    return x * cos + y * sin, y * cos - x * sin


def outline_distance(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the signed distance to the plate's outline.

    Args:
        u: Coordinate along the plate, any shape.
        v: Coordinate across the plate, same shape.

    Returns:
        Distance in sides of the image, negative inside the outline.

    Source: ours.
    """
    du = np.abs(u) - np.float32(HALF_LENGTH - CORNER_RADIUS)
    dv = np.abs(v) - np.float32(HALF_WIDTH - CORNER_RADIUS)
    outside = np.hypot(np.maximum(du, 0), np.maximum(dv, 0))
    return outside + np.minimum(np.maximum(du, dv), 0) - np.float32(CORNER_RADIUS)


def solid_distance(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the signed distance to the plate's steel: inside the outline, outside bore and slots.

    Args:
        u: Coordinate along the plate, any shape.
        v: Coordinate across the plate, same shape.

    Returns:
        Distance in sides of the image, negative on steel.

    Source: ours.
    """
    slot = np.minimum.reduce([_slot(u - x, v - y) for x, y in SLOTS])
    return np.maximum(outline_distance(u, v), np.maximum(BORE_RADIUS - np.hypot(u, v), -slot))


def _slot(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Signed distance to an upright slot, negative inside."""
    return np.hypot(u, v - np.clip(v, -SLOT_HALF_LENGTH, SLOT_HALF_LENGTH)) - np.float32(SLOT_RADIUS)


def coverage(distance: np.ndarray, softness: float) -> np.ndarray:
    """Turn a signed distance into how much of a pixel is inside.

    Args:
        distance: Signed distance, negative inside, any shape.
        softness: Width of the transition, in the same unit.

    Returns:
        Coverage 0..1, same shape.

    Source: ours.
    """
    return np.clip(np.float32(0.5) - distance / np.float32(softness), 0, 1)
