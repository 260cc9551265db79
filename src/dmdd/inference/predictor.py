"""A trained detector as a user calls it: images of any kind and size in, maps, scores and verdicts out."""

import contextlib
import copy
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dmdd.core.errors import UserError, check_positive
from dmdd.core.hardware import whole_float32
from dmdd.core.masks import find_mask, scale_spot
from dmdd.data.alignment import Alignment
from dmdd.data.listing import list_images
from dmdd.data.regions import Regions, choose_regions
from dmdd.inference.choices import choose_device, choose_precision, choose_threshold
from dmdd.inference.conversion import Image, as_tensor
from dmdd.inference.prediction import Judgement, Prediction
from dmdd.models.detector import Detector, DetectorOutput
from dmdd.models.score_scale import ScoreScale
from dmdd.models.tiling import choose_tiling, detect_tiled, look


class Predictor:
    """Run a detector on images of any kind. Calls from several threads are safe: nothing is kept between them.

    ``image_threshold`` and ``pixel_threshold`` can be read and set at any time; the detector keeps its own.

    Args:
        detector: A calibrated detector; it is moved to the device.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; CUDA if there is one, if None.
        precision: ``float32``, ``bfloat16`` or ``float16``; what is not float32 is autocast.
        image_threshold: A score from here on means anomalous, in [0, 1]; if None the calibrated one: 0.5, unless the
            model is older than this scale.
        pixel_threshold: A pixel from here on belongs to the mask, in [0, 1]; the detector's calibrated one if None.
        tile: Look at each image in overlapping tiles at its own resolution instead of resized as a whole; as the
            detector was trained if None.
        tile_px: Side of a tile, or its height and width, in pixels of the image; that of the training if None, or the
            detector's input size where it was trained on whole images.
        overlap: Share of a tile that the next one covers too; that of the training if None, or 0.25.
        regions: Which pixels of the images count; those of the training if None.
        align: An image file that each image is aligned to before anything else; maps and masks are then of the
            aligned image. None to take images as they are.

    Raises:
        UserError: The device is not there or does not know the precision, a threshold is out of range, or the
            overlap is no number.

    Source: ours.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        device: str | torch.device | None = None,
        precision: str = "float32",
        image_threshold: float | None = None,
        pixel_threshold: float | None = None,
        tile: bool | None = None,
        tile_px: int | Sequence[int] | None = None,
        overlap: float | None = None,
        regions: Regions | None = None,
        align: str | Path | None = None,
    ) -> None:
        if isinstance(detector, str | PathLike):
            raise UserError(f"Predictor takes a Detector; dmdd.load({str(detector)!r}) reads one from a model folder")
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device)
        self.detector = detector.eval().requires_grad_(False).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._decide_at(image_threshold, pixel_threshold)
        self.tile = detector.tiling is not None if tile is None else tile
        self.regions = choose_regions(detector.region, roi=None, ignore=None) if regions is None else regions
        self.tiling = choose_tiling(detector, tile_px=tile_px, overlap=overlap)
        self.alignment = None if align is None else Alignment(align)

    def recalibrate(self, calibration: dict[str, Any]) -> None:
        """Put another calibration in force: thresholds, scale of scores, smallest area.

        Args:
            calibration: As in ``detector.json``.
        """
        self.detector.former_calibrations = [*self.detector.former_calibrations, self.detector.calibration]
        self.detector.calibration = calibration
        self._decide_at(None, None)

    def of_category(self, name: str) -> "Predictor":
        """Decide by the thresholds of one of the categories that the model is for.

        Args:
            name: Of the category.

        Returns:
            Another predictor with the same networks; this one stays as it is.

        Raises:
            UserError: The model knows no thresholds of that category.
        """
        other = copy.copy(self)
        other.detector = copy.copy(self.detector)  # the weights are shared
        other.detector.choose_category(name)
        other._decide_at(None, None)
        return other

    def _decide_at(self, image_threshold: float | None, pixel_threshold: float | None) -> None:
        self.image_threshold = choose_threshold("image_threshold", image_threshold, self.detector)
        self.scale = ScoreScale.of(self.detector.calibration)
        if self.scale is not None and image_threshold is None:
            self.image_threshold = 0.5
        self.pixel_threshold = choose_threshold("pixel_threshold", pixel_threshold, self.detector)
        self.smallest_area_px: int = self.detector.calibration.get("smallest_area_px") or 0
        self.spot_area_px: float = self.detector.calibration.get("spot_area_px") or 0

    def __call__(self, images: Image | Iterable[Image], *, batch_size: int = 16) -> Any:
        """Inspect one image or many.

        Args:
            images: A path, a PIL image, a numpy array ``(H, W, 3)``, ``(H, W, 4)``, ``(H, W, 1)`` or ``(H, W)`` of
                uint8 or uint16, a tensor ``(3, H, W)`` of uint8 in [0, 255] or float in [0, 1], RGB; or many: a
                list, any iterable, an array or tensor with one dimension more, or a folder, whose images are taken in
                the order of their names without its subfolders.
            batch_size: How many go through the network at once.

        Returns:
            A :class:`Prediction`, or a list of them for many.

        Raises:
            UserError: An image cannot be read or is none of these.
        """
        if isinstance(images, str | PathLike) and Path(images).is_dir():
            images = list_images(Path(images))
        many = isinstance(images, Iterable) and not isinstance(images, str | PathLike | np.ndarray | Tensor)
        if many or (isinstance(images, np.ndarray | Tensor) and images.ndim == 4):
            return list(self.inspect(images, batch_size=batch_size))
        return next(self.inspect([images]))

    def inspect(self, images: Iterable[Image], *, batch_size: int = 16) -> Iterator[Prediction]:
        """Inspect images one batch after the other, so that neither they nor their maps need fit in memory.

        Args:
            images: As for calling, any iterable of them.
            batch_size: How many go through the network at once.

        Yields:
            One detection an image, in order.

        Raises:
            UserError: An image cannot be read or is of no accepted kind; ``batch_size`` is not positive.
        """
        check_positive("batch_size", batch_size)
        if self.tile:
            batch_size = 1  # an image is many tiles already
        source = iter(images)
        while batch := list(itertools.islice(source, batch_size)):
            prepared, sizes, inside, shown = [], [], [], []
            for image in batch:  # one by one, so that only one of them is held at its own size
                tensor = self.read(image)
                prepared.append(self.prepare(tensor))
                sizes.append((tensor.shape[-2], tensor.shape[-1]))
                inside.append(self.inside(image if isinstance(image, str | PathLike) else None, sizes[-1]))
                shown.append(image if self.alignment is None else tensor)
            found = zip(shown, *self.predict(prepared, inside), sizes, inside, strict=True)
            for image, heat, score, size, region in found:
                yield replace(self.finish(heat, score, size, region), image=image)

    def read(self, image: Image) -> Tensor:
        """Read an image, and align it if there is something to align it to.

        Args:
            image: As for calling, one.

        Returns:
            ``(3, H, W)`` uint8 in [0, 255] or float in [0, 1]; at the reference's size if it is aligned.

        Raises:
            UserError: It cannot be read, is of no accepted kind, or cannot be aligned.
        """
        tensor = as_tensor(image)
        if self.alignment is None:
            return tensor
        return self.alignment(tensor, name=str(image) if isinstance(image, str | PathLike) else "the image")

    def prepare(self, image: Tensor) -> Tensor:
        """Bring one image to what :meth:`predict` takes, on the device where it lies.

        On the CPU the result is that of training and evaluation to the bit, whatever device computes the map.

        Args:
            image: ``(3, H, W)``, as :func:`as_tensor` gives it.

        Returns:
            ``(3, h, w)`` uint8 at the detector's input size, or at its own if tiles are cut from it.
        """
        if not self.tile:
            return self.detector.resize(image[None])[0]
        return image if image.dtype == torch.uint8 else (image.float() * 255).round().to(torch.uint8)

    def inside(self, path: str | PathLike[str] | None, size: tuple[int, int]) -> Tensor | None:
        """Give the region of interest of an image.

        Args:
            path: Its file; None if it has none.
            size: Height and width of the image in pixels.

        Returns:
            ``(H, W)`` bool; None where all pixels count.

        Raises:
            UserError: The region is of another size, empty, or missing.
        """
        if not self.regions:
            return None
        return torch.from_numpy(self.regions.of(None if path is None else Path(path), size))

    def predict(
        self, prepared: Sequence[Tensor], inside: Sequence[Tensor | None] | None = None
    ) -> tuple[list[Tensor], list[float]]:
        """Send prepared images through the network at once, or tile by tile one after the other.

        Args:
            prepared: What :meth:`prepare` gave, at least one.
            inside: What :meth:`inside` gave for each; None where all pixels count.

        Returns:
            Maps ``(h, w)`` float32 in [0, 1] on the CPU at the size of ``prepared``, and raw scores in [0, 1].

        Raises:
            UserError: A map or a score is no number.
        """
        with torch.inference_mode(), self._autocast(), whole_float32():
            if inside is not None and any(region is not None for region in inside):
                found = self._predict_inside(prepared, inside)
            elif self.tile:
                tile_px, overlap = self.tiling
                found = [
                    detect_tiled(self.detector, image[None].to(self.device), tile_px=tile_px, overlap=overlap)
                    for image in prepared
                ]
            else:
                found = [self.detector(torch.stack(list(prepared)).to(self.device))]
        maps = [heat[0].float() for prediction in found for heat in prediction.map.cpu()]
        scores = [score for prediction in found for score in prediction.score.float().tolist()]
        if not all(map(math.isfinite, scores)) or not all(bool(torch.isfinite(heat).all()) for heat in maps):
            raise UserError(f"the model gives no numbers for an image in {self.precision or 'float32'}: it is damaged")
        return maps, scores

    def _predict_inside(self, prepared: Sequence[Tensor], inside: Sequence[Tensor | None]) -> list[DetectorOutput]:
        detector, tiling = self.detector, self.tiling if self.tile else None
        names, found = tuple(dict.fromkeys((detector.anomaly_map, detector.score_map))), []
        for image, region in zip(prepared, inside, strict=True):
            window = None if region is None else region[None, None]
            seen = look(detector, image[None].to(self.device), only=names, tiling=tiling, inside=window)
            found.append(DetectorOutput(seen.maps[detector.anomaly_map], seen.scores[detector.score_map]))
        return found

    def finish(self, heat: Tensor, raw_score: float, size: tuple[int, int], inside: Tensor | None = None) -> Prediction:
        """Bring a map to the image's size and hold it and its score against the thresholds.

        Args:
            heat: ``(h, w)`` float32.
            raw_score: Of the image.
            size: Height and width of the image in pixels.
            inside: ``(H, W)`` bool, the region of interest, outside of which the map is 0 and the mask False; None
                where all pixels count.

        Returns:
            The detection.
        """
        with torch.inference_mode():
            heat = F.interpolate(heat[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
            full: np.ndarray = (heat if inside is None else heat * inside).numpy()
        seen, mask = self.tiling[0] if self.tile else size, None
        spot = scale_spot(self.spot_area_px, seen=seen, input_size=self.detector.input_size)
        if self.pixel_threshold is not None:
            mask = find_mask(
                full,
                self.pixel_threshold,
                spot_area_px=spot,
                smallest_area_px=self.smallest_area_px,
                inside=None if inside is None else inside.numpy(),
            )
        score, label, probability = self.judge(raw_score)
        return Prediction(
            full,
            score,
            label,
            mask,
            raw_score=raw_score,
            false_alarm_probability=probability,
            pixel_threshold=self.pixel_threshold,
            spot_area_px=spot,
        )

    def judge(self, raw_score: float) -> Judgement:
        """Say what a raw score means.

        Args:
            raw_score: In [0, 1].

        Returns:
            The score that users see, whether it means anomalous, and how likely a good image is to reach it.
        """
        score = raw_score if self.scale is None else self.scale.readable(raw_score)
        label = None if self.image_threshold is None else bool(score >= self.image_threshold)
        return Judgement(score, label, None if self.scale is None else self.scale.false_alarm_probability(raw_score))

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.precision)


def load(
    folder: str | Path,
    *,
    device: str | torch.device | None = None,
    precision: str = "float32",
    category: str | None = None,
    image_threshold: float | None = None,
    pixel_threshold: float | None = None,
    tile: bool | None = None,
    tile_px: int | Sequence[int] | None = None,
    overlap: float | None = None,
    roi: Any = None,
    ignore: Any = None,
    base: str | Path | None = None,
    align: str | Path | None = None,
) -> Predictor:
    """Load a trained detector.

    Args:
        folder: The ``model`` folder of a run.
        device: As for :class:`Predictor`, like all that follow.
        precision: ``float32``, ``bfloat16`` or ``float16``.
        category: Of a model for several the one whose thresholds decide; None for those of all of them.
        image_threshold: In place of the model's.
        pixel_threshold: In place of the model's.
        tile: Look at each image in tiles; as the model was trained if None.
        tile_px: Side of a tile.
        overlap: Share of a tile that the next one covers too.
        roi: The region of interest, see :class:`dmdd.data.regions.Regions`; the model's own if None.
        ignore: What does not count within it.
        base: The folder that the names of images with regions of their own count from.
        align: An image file that each image is aligned to.

    Returns:
        The detector, ready to be called with images.

    Raises:
        UserError: The folder holds no model of this version, or a setting is wrong.
    """
    detector = Detector.load(folder)
    if category is not None:
        detector.choose_category(category)
    regions = choose_regions(detector.region, roi=roi, ignore=ignore, base=None if base is None else Path(base))
    return Predictor(
        detector,
        device=device,
        precision=precision,
        image_threshold=image_threshold,
        pixel_threshold=pixel_threshold,
        tile=tile,
        tile_px=tile_px,
        overlap=overlap,
        regions=regions,
        align=align,
    )
