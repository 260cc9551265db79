"""The demo's textures: what makes no two normal parts equal."""

import cv2
import numpy as np


def smooth_noise(rng: np.random.Generator, side: int, *, blur: float) -> np.ndarray:
    """Draw smooth noise; coarsely where it is smooth, which is the same to the eye and much faster.

    Args:
        rng: Source of the random numbers.
        side: Side of the field in supersampled pixels.
        blur: Deviation of the Gaussian that smooths it, in supersampled pixels.

    Returns:
        float32 array `(side, side)`, mean about 0, deviation about 1.

    Source: ours.
    """
    coarse = max(1, int(blur / 2))
    cells = -(-side // coarse) + 8
    field = cv2.GaussianBlur(rng.standard_normal((cells, cells), dtype=np.float32), (0, 0), blur / coarse)
    field *= 1 / field.std()
    if coarse > 1:
        field = cv2.resize(field, None, fx=coarse, fy=coarse, interpolation=cv2.INTER_CUBIC)
    return field[:side, :side]


def brushed_grain(rng: np.random.Generator, *, u: np.ndarray, v: np.ndarray, side: int) -> np.ndarray:
    """Draw brush marks: noise stretched along `u`, laid down in the plate's own frame.

    Args:
        rng: Source of the random numbers.
        u: Coordinate along the plate, `(side, side)`.
        v: Coordinate across the plate, same shape.
        side: Side of the field in supersampled pixels.

    Returns:
        float32 array `(side, side)`, to be added to 1 as a factor of the reflectance.

    Source: ours.
    """
    strokes = rng.standard_normal((side, side // 4), dtype=np.float32)
    fine = cv2.GaussianBlur(strokes, (0, 0), sigmaX=side / 60, sigmaY=0.8)
    broad = cv2.GaussianBlur(strokes, (0, 0), sigmaX=side / 25, sigmaY=side / 60)
    field = 0.045 * fine / fine.std() + 0.02 * broad / broad.std()
    map_x = ((u + np.float32(0.6)) / np.float32(1.2) * (side // 4 - 1)).astype(np.float32)
    map_y = ((v + np.float32(0.6)) / np.float32(1.2) * (side - 1)).astype(np.float32)
    return cv2.remap(field, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def handling_wear(rng: np.random.Generator, *, u: np.ndarray, v: np.ndarray, side: int) -> np.ndarray:
    """Draw traces of handling that normal parts bear: a cloudy film, faint hairlines along the brushing, dull specks.

    Args:
        rng: Source of the random numbers.
        u: Coordinate along the plate, `(side, side)`.
        v: Coordinate across the plate, same shape.
        side: Side of the field in supersampled pixels.

    Returns:
        float32 array `(side, side)`, to be added to 1 as a factor of the reflectance.

    Source: ours.
    """
    wear = 0.025 * smooth_noise(rng, side, blur=side / 14)
    for _ in range(int(rng.integers(3, 8))):
        x, y = rng.uniform(-0.38, 0.38), rng.uniform(-0.28, 0.28)
        slope, length, strength = rng.uniform(-0.25, 0.25), rng.uniform(0.02, 0.08), rng.uniform(0.06, 0.16)
        line = np.clip(1 - np.abs(v - y - slope * (u - x)) / 0.002, 0, 1) * (np.abs(u - x) < length)
        wear += np.float32(strength * rng.choice([-1, 1])) * line
    for _ in range(int(rng.integers(2, 7))):
        x, y = rng.uniform(-0.38, 0.38), rng.uniform(-0.28, 0.28)
        spot = np.clip(1 - (np.square(u - x) + np.square(v - y)) / np.float32(rng.uniform(0.003, 0.009) ** 2), 0, 1)
        wear -= np.float32(rng.uniform(0.05, 0.15)) * spot
    return wear
