"""The part of the image that one group of pairs works on."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """A rectangle of the image for each pair of a group, all of one size.

    Small anomalies on a CPU are made inside small windows: a pass over a 64 px window costs a sixteenth of a pass over
    a 256 px image. Coordinates stay those of the image, so the result is the same in a window of any size.
    """

    origin: Tensor  # (b, 2) float32, y and x of the first pixel: whole numbers
    size: tuple[int, int]  # height and width of the window, px
    image_size: tuple[int, int]  # height and width of the image, px

    @staticmethod
    def whole(images: Tensor) -> "Window":
        """Make the window that is the image itself, for images (b, ..., H, W)."""
        size = (images.shape[-2], images.shape[-1])
        return Window(torch.zeros(len(images), 2, device=images.device), size, size)

    @property
    def is_whole(self) -> bool:
        """Whether the window is the image itself."""
        return self.size == self.image_size

    @property
    def side(self) -> int:
        """Shorter side of the image, px: the unit of all relative sizes."""
        return min(self.image_size)

    def pixels(self, axis: int) -> Tensor:
        """Positions (b, n) of the window's rows (axis 0) or columns (axis 1) in the image, float32, px."""
        return self._pixels[axis]

    @cached_property
    def _pixels(self) -> tuple[Tensor, Tensor]:
        down, across = (torch.arange(length, device=self.origin.device) for length in self.size)
        return down + self.origin[:, :1], across + self.origin[:, 1:]

    def take(self, rows: Tensor) -> "Window":
        """Select pairs."""
        return Window(self.origin[rows], self.size, self.image_size)

    def around(self, anchor: Tensor, side: int) -> "Window":
        """Make square windows of `side` px around anchors (b, 2), moved into the image where they would leave it."""
        limit = torch.tensor(self.image_size, device=anchor.device) - side
        origin = (anchor.floor() - side // 2).clamp_(min=0)
        return Window(torch.minimum(origin, limit), (side, side), self.image_size)


def as_float(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn images, of floats in [0, 1] or of bytes, into floats in [0, 1]; `images` itself where it is that already."""
    # In two steps: dividing bytes takes twice as long on a CPU.
    return images.to(dtype).div_(255) if images.dtype == torch.uint8 else images.to(dtype)


def send(values: Tensor, device: torch.device) -> Tensor:
    """Copy what was decided on the CPU to the images' device, without waiting for what that is still working on.

    CUDA has taken over the values when the call returns, unless they lie in pinned memory, as those here do not.
    """
    return values.to(device, non_blocking=True)


def select(images: Tensor, rows: Tensor) -> Tensor:
    """Select images (B, C, H, W); `index_select` alone goes pixel by pixel where they are channels last."""
    if images.is_contiguous():
        return images.index_select(0, rows)
    return images.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)


def crop(images: Tensor, rows: Tensor, window: Window) -> Tensor:
    """Cut the windows of some pairs out of a batch.

    Args:
        images: (B, C, H, W).
        rows: (b,) int64: the pairs, in ascending order.
        window: Their windows.

    Returns:
        (b, C, h, w), which is `images` itself where that is what was asked for.

    Source: ours.
    """
    if window.is_whole:
        return images if len(rows) == len(images) else select(images, rows)
    return torch.stack([images[row, *where] for row, where in _slices(rows, window)])


def paste(images: Tensor, windows: Tensor, rows: Tensor, window: Window) -> None:
    """Write (b, C, h, w) windows back into a batch (B, C, H, W): the reverse of `crop`."""
    if window.is_whole and images.device.type != "cpu":
        images.index_copy_(0, rows, windows)
        return
    for (row, where), content in zip(_slices(rows, window), windows, strict=True):
        images[row, *where] = content


def _slices(rows: Tensor, window: Window) -> list[tuple[int, tuple[slice, slice, slice]]]:
    """Places of windows in a batch, on a CPU, where reading them is free."""
    height, width = window.size
    return [
        (row, (slice(None), slice(top, top + height), slice(left, left + width)))
        for row, (top, left) in zip(rows.tolist(), window.origin.long().tolist(), strict=True)
    ]
