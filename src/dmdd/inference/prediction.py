"""What a detector says of one image, whatever runtime computed it. Nothing here needs torch."""

from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import PIL.Image

from dmdd.core.drawing import add_caption, colour_map, draw_overlay, encode
from dmdd.core.errors import UserError

NOTEBOOK_PX = 320
"""Longest side of a panel in a notebook: three of them fit beside each other."""


@dataclass(frozen=True)
class Prediction:
    """What the detector says of one image.

    Args:
        map: ``(H, W)`` float32 in [0, 1] at the image's own size; large where a pixel looks anomalous.
        score: In [0, 1]; large for an anomalous image. 0.5 is the calibrated threshold and 0.1 a typical good image,
            unless the model is older than this scale; its scores are raw then.
        label: Whether the score reaches the image threshold; None if there is none.
        mask: ``(H, W)`` bool, where the map reaches the pixel threshold, less what blur adds to each region and less
            regions smaller than the model's smallest area; None if there is none.
        raw_score: The score as the network's maps give it, in [0, 1]; it does not depend on the calibration.
        false_alarm_probability: How likely a good image is to score at least so high; None if the model cannot say.
        pixel_threshold: The one that the mask was made with; None if there is none.
        spot_area_px: Area that was taken off each region of the mask for the map's blur, in pixels of the image.
        image: What was looked at, as it was given and not copied: a path is read again when a picture is drawn. None
            where a map was finished without its image.

    A notebook shows a prediction as a picture: input, map and overlay.
    """

    map: np.ndarray
    score: float
    label: bool | None
    mask: np.ndarray | None
    raw_score: float | None = None
    false_alarm_probability: float | None = None
    pixel_threshold: float | None = None
    spot_area_px: float = 0.0
    image: Any = field(default=None, repr=False)

    def overlay(self) -> PIL.Image.Image:
        """Draw the image under its map's colours, the mask outlined in white.

        Returns:
            RGB, at the image's own size; the pixel threshold is the middle of the colour scale.

        Raises:
            UserError: The prediction has no image, or it cannot be read any more.
        """
        return PIL.Image.fromarray(draw_overlay(self._rgb(), self.map, self.mask, middle=self._middle))

    def save(self, path: str | PathLike[str]) -> None:
        """Write the overlay as a picture.

        Args:
            path: Of a file whose ending names the format, such as ``.png`` or ``.jpg``; its folder is made if needed.

        Raises:
            UserError: The prediction has no image, or the file cannot be written.
        """
        overlay = self.overlay()
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            overlay.save(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be written: {error}; use a name that ends in .png or .jpg") from None

    def _repr_png_(self) -> bytes | None:
        """Show input, map and overlay in a notebook, at most ``NOTEBOOK_PX`` high."""
        if self.image is None:
            return None
        scale = min(1.0, NOTEBOOK_PX / max(self.map.shape))
        size = (max(1, round(self.map.shape[1] * scale)), max(1, round(self.map.shape[0] * scale)))
        rgb, heat = (cv2.resize(part, size, interpolation=cv2.INTER_AREA) for part in (self._rgb(), self.map))
        mask = None if self.mask is None else cv2.resize(self.mask.astype(np.uint8), size).astype(bool)
        overlay = draw_overlay(rgb, heat, mask, middle=self._middle)
        panels = np.concatenate([rgb, colour_map(heat, middle=self._middle), overlay], axis=1)
        verdict = {None: "", True: "  anomalous", False: "  normal"}[self.label]
        return encode(add_caption(panels, f"score {self.score:.3f}{verdict}"))

    def _rgb(self) -> np.ndarray:
        if self.image is None:
            raise UserError("this prediction has no image to draw; use predictor(image).overlay()")
        from dmdd.inference.conversion import as_rgb  # needs torch, since an image may be a tensor

        return as_rgb(self.image)

    @property
    def _middle(self) -> float:
        return self.pixel_threshold or 0.5


class Judgement(NamedTuple):
    """What a raw score means: see :class:`Prediction`."""

    score: float
    label: bool | None
    false_alarm_probability: float | None
