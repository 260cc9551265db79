"""The demo's defects: what can go wrong with the plate, and the exact mask of it."""

import itertools
from collections.abc import Callable

import cv2
import numpy as np

from dmdd.data.demo.plate import (
    BOLT_RADIUS,
    BOLTS,
    GROUND,
    HALF_LENGTH,
    HALF_WIDTH,
    STEEL,
    SUPERSAMPLING,
    Look,
    Surface,
    coverage,
    expose,
    normal_surface,
    outline_distance,
    shade,
    solid_distance,
)
from dmdd.data.demo.textures import smooth_noise

RUST = np.array([0.30, 0.17, 0.07], dtype=np.float32)


def render_plate(
    *, look: Look, size: int, defect: str | None = None, rng: np.random.Generator | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one part, with a defect or without.

    Without a defect the same look gives the normal twin: outside the mask both images are equal to the bit.

    Args:
        look: The part's natural variation.
        size: Side of the image in pixels.
        defect: One of `DEFECTS`, or None.
        rng: Source of the defect's place, shape and strength; needed with a defect.

    Returns:
        uint8 RGB image `(size, size, 3)` and bool mask `(size, size)`, True where the defect changed the part.

    Source: ours.
    """
    surface = normal_surface(look, side=size * SUPERSAMPLING)
    normal = shade(surface, look=look)
    if defect is None:
        return expose(normal, look=look, size=size), np.zeros((size, size), dtype=bool)
    if rng is None:
        raise ValueError("a defect needs a random generator")
    support = _DRAW[defect](surface, rng)
    changed = shade(surface, look=look)
    # A slope is taken over three pixels, so a change of height is seen one pixel beyond it.
    support = cv2.dilate(support.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    blend = np.where(support[:, :, None], changed, normal)
    mask = support.reshape(size, SUPERSAMPLING, size, SUPERSAMPLING).mean(axis=(1, 3)) >= 0.5
    # Pixels that the defect covers by less than half stay normal, so that image and mask agree exactly.
    keep = np.repeat(np.repeat(mask, SUPERSAMPLING, axis=0), SUPERSAMPLING, axis=1)
    return expose(np.where(keep[:, :, None], blend, normal), look=look, size=size), mask


def _draw_scratch(surface: Surface, rng: np.random.Generator) -> np.ndarray:
    """Cut a thin, slightly bent groove with a bright burr; returns the pixels it touches."""
    start = np.array([rng.uniform(-0.3, 0.3), rng.uniform(-0.2, 0.2)])
    heading, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.10, 0.30)
    end = start + length * np.array([np.cos(heading), np.sin(heading)])
    end = np.clip(end, [-0.34, -0.24], [0.34, 0.24])
    bend = (start + end) / 2 + rng.uniform(-0.04, 0.04, size=2)
    t = np.linspace(0, 1, 33)[:, None]
    curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
    distance = _distance_to_curve(surface, curve.astype(np.float32))
    width, strength = rng.uniform(0.0035, 0.0055), rng.uniform(0.35, 0.9)
    on_plate = _on_plate(surface)
    profile = np.clip(1 - distance / width, 0, 1) * on_plate
    surface.height -= np.float32(0.010 * strength) * profile
    surface.colour *= (1 + np.float32(0.55 * strength) * profile)[:, :, None]
    # The groove's rim is too shallow to be seen: it belongs to no mask and is left as it was.
    return profile > 0.15


def _draw_dent(surface: Surface, rng: np.random.Generator) -> np.ndarray:
    """Press an elliptic hollow into the plate; returns the pixels it touches."""
    x, y = _free_place(rng, margin=0.02)
    long, short, turn = rng.uniform(0.036, 0.068), rng.uniform(0.028, 0.047), rng.uniform(0, np.pi)
    u, v = surface.u - x, surface.v - y
    across = (u * np.cos(turn) + v * np.sin(turn)) / long
    along = (-u * np.sin(turn) + v * np.cos(turn)) / short
    bowl = np.clip(1 - across**2 - along**2, 0, 1).astype(np.float32) ** 2 * _on_plate(surface)
    surface.height -= np.float32(rng.uniform(0.013, 0.027)) * bowl
    surface.colour *= (1 - 0.12 * bowl)[:, :, None]
    # The outermost run of the bowl is too flat to be seen: it belongs to no mask and is left as it was.
    return bowl > 0.02


def _draw_stain(surface: Surface, rng: np.random.Generator) -> np.ndarray:
    """Let an irregular, translucent spot of rust run over the plate; returns the pixels it touches."""
    side = surface.height.shape[0]
    x, y = _free_place(rng, margin=0.02)
    radius = rng.uniform(0.03, 0.075)
    ragged = smooth_noise(rng, side, blur=side / 36) * 0.32 + smooth_noise(rng, side, blur=side / 120) * 0.10
    field = 1 - np.hypot(surface.u - x, surface.v - y) / radius + ragged
    # A drying spot is darkest at its rim.
    film = np.clip(field * 5, 0, 1) * (0.75 + 0.25 * np.exp(-np.square(field - 0.2) / 0.02))
    film = (film * _on_plate(surface)).astype(np.float32)
    film *= np.float32(rng.uniform(0.2, 0.6))
    colour = RUST * np.float32(rng.uniform(0.8, 1.3))
    surface.colour += (colour - surface.colour) * film[:, :, None]
    surface.gloss *= 1 - 0.4 * film
    return film > 0.02


def _draw_missing_piece(surface: Surface, rng: np.random.Generator) -> np.ndarray:
    """Take a bolt out of its hole, or break a piece out of the edge; returns the pixels it touches."""
    return _draw_missing_bolt(surface, rng) if rng.random() < 0.5 else _draw_chip(surface, rng)


def _draw_missing_bolt(surface: Surface, rng: np.random.Generator) -> np.ndarray:
    pixel = 1 / surface.height.shape[0]
    x, y = BOLTS[int(rng.integers(len(BOLTS)))]
    radius = np.hypot(surface.u - x, surface.v - y)
    seat = coverage(radius - BOLT_RADIUS * 1.2, pixel)
    hole = coverage(radius - BOLT_RADIUS * 0.62, pixel)
    surface.colour += (STEEL * 0.92 - surface.colour) * seat[:, :, None]
    surface.colour += (GROUND * 0.45 - surface.colour) * hole[:, :, None]
    surface.height += (0.012 * np.clip((radius - BOLT_RADIUS * 0.62) / 0.01, 0, 1) - surface.height) * seat
    return seat > 0


def _draw_chip(surface: Surface, rng: np.random.Generator) -> np.ndarray:
    side = surface.height.shape[0]
    pixel = 1 / side
    # Between two bolts of a long or of a short edge: a bolt in mid-air would be no defect one could meet.
    edge = float(rng.choice([-1, 1]))
    if rng.random() < 0.6:
        x, y = rng.uniform(-0.19, 0.19), edge * HALF_WIDTH
    else:
        x, y = edge * HALF_LENGTH, rng.uniform(-0.09, 0.09)
    ragged = smooth_noise(rng, side, blur=side / 36) * 0.008 + smooth_noise(rng, side, blur=side / 130) * 0.002
    chip = np.hypot(surface.u - x, surface.v - y) - rng.uniform(0.028, 0.06) + ragged
    plate = outline_distance(surface.u, surface.v)
    gone = coverage(np.maximum(chip, plate - 2 * pixel), pixel)
    broken = coverage(np.maximum(np.abs(chip + 0.004) - 0.004, plate), pixel)
    rough = smooth_noise(rng, side, blur=1.5)
    surface.colour += (GROUND * (0.42 + 0.08 * rough)[:, :, None] - surface.colour) * gone[:, :, None]
    surface.colour += (STEEL * (0.42 + 0.10 * rough)[:, :, None] - surface.colour) * broken[:, :, None]
    surface.height *= 1 - gone
    return gone > 0


def _on_plate(surface: Surface) -> np.ndarray:
    """Return 1 on the plate's steel, 0 in bore, slots and beside the plate."""
    return coverage(solid_distance(surface.u, surface.v), 1 / surface.height.shape[0])


def _free_place(rng: np.random.Generator, *, margin: float) -> tuple[float, float]:
    """Draw a place on the plate's steel, `margin` away from edge, bore, slots and bolts."""
    while True:
        x, y = rng.uniform(-HALF_LENGTH, HALF_LENGTH), rng.uniform(-HALF_WIDTH, HALF_WIDTH)
        to_bolt = min(np.hypot(x - bolt_x, y - bolt_y) for bolt_x, bolt_y in BOLTS) - BOLT_RADIUS
        if min(-float(solid_distance(np.array(x), np.array(y))), to_bolt) > margin:
            return x, y


def _distance_to_curve(surface: Surface, curve: np.ndarray) -> np.ndarray:
    """Distance of every pixel to a polyline, in sides of the image; pixels far from all of it are set to 1."""
    distance = np.ones_like(surface.u)
    near = np.zeros(surface.u.shape, dtype=bool)
    for point in curve[::4]:
        near |= np.square(surface.u - point[0]) + np.square(surface.v - point[1]) < 0.03**2
    u, v = surface.u[near], surface.v[near]
    nearest = np.ones_like(u)
    for start, end in itertools.pairwise(curve):
        du, dv = (end - start).tolist()
        t = np.clip(((u - start[0]) * du + (v - start[1]) * dv) / max(du * du + dv * dv, 1e-12), 0, 1)
        nearest = np.minimum(nearest, np.hypot(u - (start[0] + t * du), v - (start[1] + t * dv)))
    distance[near] = nearest
    return distance


_DRAW: dict[str, Callable[[Surface, np.random.Generator], np.ndarray]] = {
    "dent": _draw_dent,
    "missing_piece": _draw_missing_piece,
    "scratch": _draw_scratch,
    "stain": _draw_stain,
}

DEFECTS = tuple(_DRAW)
