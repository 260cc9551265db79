"""Augmentation of the normal image, before its twin is made."""

from collections.abc import Sequence
from typing import Any

from dmdd.core.errors import UserError


class Augmentation:
    """albumentations transforms of an image and its foreground.

    Args:
        transforms: Transforms that keep the image's size, applied in order.
        up_to_images: Augment only where fewer images than this are trained on; None for always.

    Source: ours.
    """

    def __init__(self, transforms: Sequence[Any], *, up_to_images: float | None = None) -> None:
        import albumentations

        self.up_to_images = up_to_images
        self._composed = albumentations.Compose(list(transforms))

    def for_images(self, count: int) -> "Augmentation | None":
        """Return this where so many images are trained on that it is wanted, else None.

        Args:
            count: Number of images trained on.
        """
        return self if self.up_to_images is None or count < self.up_to_images else None

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


def build_augmentation(
    *, transforms: Sequence[Any], seen_more_than: float | None = None, steps: int = 0, batch_size: int = 0
) -> Augmentation | None:
    """Compose albumentations transforms that keep the image's size.

    Args:
        transforms: albumentations transforms, applied in order to image and foreground alike.
        seen_more_than: Augment only where stage 1 sees each image more often than this; None for always.
        steps: Steps of stage 1.
        batch_size: Images of a step.

    Returns:
        The composition, or None if there is nothing to apply.

    Raises:
        UserError: ``seen_more_than`` is no positive number.

    Source: ours.
    """
    if not transforms:
        return None
    if seen_more_than is None:
        return Augmentation(transforms)
    if isinstance(seen_more_than, bool) or not isinstance(seen_more_than, int | float) or seen_more_than <= 0:
        raise UserError(f"augmentation.seen_more_than={seen_more_than}: give a positive number, or null for always")
    return Augmentation(transforms, up_to_images=steps * batch_size / seen_more_than)
