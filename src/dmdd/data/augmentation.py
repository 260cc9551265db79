"""Augmentation of the normal image, before its twin is made."""

import os
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
    # albumentations asks a server for its newest version at import; a training machine may have no network.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    return albumentations.Compose(list(transforms))
