"""Pictures of a run: input, mask, map and overlay side by side, for a sample that shows the worst too."""

import io
import json
import shutil
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from dmdd.core.drawing import blend, colour_map, draw_contours
from dmdd.core.files import picture_name, write_atomically
from dmdd.core.resize import resize_images, resize_masks
from dmdd.data.datasets import FileDataset
from dmdd.data.listing import Sample
from dmdd.data.regions import Regions
from dmdd.metrics import Curve
from dmdd.models.detector import Detector
from dmdd.models.tiling import look
from dmdd.training.evaluation import ImageScore

SUSPICIOUS_PICTURES = "images/suspicious"
"""Folder of a run, of the training images to look at, in the order of the result."""

THUMBNAIL_PX = 160
CAPTION_PX = 22
PANEL_PX = 1024
OUTSIDE_DIM = 4
"""What lies outside the region of interest is shown with a fraction of its brightness, one in so many."""

CONTOUR_TRUE = (0, 255, 0)
CONTOUR_FOUND = (255, 255, 255)


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
) -> list[Path]:
    """Write one PNG an image: input, mask, map and overlay.

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
        The files written, most anomalous-looking first.
    """
    if count == 0:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    by_index = {index: score for index, _, score in scores}
    chosen = sorted(choose_samples(samples, scores, count), key=lambda index: -by_index[index])
    dataset = FileDataset(samples, detector.input_size if detector.tiling is None else None, regions=regions)
    threshold = detector.calibration.get("pixel_threshold") or 0.5
    detector = detector.to(device).eval()
    files, names = [], tuple(dict.fromkeys((detector.anomaly_map, detector.score_map)))
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
        caption = f"{sample.defect}/{sample.path.name}  score {score:.3f}  {_verdict(sample, score, detector)}"
        picture = draw_panels(image[0], mask[0, 0], heat[0, 0], threshold=threshold, caption=caption)
        file = folder / f"{place:02d}_{picture_name(sample.defect, sample.path.stem)}.png"
        # cv2.imwrite cannot write to every path on every system; encoding first can.
        write_atomically(file, cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes())
        files.append(file)
    return files


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


def _verdict(sample: Sample, score: float, detector: Detector) -> str:
    threshold = detector.calibration.get("image_threshold")
    if threshold is None:
        return ""
    found = score >= threshold
    if found == bool(sample.label):
        return "right"
    return "false alarm" if found else "missed"


def draw_panels(image: Tensor, mask: Tensor, heat: Tensor, *, threshold: float, caption: str) -> np.ndarray:
    """Draw input, mask, map and overlay side by side under a caption.

    Args:
        image: ``(3, h, w)`` uint8 RGB.
        mask: ``(h, w)`` bool.
        heat: ``(h, w)`` float in [0, 1].
        threshold: Value at the middle of the colour scale and of the found contour, in (0, 1].
        caption: One line.

    Returns:
        ``(h + CAPTION_PX, 4 w, 3)`` uint8 RGB.
    """
    rgb = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    true = mask.numpy().astype(np.uint8)
    colours = colour_map(heat.numpy(), middle=threshold)
    overlay = blend(rgb, colours)
    for region, colour in ((heat.numpy() >= threshold, CONTOUR_FOUND), (true, CONTOUR_TRUE)):
        draw_contours(overlay, region, colour)
    panels = np.concatenate([rgb, np.repeat(true[..., None] * 255, 3, axis=2), colours, overlay], axis=1)
    strip = np.full((CAPTION_PX, panels.shape[1], 3), 32, np.uint8)
    # The built-in font knows ASCII only.
    text = caption.encode("ascii", "replace").decode()
    cv2.putText(strip, text, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate([strip, panels])


CURVE_AXES = {
    "image_roc": ("image ROC", "false-positive rate", "true-positive rate", 1.0),
    "image_pr": ("image precision-recall", "recall", "precision", 1.0),
    "pixel_roc": ("pixel ROC", "false-positive rate", "true-positive rate", 1.0),
    "pixel_pr": ("pixel precision-recall", "recall", "precision", 1.0),
    "pro": ("per-region overlap, to FPR 0.3", "false-positive rate", "mean overlap", 0.3),
}


def write_curves(folder: Path, curves: dict[str, Curve]) -> None:
    """Write the test curves as data and as a figure: ``curves.json`` and ``curves.png``.

    Args:
        folder: Where to.
        curves: By name, see ``CURVE_AXES``.
    """
    if not curves:
        return
    points = {name: {"x": curve.x.round(6).tolist(), "y": curve.y.round(6).tolist()} for name, curve in curves.items()}
    write_atomically(folder / "curves.json", json.dumps(points) + "\n")
    figure = Figure(figsize=(3.4 * len(curves), 3.6), layout="constrained")
    for axes, (name, curve) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        title, x_label, y_label, x_limit = CURVE_AXES[name]
        axes.plot(curve.x, curve.y, linewidth=1.5)
        axes.set(title=title, xlabel=x_label, ylabel=y_label, xlim=(0, x_limit), ylim=(0, 1.01))
        axes.grid(alpha=0.3)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=110)
    write_atomically(folder / "curves.png", picture.getvalue())
