"""A trained detector as a user calls it: images of any kind and size in, maps, scores and verdicts out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from dmdd.data.images import convert_image, read_image
from dmdd.errors import UserError
from dmdd.models.detector import Detector

Image = Any  # a path, a PIL image, a numpy array or a tensor


@dataclass(frozen=True)
class Detection:
    """What the detector says of one image.

    Args:
        map: ``(H, W)`` float32 in [0, 1] at the image's own size; large where a pixel looks anomalous.
        score: In [0, 1]; large for an anomalous image.
        label: Whether the score reaches the image threshold; None if the model has none.
        mask: ``(H, W)`` bool, where the map reaches the pixel threshold; None if the model has none.
    """

    map: np.ndarray
    score: float
    label: bool | None
    mask: np.ndarray | None


class Inspector:
    """Run a detector on images of any kind. Calls from several threads are safe: nothing is kept between them.

    Args:
        detector: A calibrated detector.
        device: ``cpu``, ``cuda``, ...; CUDA if there is one, if None.

    Source: ours.
    """

    def __init__(self, detector: Detector, *, device: str | torch.device | None = None) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.detector = detector.eval().requires_grad_(False).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, images: Image | Sequence[Image], *, batch_size: int = 8) -> Any:
        """Inspect one image or many.

        Args:
            images: A path, a PIL image, a numpy array ``(H, W, 3)``, ``(H, W)`` or ``(H, W, 1)`` of uint8, a tensor
                ``(3, H, W)`` of uint8 in [0, 255] or float in [0, 1], RGB; or a list of such, of any sizes.
            batch_size: How many go through the network at once.

        Returns:
            A :class:`Detection`, or a list of them for a list.

        Raises:
            UserError: An image cannot be read or is none of these.
        """
        if not isinstance(images, list | tuple):
            return next(self.inspect([images], batch_size=1))
        return list(self.inspect(images, batch_size=batch_size))

    def inspect(self, images: Sequence[Image], *, batch_size: int = 8) -> Iterator[Detection]:
        """Inspect images one batch after the other, so that a long list need not fit in memory.

        Args:
            images: As for calling.
            batch_size: How many go through the network at once.

        Yields:
            One detection an image, in order.
        """
        for start in range(0, len(images), batch_size):
            tensors = [as_tensor(image) for image in images[start : start + batch_size]]
            # Resized one by one, since their sizes may differ; the detector finds them at its input size already.
            resized = torch.cat([self.detector.resize(tensor[None].to(self.device)) for tensor in tensors])
            with torch.inference_mode():
                maps, scores = self.detector(resized)
            for tensor, heat, score in zip(tensors, maps, scores.tolist(), strict=True):
                yield self._detection(heat, score, (tensor.shape[-2], tensor.shape[-1]))

    def _detection(self, heat: Tensor, score: float, size: tuple[int, int]) -> Detection:
        full = F.interpolate(heat[None], size=size, mode="bilinear", align_corners=False)[0, 0].cpu().numpy()
        image_threshold = self.detector.calibration.get("image_threshold")
        pixel_threshold = self.detector.calibration.get("pixel_threshold")
        return Detection(
            map=full,
            score=score,
            label=None if image_threshold is None else score >= image_threshold,
            mask=None if pixel_threshold is None else full >= pixel_threshold,
        )


def as_tensor(image: Image) -> Tensor:
    """Turn an image of any accepted kind into ``(3, H, W)``.

    Args:
        image: As for :class:`Inspector`.

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
        if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3))):
            raise UserError(
                f"a numpy image must be uint8 (H, W, 3), (H, W, 1) or (H, W), got {image.dtype} {image.shape}"
            )
        grey = image if image.ndim == 3 else image[..., None]
        return torch.from_numpy(np.array(grey)).permute(2, 0, 1).expand(3, -1, -1)
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or not (image.dtype == torch.uint8 or image.is_floating_point()):
            raise UserError(f"a tensor must be uint8 or float (3, H, W), got {image.dtype} {tuple(image.shape)}")
        if image.is_floating_point() and not (image.amin() >= 0 and image.amax() <= 1):
            raise UserError("a float tensor must lie in [0, 1] and hold no NaN")
        return image
    raise UserError(f"an image must be a path, a PIL image, a numpy array or a tensor, got {type(image).__name__}")


def load(folder: str | Path, *, device: str | None = None) -> Inspector:
    """Load a trained detector.

    Args:
        folder: The ``model`` folder of a run.
        device: Where to run; CUDA if there is one, if None.

    Returns:
        The detector, ready to be called with images.

    Raises:
        UserError: The folder holds no model of this version.
    """
    return Inspector(Detector.load(folder), device=device)
