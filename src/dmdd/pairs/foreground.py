"""Where the part is, without a table of categories: only what stands out from a plain ground counts as a part."""

import cv2
import numpy as np

_SIDE = 160  # the estimate is made at this size: contours to about 2 px at 256 px
_RIM = 4  # width of the frame, px at _SIDE, that is taken for ground
_DEGREE = 2  # of the polynomial through the frame: shading and vignettes are no part
_GROUND_SHARE = 0.7  # of the frame must fit the polynomial: the part, its shadow or a hook may cross the rest
_GROUND_NOISE = 12.0  # grey levels: a frame that scatters more is a texture, not a ground
_LEAST_CONTRAST = 18.0  # grey levels between part and ground
_SHARES = (0.01, 0.85)  # of the image that a part may cover
_GROW = 2  # px at _SIDE: anomalies may touch and cross the contour, but do not paint a rim of ground
_SHADOW = 0.6  # of the part's median contrast: what differs less from the ground is its shadow, but ...
_CLEAR = 30  # grey levels: ... so much contrast is a part too, ...
_DARK = 50  # grey levels: ... on a darker ground, on which no shadow differs so much, and where ...
_DULL_SHARE = 0.5  # ... there is more of it than this, of what stands out most: a cable's jacket beside its bare copper
_HOLE = 0.1  # of the part: a larger hole is not a bore but a face as bright as the ground


def estimate_foreground(image: np.ndarray) -> np.ndarray:
    """Find the part in front of a plain ground, or say that the whole image counts.

    The frame of the image is fitted by a smooth surface per channel; what differs from its continuation by more than an
    automatic threshold is the part, with its small holes kept as ground and its contour grown by about 2 % of the side.
    Where the frame is no plain ground, the part does not stand out, goes from side to side as a grain in wood does, or
    covers too little or too much, every pixel is True: a wrong foreground would forbid anomalies where real ones
    appear, a missing one only wastes some on the ground.

    Args:
        image: (H, W, 3) uint8.

    Returns:
        (H, W) bool, True on the part.

    Raises:
        ValueError: If the image is not (H, W, 3) uint8.

    Source: ours. DeSTSeg's and DRAEM's successors keep a hand-written table of categories and thresholds instead.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
    small = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (3, 3), 0).astype(np.float32)
    whole = np.ones(image.shape[:2], bool)
    ground = _fit_ground(small)
    if ground is None:
        return whole
    part = _stand_out(np.abs(small - ground).max(2), dark=float(np.median(ground)) < _DARK)
    if part is None:
        return whole
    height, width = image.shape[:2]
    return cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR) >= 128


def _surface(side: int) -> np.ndarray:
    """Polynomial terms in y and x of each pixel: (side * side, terms)."""
    axis = np.linspace(-1, 1, side)
    down, across = np.meshgrid(axis, axis, indexing="ij")
    terms = [down**i * across**j for i in range(_DEGREE + 1) for j in range(_DEGREE + 1 - i)]
    return np.stack(terms, axis=-1).reshape(side * side, -1).astype(np.float32)


_TERMS = _surface(_SIDE)
_FRAME = np.pad(np.zeros((_SIDE - 2 * _RIM,) * 2, bool), _RIM, constant_values=True).ravel()


def _fit_ground(image: np.ndarray) -> np.ndarray | None:
    """The ground's surface (side, side, 3), or None where the frame is no plain ground."""
    ground, terms = image.reshape(-1, 3)[_FRAME], _TERMS[_FRAME]
    # Least squares, thrice, each time without the worst fitting: a hook that crosses the frame must not bend the
    # surface.
    fits = np.ones(len(ground), bool)
    for _ in range(3):
        used = terms[fits]
        weights = np.linalg.solve(used.T @ used, used.T @ ground[fits])
        residual = np.abs(ground - terms @ weights).max(1)
        fits = residual <= max(float(np.quantile(residual, _GROUND_SHARE)), 3.0)
    if np.quantile(residual, _GROUND_SHARE) > _GROUND_NOISE:
        return None
    surface: np.ndarray = (_TERMS @ weights).reshape(image.shape)
    return surface


def _stand_out(distance: np.ndarray, *, dark: bool) -> np.ndarray | None:
    """The part (side, side) as 0 or 255, or None where nothing of a part's size stands out clearly."""
    levels = np.clip(distance, 0, 255).astype(np.uint8)
    threshold, most = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    if not most.any():
        return None
    threshold = max(threshold, _SHADOW * float(np.median(levels[most > 0])))
    if dark:
        threshold = min(threshold, _CLEAR)
    part = _pieces(levels, threshold)
    if part is None:
        return None
    beside = (levels > _CLEAR) & (cv2.dilate(part, np.ones((5, 5), np.uint8)) == 0)
    if np.count_nonzero(beside) > _DULL_SHARE * np.count_nonzero(part):
        part = _pieces(levels, _CLEAR)
        if part is None:
            return None
    return cv2.dilate(_fill(part), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * _GROW + 1,) * 2))


def _pieces(levels: np.ndarray, threshold: float) -> np.ndarray | None:
    """What lies above the threshold (side, side), as 0 or 255, or None where it is not like a part."""
    part = cv2.morphologyEx((levels > threshold).astype(np.uint8) * 255, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    on = part > 0
    if not _SHARES[0] <= on.mean() <= _SHARES[1]:
        return None
    if levels[on].mean() - levels[~on].mean() < _LEAST_CONTRAST or on.ravel()[_FRAME].mean() > 1 - _GROUND_SHARE:
        return None
    count, labels, stats, _ = cv2.connectedComponentsWithStats(part, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    # A part is one piece or a few, a texture's marks are many.
    kept = 1 + np.flatnonzero(areas >= 0.1 * areas.max())
    if count == 1 or len(kept) > 4 or areas[kept - 1].sum() < 0.8 * areas.sum():
        return None
    if (stats[kept][:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]] > _SIDE - _RIM).any():
        return None
    return np.isin(labels, kept).astype(np.uint8) * 255


def _fill(part: np.ndarray) -> np.ndarray:
    """Fill the holes of a part (side, side), 0 or 255, that are too large to be bores."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(255 - part, connectivity=4)
    left, top, wide, high, areas = stats.T
    closed = (left > 0) & (top > 0) & (left + wide < _SIDE) & (top + high < _SIDE)
    closed[0] = False  # the part itself
    holes = np.flatnonzero(closed & (areas > _HOLE * np.count_nonzero(part)))
    return np.where(np.isin(labels, holes), 255, part).astype(np.uint8)
