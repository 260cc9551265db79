"""Augmentation of the normal image, before its twin is made."""

from collections.abc import Sequence
from typing import Any


def build_augmentation(*, transforms: Sequence[Any]) -> Any:
    """Compose albumentations transforms that keep the image's size.

    Args:
        transforms: albumentations transforms, applied in order to image and foreground alike.

    Returns:
        The composition, or None if there is nothing to apply.

    Source: ours (METHOD section 0 has none; off by default, because it can create what is a defect).
    """
    if not transforms:
        return None
    import albumentations

    return albumentations.Compose(list(transforms))
