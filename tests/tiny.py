"""A detector with random weights, small enough to be run many times."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dmdd.models.detector import Detector
from dmdd.models.segmentation import SegmentationNetwork
from dmdd.models.student import Student
from dmdd.models.teacher import Teacher

THRESHOLDS = {"image_threshold": 0.5, "pixel_threshold": 0.5}


def save_tiny_model(
    folder: Path,
    *,
    seed: int = 0,
    calibration: dict[str, Any] | None = None,
    categories: dict[str, dict[str, Any]] | None = None,
    image_kinds: int = 1,
) -> Path:
    torch.manual_seed(seed)
    teacher = Teacher(backbone="resnet10t")
    detector = Detector(
        teacher=teacher,
        student=Student(channels=teacher.channels, widths=(8, 12, 16)),
        segmentation=SegmentationNetwork(channels=teacher.channels, width=8),
        input_size=(64, 96),
        image_kinds=image_kinds,
    )
    detector.calibration = THRESHOLDS if calibration is None else calibration
    detector.category_calibrations = categories or {}
    detector.save(folder)
    return folder


def draw_pixels(seed: int, height: int = 60, width: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save_image(file: Path, seed: int = 0, height: int = 60, width: int = 40) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_pixels(seed, height, width)).save(file)
    return file
