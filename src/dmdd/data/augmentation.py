"""Augmentation of the normal image, before its twin is made."""

from collections.abc import Sequence
from typing import Any

from dmdd.errors import check_positive


class Augmentation:
    """albumentations transforms of an image and its foreground.

    Args:
        transforms: Transforms that keep the image's size, applied in order.
        fewer_than: Augment only where fewer images are trained on; None for always.

    Raises:
        UserError: ``fewer_than`` is not positive.

    Source: ours.
    """

    def __init__(self, transforms: Sequence[Any], *, fewer_than: int | None = None) -> None:
        import albumentations

        if fewer_than is not None:
            check_positive("augmentation.fewer_than", fewer_than)
        self.fewer_than = fewer_than
        self._composed = albumentations.Compose(list(transforms))

    def for_images(self, count: int) -> "Augmentation | None":
        """Return this where so many images are trained on that it is wanted, else None.

        Args:
            count: Number of images trained on.
        """
        return self if self.fewer_than is None or count < self.fewer_than else None

    def __call__(self, *, seed: int, image: Any, mask: Any) -> dict[str, Any]:
        """Augment one image.

        Args:
            seed: What the draw is a function of, in [0, 2^32).
            image: ``(h, w, 3)`` uint8 RGB.
            mask: ``(h, w)`` uint8, its foreground.

        Returns:
            ``image`` and ``mask``, changed alike.
        """
        self._composed.set_random_seed(seed)
        return self._composed(image=image, mask=mask)


def build_augmentation(*, transforms: Sequence[Any], fewer_than: int | None = None) -> Augmentation | None:
    """Compose albumentations transforms that keep the image's size.

    Args:
        transforms: albumentations transforms, applied in order to image and foreground alike.
        fewer_than: Augment only where fewer images are trained on; None for always.

    Returns:
        The composition, or None if there is nothing to apply.

    Raises:
        UserError: ``fewer_than`` is not positive.

    Source: ours.
    """
    return Augmentation(transforms, fewer_than=fewer_than) if transforms else None
