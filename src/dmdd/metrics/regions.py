"""Anomalous regions and the weight that each of their pixels carries in the per-region overlap."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from dmdd.core.errors import UserError


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


class OverlapPixels(NamedTuple):
    """The pixels of one image that count for the overlap.

    Args:
        position: (K,) int64, row-major index of the pixel in its image.
        region_size: (K,) int64, so many pixels cover the region that the pixel belongs to.
        n_regions: number of regions.
    """

    position: NDArray[np.int64]
    region_size: NDArray[np.int64]
    n_regions: int


def overlap_pixels(mask: NDArray[np.uint8]) -> OverlapPixels:
    """Give every anomalous pixel an equal share of its 8-connected region.

    Args:
        mask: (H, W) uint8, 0 normal and 1 anomalous.

    Returns:
        The anomalous pixels.

    Source: the per-region overlap of the MVTec AD authors.
    """
    pixels = anomalous_pixels(mask)
    return OverlapPixels(pixels.position, pixels.region_size[pixels.region], pixels.region_size.size)


class Channel(NamedTuple):
    """One defect of an image, which need not be connected and may share pixels with another.

    Args:
        mask: (H, W) bool, where it is.
        saturation: so many of its pixels found are all that there is to find.
    """

    mask: NDArray[np.bool_]
    saturation: int


def saturated_pixels(scores: NDArray[np.float32], channels: Sequence[Channel]) -> OverlapPixels:
    """Give the highest pixels of each defect an equal share of it, until it is saturated.

    Args:
        scores: (H, W) float32, finite.
        channels: the defects of the image.

    Returns:
        Of each defect the `saturation` highest pixels: whatever the threshold, the mean share that they cover is the
        saturated overlap `min(found / saturation, 1)`.

    Raises:
        UserError: a defect without pixels, or a saturation that is not between 1 and its number of pixels.

    Source: sPRO, Bergmann et al., IJCV 2022; that it is the overlap of the highest pixels is ours.
    """
    flat, positions, sizes = scores.ravel(), [], []
    for number, channel in enumerate(channels):
        inside = np.flatnonzero(channel.mask)
        if not 1 <= channel.saturation <= inside.size:
            raise UserError(
                f"defect {number}: a saturation of {channel.saturation} pixels, but it must lie between 1 and the "
                f"{inside.size} pixels of the defect"
            )
        highest = np.argsort(-flat[inside], kind="stable")[: channel.saturation]
        positions.append(inside[highest])
        sizes.append(np.full(channel.saturation, channel.saturation, dtype=np.int64))
    nothing = np.zeros(0, dtype=np.int64)
    return OverlapPixels(np.concatenate([nothing, *positions]), np.concatenate([nothing, *sizes]), len(channels))
