"""Calibration where images are seen in tiles: normal tiles to learn levels from, and scores by the tiles of others."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from dmdd.core.resize import resize_images
from dmdd.data.tiles import LargeImages
from dmdd.models.detector import Tiling
from dmdd.models.tiling import tile_images

CALIBRATION_BYTES = 400_000_000
"""Tiles of normal images at the input size that a detector's levels are learnt from."""


def calibration_tiles(large: LargeImages, tiling: Tiling, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Cut normal images into the tiles that a detector sees, evenly thinned out where they are too many to keep.

    Args:
        large: The images.
        tiling: How they are cut.
        size: Height and width of the networks' input.

    Returns:
        ``(T, 3, *size)`` uint8 and the image that each comes from, ``(T,)``.
    """
    tiles, images = [], []
    most = max(1, CALIBRATION_BYTES // (3 * size[0] * size[1] * max(len(large), 1)))
    for index in range(len(large)):
        found = tile_images(large.image(index)[None], tiling)
        kept = np.unique(np.linspace(0, len(found) - 1, most).round().astype(int)) if len(found) > most else None
        found = found if kept is None else found[torch.from_numpy(kept)]
        tiles.append(resize_images(found, size))
        images += [index] * len(found)
    return torch.cat(tiles), torch.tensor(images)


def scores_by_tiles_of_others(
    seen: Mapping[int, tuple[Tensor, Tensor]], levels: Tensor, images: Sequence[int], power: float
) -> dict[int, float]:
    """Score normal images with the range of levels that the tiles of the other images have.

    As :func:`dmdd.training.evaluation.by_levels_of_others` for images that are seen whole.

    Args:
        seen: By image the scores and levels of its tiles, ``(T,)`` each, as the detector gives them with the range of
            all.
        levels: ``(N,)``, what that range was learnt from, above 0.
        images: The image that each of them is of.
        power: The detector's ``level_power``.

    Returns:
        By image the largest score of its tiles; as it was where there is no other image.

    Source: leave-one-out; the level ours.
    """
    owners, low, high = torch.tensor(images), levels.min(), levels.max()
    found = {}
    for index, (scores, own) in seen.items():
        others = levels[owners != index]
        if len(others):
            factor = own.clamp(low, high) / own.clamp(others.min(), others.max())
            contrast = scores / (1 - scores) * factor**power
            scores = torch.where(scores >= 1, scores, contrast / (1 + contrast))
        found[index] = float(scores.max())
    return found
