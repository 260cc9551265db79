from pathlib import Path

import pytest
import torch

from dmdd.models.detector import Detector
from dmdd.models.segmentation import SegmentationNetwork
from dmdd.models.student import Student
from dmdd.models.teacher import Teacher


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """The model folder of a small detector with thresholds."""
    torch.manual_seed(0)
    teacher = Teacher(backbone="resnet10t")
    detector = Detector(
        teacher=teacher,
        student=Student(channels=teacher.channels, widths=(8, 12, 16)),
        segmentation=SegmentationNetwork(channels=teacher.channels, width=8),
        input_size=(64, 96),
    )
    detector.calibration = {"image_threshold": 0.018, "pixel_threshold": 0.02}
    folder = tmp_path_factory.mktemp("run") / "model"
    detector.save(folder)
    return folder
