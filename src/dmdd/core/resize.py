"""The one resize of images: what training, evaluation and prediction see is its output."""

import torch
import torch.nn.functional as F
from torch import Tensor

TIE_SHIFT = 0.0013
"""Added before rounding. Sizes in simple proportions, as 320 to 256, give many exact halves, which the last bits of
float32 sums would send up or down: another runtime adds in another order, and one pixel in a thousand would differ by a
grey level. With this shift 0 to 2 in a million do."""


def resize_images(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize RGB images, antialiased bilinear, rounded to whole grey values, halves up.

    Args:
        images: ``(B, 3, H, W)``, uint8 in [0, 255] or float in [0, 1].
        size: Height and width in pixels.

    Returns:
        ``(B, 3, *size)`` uint8 in [0, 255].
    """
    if images.dtype == torch.uint8 and images.shape[-2:] == size:
        return images
    values = images.float() if images.dtype == torch.uint8 else images.float() * 255
    if images.shape[-2:] != size:
        values = F.interpolate(values, size=size, mode="bilinear", align_corners=False, antialias=True)
    return (values + TIE_SHIFT).round().clamp(0, 255).to(torch.uint8)


def resize_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize masks by taking the nearest pixel, so that they stay masks.

    Args:
        masks: ``(B, 1, H, W)`` bool.
        size: Height and width in pixels.

    Returns:
        ``(B, 1, *size)`` bool.
    """
    if masks.shape[-2:] == size:
        return masks
    return F.interpolate(masks.to(torch.uint8), size=size, mode="nearest-exact").bool()
