"""Pictures of a run: input, mask, map and overlay side by side, for a sample that shows the worst too."""

import math
import shutil
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dmdd.core.drawing import (
    CONTOUR_FOUND,
    add_caption,
    blend,
    colour_map,
    contact_sheet,
    draw_contours,
    encode,
)
from dmdd.core.files import picture_name, write_atomically
from dmdd.core.masks import find_mask, scale_spot
from dmdd.core.resize import resize_images, resize_masks
from dmdd.data.datamodule import PairDataModule
from dmdd.data.datasets import FileDataset
from dmdd.data.listing import Sample
from dmdd.data.regions import Regions
from dmdd.models.detector import Detector
from dmdd.models.score_scale import ScoreScale
from dmdd.models.tiling import look
from dmdd.pairs.window import as_float
from dmdd.training.evaluation import ImageScore

SUSPICIOUS_PICTURES = "images/suspicious"
"""Folder of a run, of the training images to look at, in the order of the result."""

THUMBNAIL_PX = 160
PANEL_PX = 1024
OUTSIDE_DIM = 4
"""What lies outside the region of interest is shown with a fraction of its brightness, one in so many."""

CONTOUR_TRUE = (0, 255, 0)

MISTAKES_FILE, PAIRS_FILE = "mistakes.jpg", "pairs.jpg"
MISTAKES_SHOWN = 12
MISTAKE_WIDTH_PX = 1024
PAIRS_SHOWN, PAIR_COLUMNS, PAIR_WIDTH_PX = 12, 6, 200
PART_SHADE = 64
"""Grey of the part in the picture of a mask."""


@dataclass(frozen=True)
class Picture:
    """One test image as it was drawn.

    Args:
        file: The PNG in ``images/``.
        index: Of the image in the test set.
        caption: Type, file, score and verdict.
        verdict: ``right``, ``false alarm``, ``missed``; empty without a threshold.
        rgb: ``(h, w, 3)`` uint8.
        true: ``(h, w)`` bool, the ground truth.
        found: ``(h, w)`` bool, the mask that was found.
    """

    file: Path
    index: int
    caption: str
    verdict: str
    rgb: np.ndarray
    true: np.ndarray
    found: np.ndarray


def choose_samples(samples: tuple[Sample, ...], scores: list[ImageScore], count: int) -> list[int]:
    """Choose which images to show.

    The worst mistakes come first: half of the places go in turn to the normal images with the largest scores and the
    anomalous ones with the smallest. The other half goes round the defect types (good is one), each time the image
    in the middle of those of its type that are left, by score.

    Args:
        samples: The test set.
        scores: ``(index, label, score)`` of each.
        count: How many to choose at most; each type gets one even if that is more.

    Returns:
        Indices, without repetition.
    """
    normal = sorted((s for s in scores if s[1] == 0), key=lambda s: -s[2])
    anomalous = sorted((s for s in scores if s[1] == 1), key=lambda s: s[2])
    chosen: dict[int, None] = {}
    for place in range(count // 4):
        for ranked in (normal, anomalous):
            if place < len(ranked):
                chosen[ranked[place][0]] = None
    types: dict[str, list[int]] = defaultdict(list)
    for index, _, _ in sorted(scores, key=lambda s: s[2]):
        if index not in chosen:
            types[samples[index].defect].append(index)
    shown = {samples[index].defect for index in chosen}
    for left in [types[t] for t in sorted(types) if t not in shown]:
        chosen[left.pop(len(left) // 2)] = None
    while len(chosen) < count and any(types.values()):
        for name in sorted(types):
            if types[name] and len(chosen) < count:
                chosen[types[name].pop(len(types[name]) // 2)] = None
    return list(chosen)


def write_pictures(
    folder: Path,
    *,
    detector: Detector,
    samples: tuple[Sample, ...],
    scores: list[ImageScore],
    count: int,
    device: torch.device,
    regions: Regions | None = None,
) -> list[Picture]:
    """Write one PNG an image, with input, mask, map and overlay, and ``mistakes.jpg`` beside the folder.

    The map's colours are the same in all pictures: the pixel threshold is the middle of the scale. The overlay shows
    the true region's contour green and the found region's white.

    Args:
        folder: Where to; made if needed.
        detector: Calibrated or not; without a pixel threshold the scale's middle is 0.5.
        samples: The test set.
        scores: ``(index, label, score)`` of each.
        count: How many pictures at most, see :func:`choose_samples`.
        device: Where to compute the maps.
        regions: Which pixels of the images count; the others are shown dark.

    Returns:
        What was drawn, most anomalous-looking first.
    """
    (folder.parent / MISTAKES_FILE).unlink(missing_ok=True)
    if count == 0:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    by_index = {index: score for index, _, score in scores}
    chosen = sorted(choose_samples(samples, scores, count), key=lambda index: -by_index[index])
    dataset = FileDataset(samples, detector.input_size if detector.tiling is None else None, regions=regions)
    threshold = detector.calibration.get("pixel_threshold") or 0.5
    spot_area = detector.calibration.get("spot_area_px") or 0
    detector = detector.to(device).eval()
    scale, mistakes = ScoreScale.of(detector.calibration), list[tuple[float, str, np.ndarray]]()
    pictures, names = [], tuple(dict.fromkeys((detector.anomaly_map, detector.score_map)))
    for place, index in enumerate(chosen):
        sample, batch = samples[index], dataset.__getitems__([index])
        shown = (batch.images.shape[2], batch.images.shape[3])
        inside = None if batch.inside is None else resize_masks(batch.inside[0][None], shown)
        with torch.no_grad():
            seen = look(detector, batch.images.to(device), only=names, tiling=detector.tiling, inside=inside)
        images = batch.images if inside is None else torch.where(inside, batch.images, batch.images // OUTSIDE_DIM)
        heat = seen.maps[detector.anomaly_map].cpu() * (1 if inside is None else inside)
        image, mask, heat = fit_panel(images, batch.masks, heat)  # type: ignore[arg-type]
        score = by_index[index]
        shown_score = score if scale is None else scale.readable(score)
        decided = verdict(sample.label, score, detector.calibration.get("image_threshold"))
        caption = f"{sample.defect}/{sample.path.name}  score {shown_score:.3f}  {decided}"
        tile = shown if detector.tiling is None else detector.tiling.tile_px
        spot = scale_spot(spot_area, seen=tile, input_size=detector.input_size) * heat[0, 0].numel() / math.prod(shown)
        found = find_mask(heat[0, 0].numpy(), threshold, spot_area_px=spot)
        panels = draw_panels(image[0], mask[0, 0], heat[0, 0], found, threshold=threshold, caption=caption)
        file = folder / f"{place:02d}_{picture_name(sample.defect, sample.path.stem)}.png"
        write_atomically(file, encode(panels))
        rgb, true = image[0].permute(1, 2, 0).numpy(), mask[0, 0].numpy()
        pictures.append(Picture(file, index, caption, decided, rgb, true, found))
        if decided in ("false alarm", "missed"):
            mistakes.append((score, decided, panels))
    _write_mistakes(folder.parent / MISTAKES_FILE, mistakes)
    return pictures


def _write_mistakes(file: Path, mistakes: list[tuple[float, str, np.ndarray]]) -> None:
    """Draw the worst mistakes below each other: false alarms with the largest scores, misses with the smallest."""
    alarms = sorted((m for m in mistakes if m[1] == "false alarm"), key=lambda m: -m[0])
    missed = sorted((m for m in mistakes if m[1] == "missed"), key=lambda m: m[0])
    half = MISTAKES_SHOWN // 2
    left = max(0, half - len(alarms)), max(0, half - len(missed))  # places that the other kind may take
    shown = [panels for _, _, panels in (*alarms[: half + left[1]], *missed[: half + left[0]])]
    if shown:
        sheet = contact_sheet([_to_width(panels, MISTAKE_WIDTH_PX) for panels in shown], columns=1)
        write_atomically(file, encode(sheet, ".jpg"))


def _to_width(picture: np.ndarray, width: int) -> np.ndarray:
    scale = width / picture.shape[1]
    return cv2.resize(picture, (width, max(1, round(picture.shape[0] * scale))), interpolation=cv2.INTER_AREA)


def write_thumbnail(folder: Path, place: int, image: Tensor) -> None:
    """Write a small PNG of a training image.

    Args:
        folder: Where to; made if needed, and emptied before the first.
        place: In the order of the result, from 0; it is the file's name.
        image: ``(3, h, w)`` uint8 RGB.
    """
    if place == 0:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    height, width = image.shape[1:]
    scale = min(1.0, THUMBNAIL_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image.permute(1, 2, 0).numpy(), size, interpolation=cv2.INTER_AREA)
    picture = cv2.imencode(".png", cv2.cvtColor(small, cv2.COLOR_RGB2BGR))[1]
    write_atomically(folder / f"{place:02d}.png", picture.tobytes())


def fit_panel(image: Tensor, mask: Tensor, heat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Make an image that was seen in tiles small enough to be shown; what is smaller stays as it is.

    Args:
        image: ``(1, 3, H, W)`` uint8 RGB.
        mask: ``(1, 1, H, W)`` bool.
        heat: ``(1, 1, H, W)`` float in [0, 1].

    Returns:
        The same, no side longer than ``PANEL_PX``; a region or a peak of one pixel is still seen.
    """
    height, width = image.shape[-2:]
    scale = PANEL_PX / max(height, width)
    if scale >= 1:
        return image, mask, heat
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    kept = F.adaptive_max_pool2d(torch.cat([mask.float(), heat]), size)
    return resize_images(image, size), kept[:1].bool(), kept[1:]


def verdict(label: int, score: float, threshold: float | None) -> str:
    """Say in words whether the decision on an image is right.

    Args:
        label: 0 normal, 1 anomalous.
        score: Of the image, on the threshold's scale.
        threshold: ``score >= threshold`` is anomalous; None where there is none.

    Returns:
        ``right``, ``false alarm`` or ``missed``; empty without a threshold.
    """
    if threshold is None:
        return ""
    found = score >= threshold
    if found == bool(label):
        return "right"
    return "false alarm" if found else "missed"


def draw_panels(
    image: Tensor, mask: Tensor, heat: Tensor, found: np.ndarray, *, threshold: float, caption: str
) -> np.ndarray:
    """Draw input, mask, map and overlay side by side under a caption.

    Args:
        image: ``(3, h, w)`` uint8 RGB.
        mask: ``(h, w)`` bool.
        heat: ``(h, w)`` float in [0, 1].
        found: ``(h, w)`` bool, outlined white.
        threshold: Value at the middle of the colour scale, in (0, 1].
        caption: One line.

    Returns:
        ``(h + CAPTION_PX, 4 w, 3)`` uint8 RGB.
    """
    rgb = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    true = mask.numpy().astype(np.uint8)
    colours = colour_map(heat.numpy(), middle=threshold)
    overlay = blend(rgb, colours)
    for region, colour in ((found, CONTOUR_FOUND), (true, CONTOUR_TRUE)):
        draw_contours(overlay, region, colour)
    panels = np.concatenate([rgb, np.repeat(true[..., None] * 255, 3, axis=2), colours, overlay], axis=1)
    return add_caption(panels, caption)


def draw_pairs(data: PairDataModule, steps: Iterable[int]) -> list[np.ndarray]:
    """Draw the pairs of training steps.

    Args:
        data: Set up for training.
        steps: From 0, over both stages.

    Returns:
        ``(3 h, w, 3)`` uint8 RGB a pair: normal image, anomalous twin, mask (white) on the part (grey), top down.
    """
    drawn = []
    for step in steps:
        batch = data.jittered(data.training_batch(data.places(step)))
        pairs = data.make_pairs(batch)
        shade = PART_SHADE / 255 * batch.foreground if data.synthesis.foreground else torch.zeros_like(pairs.mask)
        masks = torch.maximum(pairs.mask, shade)
        for shown in zip(as_float(pairs.normal), pairs.anomalous, masks.expand(-1, 3, -1, -1), strict=True):
            drawn.append((torch.cat(shown, dim=1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
    return drawn


def write_pairs(file: Path, data: PairDataModule) -> None:
    """Write a contact sheet of the first pairs of a training.

    Args:
        file: JPEG to write.
        data: Set up for training.
    """
    pairs = draw_pairs(data, range(-(-PAIRS_SHOWN // data.batch_size)))[:PAIRS_SHOWN]
    sheet = contact_sheet([_to_width(pair, PAIR_WIDTH_PX) for pair in pairs], columns=PAIR_COLUMNS)
    write_atomically(file, encode(sheet, ".jpg"))
