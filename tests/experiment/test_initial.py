"""Training that starts from a trained model: what it takes over, and which models it refuses."""

import pytest
import torch

from dmdd.core.errors import UserError
from dmdd.core.files import file_sha256
from dmdd.experiment.initial import doubts_of_init, start_from, trained_before, write_trained
from dmdd.models.detector import Detector
from dmdd.models.segmentation import SegmentationNetwork
from dmdd.models.student import Student
from dmdd.models.teacher import Teacher
from tiny import save_tiny_model


def untrained(
    *, teacher_seed: int = 0, backbone: str = "resnet10t", widths=(8, 12, 16), size=(64, 96), inputs="products"
):
    torch.manual_seed(teacher_seed)
    teacher = Teacher(backbone=backbone)
    torch.manual_seed(9)
    return Detector(
        teacher=teacher,
        student=Student(channels=teacher.channels, widths=widths),
        segmentation=SegmentationNetwork(channels=teacher.channels, width=8, inputs=inputs),
        input_size=size,
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("trained") / "model")


def test_student_and_segmentation_network_are_those_of_the_model(model):
    detector, earlier = untrained(), Detector.load(model)
    assert start_from(detector, str(model)) == {
        "model": str(model),
        "sha256": file_sha256(model / "weights.safetensors"),
    }
    for part in ("student", "segmentation"):
        own, wanted = getattr(detector, part).state_dict(), getattr(earlier, part).state_dict()
        assert own.keys() == wanted.keys()
        assert all(torch.equal(own[name], wanted[name]) for name in own)
    assert detector.calibration == {}  # thresholds are found anew


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"size": (64, 64)},
            r"does not fit: image_size=\[64, 96\] there, \[64, 64\] here; set them alike, or leave init=",
        ),
        ({"widths": (8, 12, 20)}, r"does not fit: student.widths=\[8, 12, 16\] there, \[8, 12, 20\] here"),
        ({"backbone": "resnet18"}, r"does not fit: teacher.backbone=resnet10t there, resnet18 here"),
        ({"inputs": "whitened"}, r"does not fit: segmentation.inputs=products there, whitened here"),
        ({"teacher_seed": 1}, r"its student learned from a teacher with other weights; give the same teacher.weights="),
    ],
)
def test_a_model_that_does_not_fit_is_refused(model, changes, message):
    with pytest.raises(UserError, match=message):
        start_from(untrained(**changes), str(model))


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"init=.*: no detector.json in .*; give the model folder of a finished run"):
        start_from(untrained(), str(tmp_path))


def test_a_model_tells_what_it_was_trained_on(tmp_path):
    assert trained_before(None) == trained_before(str(tmp_path / "model")) == []
    (told,) = doubts_of_init(str(tmp_path / "model"))
    assert "there is no trained_on.txt beside it, so images that it was trained on may be held out now" in told
    write_trained(tmp_path, ["train/good/a.png", "train/good/\udcff.png"])
    assert trained_before(str(tmp_path / "model")) == ["train/good/a.png", "train/good/\udcff.png"]
    assert doubts_of_init(str(tmp_path / "model")) == doubts_of_init(None) == []
