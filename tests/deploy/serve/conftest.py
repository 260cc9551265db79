from pathlib import Path

import pytest
import torch

import dmdd
from dmdd.inference.predictor import Predictor
from dmdd.models.detector import Detector
from dmdd.models.segmentation import SegmentationNetwork
from dmdd.models.student import Student
from dmdd.models.teacher import Teacher


@pytest.fixture(scope="session")
def served_folder(tmp_path_factory) -> Path:
    """The model folder of a tiny detector with random weights."""
    torch.manual_seed(0)
    teacher = Teacher(backbone="resnet10t")
    detector = Detector(
        teacher=teacher,
        student=Student(channels=teacher.channels, widths=(8, 12, 16)),
        segmentation=SegmentationNetwork(channels=teacher.channels, width=8),
        input_size=(64, 96),
        anomaly_map="segmentation",
        score_map="normality",  # of all maps with random weights the one that tells images apart
    )
    detector.calibration = {
        "image_threshold": 0.53125,
        "image_false_alarm_rate": 0.125,
        "pixel_threshold": 0.01815,
        "normal_images": 7,
        "source": "held-out <normal> images",
    }
    folder = tmp_path_factory.mktemp("served") / "bracket" / "model"
    detector.save(folder)
    return folder


@pytest.fixture(scope="session")
def served_inspector(served_folder) -> Predictor:
    return dmdd.load(served_folder)
