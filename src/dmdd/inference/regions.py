"""Regions of a mask."""

import cv2
import numpy as np


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
