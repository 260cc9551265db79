"""The defects of MVTec LOCO images: one channel each, with the area that suffices to find it."""

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from dmdd.core.errors import UserError
from dmdd.data.images import read_image, read_mask_values
from dmdd.data.listing import Sample, list_images
from dmdd.metrics import Channel

CONFIG_NAME = "defects_config.json"


class ImageDefects(NamedTuple):
    """What is wrong with one image.

    Args:
        size: Height and width of the image in pixels.
        channels: Its defects; none for a normal image.
    """

    size: tuple[int, int]
    channels: list[Channel]


class Saturation(NamedTuple):
    """How much of a defect must be found.

    Args:
        threshold: Share of its area if ``relative``, else pixels.
        relative: Which of the two.
    """

    threshold: float
    relative: bool

    def area(self, pixels: int) -> int:
        """Give the number of a defect's pixels that suffice, at least 1.

        Args:
            pixels: Area of the defect.

        Returns:
            In [1, ``pixels``].

        Source: `GroundTruthChannel.get_saturation_area` of the authors' evaluation, which rounds down and would divide
        by 0 where nothing is left.
        """
        return max(1, min(int(self.threshold * pixels) if self.relative else int(self.threshold), pixels))


def defect_reader(samples: Sequence[Sample]) -> Callable[[int], ImageDefects] | None:
    """Find the reader of the defects of a test set in the layout of MVTec LOCO.

    Args:
        samples: The test set.

    Returns:
        A function that reads the defects of a test image by its index; None where the masks are no folders of channels,
        or no ``defects_config.json`` lies in the folder of the category.

    Raises:
        UserError: A file cannot be used. All are read once now, before a training, not after it.

    Source: ours.
    """
    anomalous = [sample for sample in samples if sample.label]
    if not anomalous or not all(_config_file(sample) for sample in anomalous):
        return None
    for sample in anomalous:
        _read_defects(sample)
    return lambda index: _read_defects(samples[index])


def _config_file(sample: Sample) -> Path | None:
    """Name the settings beside ``ground_truth/<type>/<image>``."""
    if sample.mask_path is None or not sample.mask_path.is_dir():
        return None
    file = sample.mask_path.parent.parent.parent / CONFIG_NAME
    return file if file.is_file() else None


def _read_defects(sample: Sample) -> ImageDefects:
    file = _config_file(sample)
    if file is None or sample.mask_path is None:
        height, width = read_image(sample.path).shape[:2]
        return ImageDefects((height, width), [])
    channels = [read_channel(path, read_saturations(file)) for path in list_images(sample.mask_path)]
    if not channels:
        raise UserError(f"no mask files in {sample.mask_path}: expected one image file per defect")
    return ImageDefects(channels[0].mask.shape[:2], channels)


@cache
def read_saturations(file: Path) -> dict[int, Saturation]:
    """Read which number in a mask stands for which saturation.

    Args:
        file: ``defects_config.json`` of a category.

    Returns:
        By number.

    Raises:
        UserError: It cannot be read or is laid out differently.

    Source: the file of MVTec LOCO AD: a list of objects with ``pixel_value``, ``saturation_threshold`` and
    ``relative_saturation``.
    """
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        found = {
            int(entry["pixel_value"]): Saturation(
                float(entry["saturation_threshold"]), bool(entry["relative_saturation"])
            )
            for entry in entries
        }
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"cannot read {file}: {type(error).__name__} {error}") from None
    for value, saturation in found.items():
        if not saturation.threshold > 0:
            raise UserError(f"{file}: the saturation of {value} is {saturation.threshold}, it must be above 0")
    return found


def read_channel(path: Path, saturations: dict[int, Saturation]) -> Channel:
    """Read one defect.

    Args:
        path: The mask file; its only number above 0 says of which kind the defect is.
        saturations: By number.

    Returns:
        The defect.

    Raises:
        UserError: The mask is empty, holds several numbers, or one that is unknown.

    Source: `GroundTruthChannel.create_from_integer_array` of the authors' evaluation.
    """
    values = read_mask_values(path)
    mask = values > 0
    if not mask.any():
        raise UserError(f"the mask {path} is empty: a defect needs a pixel")
    kind = int(values.max())
    if int(values[mask].min()) != kind:
        raise UserError(f"the mask {path} holds several numbers, expected one defect per file")
    if kind not in saturations:
        raise UserError(f"the mask {path} holds {kind}, but {CONFIG_NAME} knows {sorted(saturations)}")
    return Channel(mask, saturations[kind].area(int(mask.sum())))
