"""What normal images are like, where they are seen in tiles or in a region only."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dmdd.core.resize import resize_images, resize_masks
from dmdd.data.regions import paint_outside
from dmdd.data.tiles import LargeImages
from dmdd.models.detector import Detector, Slices, Tiling
from dmdd.models.tiling import baselines_inside, tile_images

CALIBRATION_BYTES = 400_000_000
"""Tiles of normal images at the input size that a detector's baselines are learnt from."""


class NormalImages(NamedTuple):
    """Normal images that a detector's baselines are learnt from.

    Args:
        images: ``(N, 3, h, w)`` uint8 at the input size, grey where pixels do not count.
        owners: ``(N,)`` the image that each is of, where they are tiles; None where they are whole.
        inside: ``(N, 1, h, w)`` bool, their regions of interest; None where all pixels count.
    """

    images: Slices
    owners: Tensor | None = None
    inside: Slices | None = None


def learn_baselines(detector: Detector, normal: NormalImages, *, batch_size: int) -> dict[str, Tensor]:
    """Let a detector learn the baselines of normal images, by what lies in their regions.

    Args:
        detector: Its ``normal_baselines`` are set.
        normal: The images, anywhere.
        batch_size: Images at once.

    Returns:
        By map name the images' baselines; those of tiles outside the region are left out.
    """
    images, inside = normal.images, normal.inside
    found = detector.learn_baselines(images, batch_size=batch_size)
    if inside is None:
        return found
    device = next(detector.parameters()).device
    baselines: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for first in range(0, len(images), batch_size):
            some = slice(first, first + batch_size)
            for name, raw in detector.raw_maps(images[some].to(device), only=tuple(found)).items():
                baselines.setdefault(name, []).append(baselines_inside(raw, inside[some].to(device)))
    whole = {name: torch.cat(parts).clamp(min=1e-6) for name, parts in baselines.items()}
    detector.normal_baselines = {name: (float(found.min()), float(found.max())) for name, found in whole.items()}
    return whole


def calibration_tiles(large: LargeImages, tiling: Tiling, size: tuple[int, int]) -> NormalImages:
    """Cut normal images into the tiles that a detector sees, evenly thinned out where they are too many to keep.

    Args:
        large: The images.
        tiling: How they are cut.
        size: Height and width of the networks' input.

    Returns:
        The tiles, less those outside the regions of interest.
    """
    tiles, images, inside = [], [], []
    most = max(1, CALIBRATION_BYTES // (3 * size[0] * size[1] * max(len(large), 1)))
    for index in range(len(large)):
        found = tile_images(large.image(index)[None], tiling)
        region = large.inside(index)
        windows = None if region is None else resize_masks(tile_images(region, tiling), size)
        if windows is not None:
            some = windows.flatten(1).any(1)
            found, windows = found[some], windows[some]
        kept = np.unique(np.linspace(0, len(found) - 1, most).round().astype(int)) if len(found) > most else None
        if kept is not None:
            found, windows = found[torch.from_numpy(kept)], None if windows is None else windows[torch.from_numpy(kept)]
        tiles.append(resize_images(found, size))
        images += [index] * len(found)
        inside += [] if windows is None else [windows]
    shown, windows = torch.cat(tiles), torch.cat(inside) if inside else None
    return NormalImages(shown if windows is None else paint_outside(shown, windows), torch.tensor(images), windows)


def scores_by_tiles_of_others(
    seen: Mapping[int, tuple[Tensor, Tensor]], baselines: Tensor, owners: Tensor, power: float
) -> dict[int, float]:
    """Score normal images with the range of baselines that the tiles of the other images have.

    As :func:`dmdd.training.evaluation.by_baselines_of_others` for images that are seen whole.

    Args:
        seen: By image the scores and baselines of its tiles, ``(T,)`` each, as the detector gives them with the range
            of all.
        baselines: ``(N,)``, what that range was learnt from, above 0.
        owners: ``(N,)`` the image that each of them is of.
        power: The detector's ``baseline_power``.

    Returns:
        By image the largest score of its tiles; as it was where there is no other image.

    Source: leave-one-out; the baseline ours.
    """
    low, high = baselines.min(), baselines.max()
    found = {}
    for index, (scores, own) in seen.items():
        others = baselines[owners != index]
        if len(others):
            factor = own.clamp(low, high) / own.clamp(others.min(), others.max())
            contrast = scores / (1 - scores) * factor**power
            scores = torch.where(scores >= 1, scores, contrast / (1 + contrast))
        found[index] = float(scores.max())
    return found
