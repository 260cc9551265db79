"""The teacher's features of the normal images, computed once: neither teacher nor image changes during a run."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dmdd.models.teacher import STRIDES, Teacher


class FeatureCache:
    """Remember the teacher's features of images by their index.

    Args:
        images: How many images there are; 0 remembers nothing (the images change from step to step).
        limit_gb: Remember nothing if all features together take more than this, in 10^9 bytes.

    The features are kept as the teacher gave them, on its device and in its precision, so a remembered feature equals
    a computed one to the bit as long as the teacher's arithmetic does not depend on the batch.

    Source: ours; it halves the teacher's work in stage 1.
    """

    def __init__(self, *, images: int, limit_gb: float) -> None:
        self.images, self.limit_gb = images, limit_gb
        self._known = torch.zeros(images, dtype=torch.bool)
        self._levels: list[Tensor] = []

    def __call__(
        self, teacher: Teacher, images: Tensor, indices: Sequence[int], more: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Give the features of some images from memory, and those of more images freshly.

        Args:
            teacher: The frozen teacher.
            images: ``(B, 3, H, W)`` uint8 RGB, or floats in [0, 1]; normal images.
            indices: The index of each.
            more: ``(M, 3, H, W)`` in [0, 1], images that are new in every step.

        Returns:
            The features of ``images`` and of ``more``, each a list of ``(B, C_l, h_l, w_l)``.
        """
        count, rows = len(images), torch.tensor(indices)
        if self.images and not self._levels and self.images * _bytes(teacher, more) > self.limit_gb * 1e9:
            self.images = 0
        if self.images and bool(self._known[rows].all()):
            at = rows.to(more.device, non_blocking=True)
            return [_rows(level, at) for level in self._levels], teacher(more)
        images = images if images.is_floating_point() else images / 255
        images = images.contiguous(memory_format=torch.channels_last)
        if not self.images:
            # All through the teacher in one batch: half the launches.
            features = teacher(torch.cat([images, more]))
            return [f[:count] for f in features], [f[count:] for f in features]
        # In two, until all are known: a larger batch may round differently, and a run that was interrupted, which
        # begins with an empty memory, must compute the same.
        own = teacher(images)
        self._remember(own, rows)
        return own, teacher(more)

    def clear(self) -> None:
        """Forget all features and give their memory back."""
        self._levels = []
        self._known.zero_()

    def _remember(self, features: list[Tensor], rows: Tensor) -> None:
        if not self._levels:
            self._levels = [
                torch.empty(
                    (self.images, *f.shape[1:]), dtype=f.dtype, device=f.device, memory_format=torch.channels_last
                )
                for f in features
            ]
        for level, feature in zip(self._levels, features, strict=True):
            level[rows.to(level.device, non_blocking=True)] = feature
        self._known[rows] = True


def _bytes(teacher: Teacher, images: Tensor) -> int:
    """What the features of one image take, known before the first are there: it decides how batches are made."""
    height, width = images.shape[-2:]
    values = sum(c * (height // s) * (width // s) for c, s in zip(teacher.channels, STRIDES, strict=True))
    kind = images.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else teacher.mean.dtype
    return values * dtype.itemsize


def _rows(level: Tensor, index: Tensor) -> Tensor:
    """Select rows that are channels last, each in one piece: indexing by a tensor would go element by element."""
    return level.permute(0, 2, 3, 1).index_select(0, index).permute(0, 3, 1, 2)
