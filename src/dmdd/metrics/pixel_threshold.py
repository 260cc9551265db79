"""From the map values inside and outside of masks to the threshold of the largest F1."""

import torch
from torch import Tensor

PIXEL_BINS = 4096


def count_values(maps: Tensor, masks: Tensor) -> Tensor:
    """Count each image's pixels by value, so that thresholds can be chosen when all images have been seen.

    Args:
        maps: ``(B, 1, h, w)`` float in [0, 1].
        masks: ``(B, 1, h, w)`` bool.

    Returns:
        ``(B, 2, PIXEL_BINS)`` int32 on the CPU: pixels outside and inside the mask.
    """
    bins = (maps.float() * PIXEL_BINS).long().clamp(0, PIXEL_BINS - 1) + PIXEL_BINS * masks.long()
    return (
        torch.stack([torch.bincount(b.flatten(), minlength=2 * PIXEL_BINS) for b in bins])
        .int()
        .cpu()
        .unflatten(1, (2, -1))
    )


def choose_pixel_threshold(counts: Tensor) -> tuple[float, float] | None:
    """Find the map value of the largest F1.

    Args:
        counts: ``(N, 2, PIXEL_BINS)``, as :func:`count_values` gives them.

    Returns:
        The threshold and its F1; None without a pixel inside a mask.
    """
    outside, inside = counts.double().sum(0).flip(1).cumsum(1).flip(1)
    if not inside[0]:
        return None
    f1 = 2 * inside / (inside[0] + inside + outside)
    best = int(f1.argmax())
    return best / PIXEL_BINS, float(f1[best])


def peaks(counts: Tensor) -> list[float]:
    """Give each map's largest value, to the width of a bin.

    Args:
        counts: ``(N, 2, PIXEL_BINS)``, as :func:`count_values` gives them.

    Returns:
        In [0, 1].
    """
    seen = counts.sum(1) > 0
    return [(float(row.nonzero().max()) + 0.5) / PIXEL_BINS for row in seen]
