"""Connected anomalous regions and the weight that each of their pixels carries in the per-region overlap."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray


class AnomalousPixels(NamedTuple):
    """The anomalous pixels of one image.

    Args:
        position: (K,) int64, row-major index of the pixel in its image.
        region: (K,) int32 in [0, n_regions), the region that the pixel belongs to.
        region_size: (n_regions,) int64, pixels of each region.
    """

    position: NDArray[np.int64]
    region: NDArray[np.int32]
    region_size: NDArray[np.int64]


def anomalous_pixels(mask: NDArray[np.uint8]) -> AnomalousPixels:
    """Label the 8-connected regions of one mask.

    Args:
        mask: (H, W) uint8, 0 normal and 1 anomalous.

    Returns:
        The anomalous pixels with their regions; empty arrays for a normal image.

    Source: ours; 8-connectivity as in the MVTec AD authors' evaluation.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        nothing = np.zeros(0, dtype=np.int64)
        return AnomalousPixels(nothing, nothing.astype(np.int32), nothing)
    # Defects are small: labelling only their bounding box costs a tenth of labelling the image.
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    box = np.ascontiguousarray(mask[top:bottom, left:right])
    _, labels = cv2.connectedComponents(box, connectivity=8, ltype=cv2.CV_32S)
    row, column = np.nonzero(box)
    region = (labels[row, column] - 1).astype(np.int32)
    position = (row + top) * mask.shape[1] + (column + left)
    return AnomalousPixels(position, region, np.bincount(region).astype(np.int64))
