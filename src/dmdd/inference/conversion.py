"""Images of every kind a caller may hold become one kind of tensor."""

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from dmdd.core.errors import UserError
from dmdd.data.images import convert_image, read_image

Image = Any  # a path, a PIL image, a numpy array or a tensor


def as_tensor(image: Image) -> Tensor:
    """Turn an image of any accepted kind into ``(3, H, W)``, by the rules of ``data/images.py``.

    Args:
        image: As for :class:`Predictor`.

    Returns:
        RGB, uint8 in [0, 255] or float in [0, 1].

    Raises:
        UserError: It is of no accepted kind, shape, type or range.
    """
    if isinstance(image, str | PathLike):
        image = read_image(Path(image))
    elif isinstance(image, PIL.Image.Image):
        image = convert_image(image)
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or not (image.dtype == torch.uint8 or image.is_floating_point()):
            raise UserError(f"a tensor must be uint8 or float (3, H, W), got {image.dtype} {tuple(image.shape)}")
        _check_not_empty(image)
        if image.is_floating_point() and not (image.amin() >= 0 and image.amax() <= 1):
            raise UserError("a float tensor must lie in [0, 1] and hold no NaN")
        return image
    raise UserError(f"an image must be a path, a PIL image, a numpy array or a tensor, got {type(image).__name__}")


def as_rgb(image: Image) -> np.ndarray:
    """Turn an image of any accepted kind into ``(H, W, 3)`` uint8 RGB, to be drawn on.

    Args:
        image: As for :func:`as_tensor`.

    Returns:
        An array of its own.

    Raises:
        UserError: As for :func:`as_tensor`.
    """
    tensor = as_tensor(image)
    if tensor.is_floating_point():
        tensor = (tensor.float() * 255).round().to(torch.uint8)
    return tensor.permute(1, 2, 0).cpu().contiguous().numpy().copy()


def _from_array(image: np.ndarray) -> Tensor:
    pixels = image[..., None] if image.ndim == 2 else image
    if image.dtype not in (np.uint8, np.uint16) or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        raise UserError(
            "a numpy image must be uint8 or uint16 (H, W, 3), (H, W, 4), (H, W, 1) or (H, W), "
            f"got {image.dtype} {image.shape}"
        )
    _check_not_empty(image)
    if pixels.dtype == np.uint16:
        # As for 16-bit files: by the full range, never by the image's own extremes.
        pixels = ((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    # A copy, since arrays of images are often read-only, which tensors cannot be.
    return torch.from_numpy(np.array(pixels[..., :3])).permute(2, 0, 1).expand(3, -1, -1)


def _check_not_empty(image: np.ndarray | Tensor) -> None:
    if 0 in image.shape:
        raise UserError(f"an image must have pixels, got {tuple(image.shape)}")
