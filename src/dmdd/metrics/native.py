"""Maps compared with masks of another size, image by image."""

from collections.abc import Iterable, Iterator

import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from dmdd.core.errors import UserError


def native_maps(maps: Tensor, masks: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Resize each map to the size of its own mask.

    Args:
        maps: (B, h, w) or (B, 1, h, w), floating.
        masks: B masks, each (H, W) or (1, H, W), of any size and of different sizes.

    Yields:
        One map (1, H, W) float32 and its mask (1, H, W) at a time, so that the memory is that of one image.

    Raises:
        UserError: the number of masks is not that of the maps, or a mask is not of one channel.

    Source: ours; bilinear, pixel centres aligned (`align_corners=False`). Masks are never resized: a thin defect would
    vanish.
    """
    maps = maps.detach().flatten(0, -3)
    masks = list(masks)
    if len(masks) != len(maps):
        raise UserError(f"{len(maps)} maps but {len(masks)} masks")
    for scores, mask in zip(maps, masks, strict=True):
        mask = mask[0] if mask.ndim == 3 and mask.shape[0] == 1 else mask
        if mask.ndim != 2:
            raise UserError(f"a native mask must be (H, W) or (1, H, W), not {tuple(mask.shape)}")
        native = scores.float()[None]
        if native.shape[-2:] != mask.shape:
            native = F.interpolate(native[None], size=mask.shape, mode="bilinear", align_corners=False)[0]
        yield native, mask[None]


def update_native(metrics: Metric | MetricCollection, maps: Tensor, masks: Iterable[Tensor]) -> None:
    """Add a batch whose masks have their own sizes.

    Args:
        metrics: one pixel metric or a collection of them.
        maps: (B, h, w) or (B, 1, h, w), floating.
        masks: B masks, each (H, W) or (1, H, W).

    Raises:
        UserError: see `native_maps` and the metrics' own `update`.

    Source: ours.
    """
    for native, mask in native_maps(maps, masks):
        metrics.update(native, mask)
