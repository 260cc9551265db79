"""Pictures of maps: colours, contours, overlays."""

import cv2
import numpy as np

MAP_SHARE = 0.4
"""Weight of the map's colours over the image."""


def colour_map(heat: np.ndarray, *, middle: float) -> np.ndarray:
    """Draw a map in colours from black over red to yellow.

    Args:
        heat: ``(H, W)`` float in [0, 1].
        middle: Value at the middle of the colour scale, in (0, 1].

    Returns:
        ``(H, W, 3)`` uint8 RGB.
    """
    level = (np.clip(heat / (2 * max(middle, 1e-6)), 0, 1) * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def draw_contours(rgb: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], *, width_px: int = 1) -> None:
    """Outline the regions of a mask in a picture, holes included.

    Args:
        rgb: ``(H, W, 3)`` uint8, contiguous; changed in place.
        mask: ``(H, W)``, bool or 0 and 1.
        colour: RGB in [0, 255].
        width_px: Of the line.
    """
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(rgb, contours, -1, colour, width_px)


def blend(rgb: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Lay a map's colours over an image.

    Args:
        rgb: ``(H, W, 3)`` uint8.
        colours: The same shape, as :func:`colour_map` gives them.

    Returns:
        ``(H, W, 3)`` uint8 RGB, a new array.
    """
    return cv2.addWeighted(np.ascontiguousarray(rgb), 1 - MAP_SHARE, colours, MAP_SHARE, 0)
