"""From a map to a mask: the pixels that reach the threshold, less what blur adds to a region, less small regions."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

SPOT_AREA_PX = 201
"""Area of a circle of 8 px, half a step of the coarsest level (stride 16): so far a point spreads in a map, in pixels
of the network's input. Synthetic anomalies fit best at 8 to 10 px (docs/results/decisions.md)."""

LEAST_LEFT = 0.25
"""Share of a region that is left at least: a region smaller than a spot may be a defect of any size below it."""


def find_mask(
    heat: np.ndarray,
    threshold: float,
    *,
    spot_area_px: float = 0,
    smallest_area_px: int = 0,
    inside: np.ndarray | None = None,
) -> np.ndarray:
    """Say which pixels are anomalous.

    Args:
        heat: ``(H, W)`` float in [0, 1].
        threshold: A pixel from here on is anomalous.
        spot_area_px: Area taken off each region, in pixels of the map, see :func:`tighten`.
        smallest_area_px: Regions of fewer pixels are dropped, see :func:`drop_small`.
        inside: ``(H, W)`` bool, pixels that count; None for all.

    Returns:
        ``(H, W)`` bool.
    """
    above = heat >= threshold
    return drop_small(tighten(above if inside is None else above & inside, heat, spot_area_px), smallest_area_px)


def scale_spot(spot_area_px: float, *, seen: Sequence[int], input_size: Sequence[int]) -> float:
    """Bring the area of a spot to an image's own pixels.

    Args:
        spot_area_px: In pixels of the network's input.
        seen: Height and width of what the network sees at once, in pixels of the image: the whole image or a tile.
        input_size: Height and width of the network's input.

    Returns:
        In pixels of the image.
    """
    return spot_area_px * math.prod(seen) / math.prod(input_size)


def tighten(mask: np.ndarray, heat: np.ndarray, spot_area_px: float) -> np.ndarray:
    """Take off each region what the blur of the map adds to it.

    A defect of one pixel shows as a spot, and any other is wider by about as much. So each region keeps its strongest
    pixels only: as many as it has, less those of a spot.

    Args:
        mask: ``(H, W)`` bool.
        heat: ``(H, W)`` float, the map that it was made from.
        spot_area_px: Pixels that each region (8-connected) loses, though not more than 1 - ``LEAST_LEFT`` of it; 0
            changes nothing.

    Returns:
        ``(H, W)`` bool; of equal pixels at the limit all are kept.

    Source: ours; docs/results/decisions.md has what it is worth.
    """
    if not spot_area_px:
        return mask
    left = mask.copy()
    count, regions, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    for region in range(1, count):  # 0 is what is no region
        x, y, width, height, area = statistics[region].tolist()
        box = slice(y, y + height), slice(x, x + width)
        own = regions[box] == region
        lost = area - max(round(area - spot_area_px), math.ceil(LEAST_LEFT * area))
        least = np.partition(heat[box][own], lost)[lost]
        left[box] &= ~own | (heat[box] >= least)
    return left


def drop_small(mask: np.ndarray, smallest_area_px: int) -> np.ndarray:
    """Leave out regions that are too small to be a defect.

    Args:
        mask: ``(H, W)`` bool.
        smallest_area_px: Regions (8-connected) of fewer pixels are dropped; 0 and 1 drop none.

    Returns:
        ``(H, W)`` bool.
    """
    if smallest_area_px < 2:
        return mask
    _, regions, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    kept = statistics[:, cv2.CC_STAT_AREA] >= smallest_area_px
    kept[0] = False  # what is no region
    return np.asarray(kept[regions])
