"""Pictures of maps: colours, contours, overlays, captions, contact sheets."""

from collections.abc import Sequence

import cv2
import numpy as np

MAP_SHARE = 0.4
"""Weight of the map's colours over the image."""

LONGEST_JPEG_PX = 65_000
CAPTION_PX = 22
CAPTION_GREY = 32
CONTOUR_FOUND = (255, 255, 255)


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


def draw_overlay(
    rgb: np.ndarray, heat: np.ndarray, mask: np.ndarray | None, *, middle: float, inside: np.ndarray | None = None
) -> np.ndarray:
    """Draw an image under its map's colours, as the pictures of a run do.

    Args:
        rgb: ``(H, W, 3)`` uint8.
        heat: ``(H, W)`` float32 in [0, 1].
        mask: ``(H, W)`` bool, outlined white; None for no outline.
        middle: Value at the middle of the colour scale, in (0, 1].
        inside: ``(H, W)`` bool, the region of interest, outside of which the image is dark; None where all counts.

    Returns:
        ``(H, W, 3)`` uint8 RGB; smaller where a side is longer than a JPEG can be.
    """
    overlay = blend(rgb, colour_map(heat, middle=middle))
    if inside is not None:
        overlay[~inside] = rgb[~inside] // 4
    if mask is not None:
        # Still visible when a large image is shown on a screen.
        draw_contours(overlay, mask, CONTOUR_FOUND, width_px=max(1, round(max(heat.shape) / 800)))
    scale = LONGEST_JPEG_PX / max(heat.shape)
    return overlay if scale >= 1 else cv2.resize(overlay, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def add_caption(picture: np.ndarray, text: str) -> np.ndarray:
    """Put a line of text above a picture; it is cut where the picture is narrower.

    Args:
        picture: ``(H, W, 3)`` uint8 RGB.
        text: What the built-in font lacks is shown as a question mark: it has ASCII only.

    Returns:
        ``(H + CAPTION_PX, W, 3)`` uint8 RGB.
    """
    strip = np.full((CAPTION_PX, picture.shape[1], 3), CAPTION_GREY, np.uint8)
    shown = text.encode("ascii", "replace").decode()
    cv2.putText(strip, shown, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate([strip, picture])


def contact_sheet(pictures: Sequence[np.ndarray], *, columns: int) -> np.ndarray:
    """Set pictures side by side and below each other, in order.

    Args:
        pictures: ``(H, W, 3)`` uint8 RGB each, at least one, of any sizes.
        columns: Pictures in a row.

    Returns:
        ``(H', W', 3)`` uint8 RGB; each place is as large as the largest picture, what is left is black.
    """
    height, width = (max(picture.shape[side] for picture in pictures) for side in (0, 1))
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = np.zeros((rows * height, columns * width, 3), np.uint8)
    for place, picture in enumerate(pictures):
        top, left = place // columns * height, place % columns * width
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet


def encode(rgb: np.ndarray, ending: str = ".png") -> bytes:
    """Encode a picture. Writing these bytes works for every path; ``cv2.imwrite`` does not.

    Args:
        rgb: ``(H, W, 3)`` uint8.
        ending: ``.png`` or ``.jpg``.

    Returns:
        The content of a file of that kind.
    """
    quality = [cv2.IMWRITE_JPEG_QUALITY, 90] if ending == ".jpg" else []
    return cv2.imencode(ending, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), quality)[1].tobytes()
