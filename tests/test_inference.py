"""dmdd.load and what it takes."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image

import dmdd
from dmdd.errors import UserError
from dmdd.inference import as_tensor
from dmdd.models.detector import Detector
from dmdd.models.segmentation import SegmentationNetwork
from dmdd.models.student import Student
from dmdd.models.teacher import Teacher


@pytest.fixture(scope="module")
def inspector(tmp_path_factory):
    torch.manual_seed(0)
    teacher = Teacher(backbone="resnet10t")
    detector = Detector(
        teacher=teacher,
        student=Student(channels=teacher.channels, widths=(8, 12, 16)),
        segmentation=SegmentationNetwork(channels=teacher.channels, width=8),
        input_size=(64, 96),
    )
    detector.calibration = {"image_threshold": 0.03, "pixel_threshold": 0.02}
    folder = tmp_path_factory.mktemp("run") / "model"
    detector.save(folder)
    return dmdd.load(folder, device="cpu")


PIXELS = np.random.default_rng(0).integers(0, 256, (70, 50, 3), np.uint8)


def test_every_kind_of_the_same_image_gives_the_same(inspector, tmp_path):
    file = tmp_path / "a picture ü.png"
    Image.fromarray(PIXELS).save(file)
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    kinds = [file, str(file), Image.fromarray(PIXELS), PIXELS, tensor, tensor.float() / 255]
    detections = [inspector(kind) for kind in kinds]
    assert len({detection.score for detection in detections}) == 1
    assert all(np.array_equal(detection.map, detections[0].map) for detection in detections)


def test_an_opened_image_is_read_like_its_file(inspector, tmp_path):
    deep = tmp_path / "deep.png"
    Image.fromarray((np.arange(70 * 50, dtype=np.uint16) * 18).reshape(70, 50)).save(deep)
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    Image.fromarray(PIXELS).save(turned, exif=exif)
    for file, size in ((deep, (70, 50)), (turned, (50, 70))):
        with Image.open(file) as opened:
            assert np.array_equal(as_tensor(opened).numpy(), as_tensor(file).numpy())
        assert as_tensor(file).shape[1:] == size


def test_detection_is_at_the_images_own_size_and_follows_the_thresholds(inspector):
    detection = inspector(PIXELS)
    assert detection.map.shape == detection.mask.shape == (70, 50)
    assert detection.map.dtype == np.float32
    assert detection.label == (detection.score >= 0.03)
    assert np.array_equal(detection.mask, detection.map >= 0.02)


def test_a_model_without_thresholds_gives_no_verdict(inspector):
    plain = dmdd.Inspector(inspector.detector, device="cpu")
    kept, plain.detector.calibration = plain.detector.calibration, {}
    try:
        assert (plain(PIXELS).label, plain(PIXELS).mask) == (None, None)
    finally:
        plain.detector.calibration = kept


def test_a_list_of_many_sizes_gives_what_each_gives_alone(inspector):
    sizes = [(300, 500), (32, 32), (64, 96), (1200, 1600), (70, 50)]
    images = [np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8) for i, size in enumerate(sizes)]
    many = inspector(images, batch_size=2)
    assert [detection.map.shape for detection in many] == sizes
    for detection, image in zip(many, images, strict=True):
        assert detection.score == pytest.approx(inspector(image).score, abs=1e-6)
    assert inspector([]) == []


def test_grey_is_the_same_as_grey_in_rgb(inspector):
    grey = PIXELS[..., 0]
    scores = [inspector(image).score for image in (grey, grey[..., None], np.repeat(grey[..., None], 3, 2))]
    assert scores[0] == scores[1] == scores[2]


def test_threads_get_the_same_answers(inspector):
    images = [np.random.default_rng(i).integers(0, 256, (64, 96, 3), np.uint8) for i in range(8)]
    expected, answers = [inspector(image).score for image in images], [0.0] * 8

    def work(place: int) -> None:
        answers[place] = inspector(images[place]).score

    threads = [threading.Thread(target=work, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (PIXELS.astype(np.float32), r"a numpy image must be uint8 .*got float32"),
        (np.zeros((4, 4, 4), np.uint8), r"a numpy image must be uint8 .*got uint8 \(4, 4, 4\)"),
        (torch.zeros(1, 3, 4, 4), r"a tensor must be uint8 or float \(3, H, W\), got torch.float32 \(1, 3, 4, 4\)"),
        (torch.full((3, 4, 4), 2.0), r"a float tensor must lie in \[0, 1\]"),
        (torch.full((3, 4, 4), float("nan")), r"a float tensor must lie in \[0, 1\]"),
        (7, r"an image must be a path, a PIL image, a numpy array or a tensor, got int"),
    ],
)
def test_what_is_no_image(image, message):
    with pytest.raises(UserError, match=message):
        as_tensor(image)


def test_unknown_attribute_of_the_package():
    with pytest.raises(AttributeError, match="module 'dmdd' has no attribute 'lod'"):
        _ = dmdd.lod
