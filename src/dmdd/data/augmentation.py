"""Augmentation of the normal image, before its twin is made."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dmdd.core.errors import UserError
from dmdd.data.sampling import AUGMENTATION_STREAM

VIEW_SEEN = 12
"""How often a jittered view is shown in stage 1. The teacher sees it once; a student may see a screw 33 times and still
learn what is normal, not that screw (experiments/augmentation)."""

VIEWS = 16  # of an image where the number of steps is not known


class Draw(IntEnum):
    """What each number of a view decides. All are uniforms in [0, 1)."""

    SCALE_X = 0
    SCALE_Y = 1
    SHIFT_X = 2
    SHIFT_Y = 3
    TURNED = 4  # whether it is turned at all
    ANGLE = 5
    FLIP_X = 6
    FLIP_Y = 7
    LIT = 8  # whether its light is changed at all
    BRIGHTNESS = 9
    CONTRAST = 10


@dataclass(frozen=True, kw_only=True)
class Jitter:
    """Move, turn, scale and light images a little: one sampling and one change of colour for a batch, on its device.

    Each image has some views, and each view is drawn once, so that the teacher's features of it can be remembered.
    Borders are mirrored.

    Args:
        scale: Each axis is scaled by a factor in [1 - scale, 1 + scale], in [0, 1).
        shift: Largest shift along an axis, share of the image's side, in [0, 1].
        rotate_degrees: Largest rotation to either side, in [0, 180].
        rotate_share: Share of the views that are turned, in [0, 1].
        flip_share: Share of the views that are mirrored, along each axis by itself, in [0, 1].
        brightness: Largest change of all values, share of white, in [0, 1].
        contrast: Values are multiplied by a factor in [1 - contrast, 1 + contrast], in [0, 1].
        light_share: Share of the views whose brightness and contrast are changed, in [0, 1].
        shown: How often images are shown in stage 1 altogether (steps times batch), 0 if that is not known.
        up_to_images: Augment only where fewer images than this are trained on; None for always.

    Raises:
        UserError: A value is out of its range.
    """

    scale: float = 0.0
    shift: float = 0.0
    rotate_degrees: float = 0.0
    rotate_share: float = 1.0
    flip_share: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    light_share: float = 0.5
    shown: int = 0
    up_to_images: float | None = None

    def __post_init__(self) -> None:
        for name, limit in (("scale", 0.99), ("rotate_degrees", 180), *((name, 1) for name in _SHARES)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= limit:
                raise UserError(f"augmentation.{name}={value}: give a number from 0 to {limit}")

    @property
    def moves(self) -> bool:
        """Whether pixels change their places."""
        return max(self.scale, self.shift, self.rotate_degrees, self.flip_share) > 0

    @property
    def changes(self) -> bool:
        """Whether it does anything."""
        return self.moves or max(self.brightness, self.contrast) > 0

    def for_images(self, count: int) -> "Jitter | None":
        """Return this where so many images are trained on that it is wanted, else None.

        Args:
            count: Number of images trained on.
        """
        return self if self.up_to_images is None or count < self.up_to_images else None

    def views(self, count: int) -> int:
        """Say how many views each image has.

        Args:
            count: Number of images trained on.

        Returns:
            At least 1; so many that stage 1 shows each view ``VIEW_SEEN`` times at most.
        """
        return max(1, math.ceil(self.shown / (count * VIEW_SEEN))) if self.shown else VIEWS

    def __call__(self, images: Tensor, foreground: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Jitter a batch.

        Args:
            images: ``(B, 3, h, w)`` uint8 RGB.
            foreground: ``(B, 1, h, w)`` bool, moved alike.
            drawn: ``(B, len(Draw))`` float64 in [0, 1), on the CPU.

        Returns:
            Images, float32 in [0, 1], and foreground, on the device of the images.

        Source: ours; the distribution is that of albumentations' ``Affine`` and ``RandomBrightnessContrast``.
        """
        gain, offset = (_send(values, images.device)[:, None, None, None] for values in self._light(drawn))
        if not self.moves:
            return (images.float() * (gain / 255)).add_(offset).clamp_(0, 1), foreground
        height, width = images.shape[-2:]
        grid = _grid(_send(self._motion(drawn, height, width), images.device), height, width)
        # The foreground is a fourth channel: a sampling of its own would cost half as much again.
        stacked = torch.empty(len(images), 4, height, width, device=images.device)
        stacked[:, :3], stacked[:, 3:] = images, foreground
        moved = F.grid_sample(stacked, grid, padding_mode="reflection", align_corners=False)
        return moved[:, :3].mul_(gain / 255).add_(offset).clamp_(0, 1), moved[:, 3:] >= 0.5

    def _light(self, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Factor and summand (B,) of each image, float64."""
        lit = drawn[:, Draw.LIT] < self.light_share
        gain = torch.where(lit, 1 + self.contrast * _signed(drawn, Draw.CONTRAST), 1.0)
        return gain, torch.where(lit, self.brightness * _signed(drawn, Draw.BRIGHTNESS), 0.0)

    def _motion(self, drawn: Tensor, height: int, width: int) -> Tensor:
        """Where each pixel comes from: (B, 2, 3) float64, x and y as functions of x, y and 1 from the middle, in px."""
        scale = 1 + self.scale * _signed(drawn, Draw.SCALE_X, Draw.SCALE_Y)
        flipped = drawn[:, [Draw.FLIP_X, Draw.FLIP_Y]] < self.flip_share
        scale = torch.where(flipped, -scale, scale)
        angle = math.radians(self.rotate_degrees) * _signed(drawn, Draw.ANGLE)
        angle = torch.where(drawn[:, Draw.TURNED] < self.rotate_share, angle, 0.0)
        cosine, sine = torch.cos(angle), torch.sin(angle)
        turn = torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)
        back = turn / scale[:, :, None]  # scaled first, then turned, then shifted; here the other way round
        # Whole pixels, as albumentations shifts; the rest moves them by fractions anyway.
        sides = torch.tensor([width, height], dtype=torch.float64)
        move = (self.shift * _signed(drawn, Draw.SHIFT_X, Draw.SHIFT_Y) * sides).trunc()
        return torch.cat([back, -back @ move[:, :, None]], dim=2)


_SHARES = ("shift", "rotate_share", "flip_share", "brightness", "contrast", "light_share")


def draw_views(seed: int, *, images: int, views: int) -> Tensor:
    """Draw the random numbers of all views of all images.

    Args:
        seed: Seed of the run.
        images: Number of images.
        views: Views of each.

    Returns:
        ``(images * views, len(Draw))`` float64 in [0, 1), view by view; each row is a function of seed, image and view.
    """
    words = np.empty((views, images, len(Draw)), np.uint64)
    for view, image in np.ndindex(views, images):
        # The last word sets this use apart from `augmentation_seed`.
        counter = np.array([0, image, view, 1], np.uint64)
        key = np.array([seed, AUGMENTATION_STREAM], np.uint64)
        words[view, image] = np.random.Philox(key=key, counter=counter).random_raw(len(Draw))
    return torch.from_numpy((words >> np.uint64(11)).astype(np.float64) * 2.0**-53).flatten(0, 1)


def _signed(drawn: Tensor, *columns: Draw) -> Tensor:
    """Columns as uniforms in [-1, 1): (B,) or (B, n)."""
    return 2 * (drawn[:, columns[0]] if len(columns) == 1 else drawn[:, list(columns)]) - 1


def _send(values: Tensor, device: torch.device) -> Tensor:
    """Decided in float64 on the CPU, so that every device gets the same numbers."""
    return values.float().to(device, non_blocking=True)


def _grid(motion: Tensor, height: int, width: int) -> Tensor:
    """Sampling grid (B, h, w, 2) of motions (B, 2, 3) from the middle, in px."""
    across = torch.arange(width, device=motion.device) - (width - 1) / 2
    down = torch.arange(height, device=motion.device) - (height - 1) / 2
    # One plane per axis: filling interleaved coordinates takes three times as long on a CPU.
    grid = torch.empty(len(motion), 2, height, width, device=motion.device)
    for axis, side in enumerate((width, height)):
        by_x, by_y, rest = (motion[:, axis, term, None] * (2 / side) for term in range(3))
        torch.add((by_x * across)[:, None, :], (by_y * down + rest)[:, :, None], out=grid[:, axis])
    return grid.permute(0, 2, 3, 1)


class Augmentation:
    """albumentations transforms of an image and its foreground, on the CPU, image by image.

    Args:
        transforms: Transforms that keep the image's size, applied in order.
        up_to_images: Augment only where fewer images than this are trained on; None for always.
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
    *,
    transforms: Sequence[Any] = (),
    seen_more_than: float | None = None,
    steps: int = 0,
    batch_size: int = 0,
    scale: float = 0.0,
    shift: float = 0.0,
    rotate_degrees: float = 0.0,
    rotate_share: float = 1.0,
    flip_share: float = 0.0,
    brightness: float = 0.0,
    contrast: float = 0.0,
    light_share: float = 0.5,
) -> Augmentation | Jitter | None:
    """Build what is done to normal images: the built-in jitter, or albumentations transforms in its place.

    Args:
        transforms: albumentations transforms that keep the image's size, applied in order to image and foreground
            alike; where there are some, nothing else is done.
        seen_more_than: Augment only where stage 1 sees each image more often than this; None for always.
        steps: Steps of stage 1.
        batch_size: Images of a step.
        scale: This and what follows: see :class:`Jitter`.
        shift: Share of the image's side.
        rotate_degrees: To either side.
        rotate_share: Share of the views that are turned.
        flip_share: Share of the views that are mirrored, along each axis.
        brightness: Share of white.
        contrast: Share of the value.
        light_share: Share of the views that are lit differently.

    Returns:
        One of the two, or None if there is nothing to apply.

    Raises:
        UserError: ``seen_more_than`` is no positive number, or one of the jitter's is out of its range.
    """
    limit = None
    if seen_more_than is not None:
        if isinstance(seen_more_than, bool) or not isinstance(seen_more_than, int | float) or seen_more_than <= 0:
            raise UserError(f"augmentation.seen_more_than={seen_more_than}: give a positive number, or null for always")
        limit = steps * batch_size / seen_more_than
    if transforms:
        return Augmentation(transforms, up_to_images=limit)
    made = Jitter(
        scale=scale,
        shift=shift,
        rotate_degrees=rotate_degrees,
        rotate_share=rotate_share,
        flip_share=flip_share,
        brightness=brightness,
        contrast=contrast,
        light_share=light_share,
        shown=steps * batch_size,
        up_to_images=limit,
    )
    return made if made.changes else None
