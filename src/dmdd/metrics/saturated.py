"""The saturated per-region overlap of MVTec LOCO."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmdd.core.errors import UserError
from dmdd.metrics import functional
from dmdd.metrics.functional import Estimate, Steps
from dmdd.metrics.histogram import check_maps
from dmdd.metrics.pixel import PixelMetric
from dmdd.metrics.regions import Channel, OverlapPixels, saturated_pixels


def united_masks(maps: Tensor, channels: Sequence[Sequence[Channel]]) -> Tensor:
    """Mark the pixels of each image that belong to a defect.

    Args:
        maps: (B, H, W) or (B, 1, H, W).
        channels: B times the defects of the image, none for a normal one.

    Returns:
        (B, H, W) bool, on the device of the maps.

    Raises:
        UserError: there are not as many images as maps, or a defect has another size than its map.

    Source: the normal pixels of the MVTec LOCO authors' evaluation are the others.
    """
    if len(channels) != len(maps):
        raise UserError(f"{len(maps)} maps but the defects of {len(channels)} images")
    shape = tuple(maps.shape[-2:])
    masks = np.zeros((len(maps), *shape), dtype=bool)
    for mask, own in zip(masks, channels, strict=True):
        for channel in own:
            if channel.mask.shape != shape:
                raise UserError(f"the maps are {shape} pixels, but a defect is {channel.mask.shape}")
            mask |= channel.mask
    return torch.from_numpy(masks).to(maps.device)


def saturated_overlap(maps: Tensor, channels: Sequence[Sequence[Channel]]) -> list[OverlapPixels]:
    """Find the pixels that count for the saturated overlap, see `dmdd.metrics.regions.saturated_pixels`.

    Args:
        maps: (B, H, W) float32, finite.
        channels: B times the defects of the image.

    Returns:
        Those of each image.

    Raises:
        UserError: see `dmdd.metrics.regions.saturated_pixels`.

    Source: sPRO, Bergmann et al., IJCV 2022.
    """
    return [saturated_pixels(s.cpu().numpy(), own) for s, own in zip(maps, channels, strict=True)]


class SaturatedAUPRO(PixelMetric):
    """Area under the saturated per-region-overlap curve up to a false-positive rate, divided by that rate.

    Args:
        fpr_limit: upper end of the integral, in (0, 1].
        exact: see `PixelMetric`.
        kwargs: arguments of `torchmetrics.Metric`.

    Raises:
        UserError: `fpr_limit` outside (0, 1].

    A pixel is normal where no defect of its image is. Maps must have the masks' own size: saturations are pixels.

    Source: AU-sPRO, Bergmann et al., IJCV 2022, and the authors' evaluation; the curve and its area are those of
    `dmdd.metrics.functional.aupro`, the overlap of a defect is that of its highest pixels, see
    `dmdd.metrics.regions.saturated_pixels`.
    """

    def __init__(self, fpr_limit: float = 0.05, *, exact: bool = False, **kwargs: Any) -> None:
        super().__init__(exact=exact, **kwargs)
        functional.check_fpr_limit(fpr_limit)
        self.fpr_limit = fpr_limit

    def update(self, maps: Tensor, channels: Sequence[Sequence[Channel]]) -> None:  # type: ignore[override]
        """Add a batch.

        Args:
            maps: (B, H, W) or (B, 1, H, W), floating, any finite scores.
            channels: B times the defects of the image, none for a normal one.

        Raises:
            UserError: there are not as many images as maps, a defect has another size than its map, or see
                `dmdd.metrics.histogram.check_maps` and `dmdd.metrics.regions.saturated_pixels`; nothing of the batch
                is then counted.
        """
        maps, masks = check_maps(maps, united_masks(maps, channels), images_before=int(self.n_images))
        self._add(maps, masks, saturated_overlap(maps, channels))

    def _estimate(self, steps: Steps) -> Estimate:
        return functional.aupro(steps, self.fpr_limit)
