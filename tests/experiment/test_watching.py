"""Pictures while training: what they show, and that they leave the training alone."""

import pytest
import torch

from dmdd.data.datasets import PairBatch
from dmdd.experiment.watching import STAGE_1_MAP, TrainingPictures, draw_batch
from dmdd.models.detector import Detector
from tiny import save_tiny_model


@pytest.fixture
def detector(tmp_path) -> Detector:
    return Detector.load(save_tiny_model(tmp_path / "model"))


def pairs(count: int, height: int = 64, width: int = 96) -> PairBatch:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)
    mask = torch.zeros(count, 1, height, width)
    mask[:, :, :8, :8] = 1
    return PairBatch(normal, normal / 255 * (1 - mask), mask, tuple(range(count)))


def test_a_picture_has_a_pair_a_row_and_changes_no_network(detector):
    detector.student.train()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    batch = pairs(3)
    picture = draw_batch(detector, batch, name=STAGE_1_MAP, count=2)
    assert picture.shape == (2 * 64, 4 * 96, 3)
    assert (picture[:64, :96] == batch.normal[0].permute(1, 2, 0).numpy()).all()
    assert (picture[:8, 192:200] == 255).all()  # the mask
    assert detector.student.training
    assert not detector.segmentation.training
    assert all(torch.equal(before[name], value) for name, value in detector.state_dict().items())


def test_networks_of_another_precision_are_shown_without_maps(detector):
    picture = draw_batch(detector.double(), pairs(1), name=STAGE_1_MAP, count=1)
    assert picture.shape == (64, 3 * 96, 3)


@pytest.mark.parametrize(("step", "shown"), [(1, [9]), (2, []), (5, [13]), (40, [48])])
def test_pictures_are_logged_at_the_first_step_and_evenly(detector, monkeypatch, step, shown):
    class Trainer:
        global_step, max_steps, is_global_zero, loggers = step, 40, True, ()

    class SegmentationModule:
        first_step = 9

    logged = []
    monkeypatch.setattr("dmdd.experiment.loggers.show_picture", lambda *args, step: logged.append((args[1], step)))
    TrainingPictures(detector).on_train_batch_end(Trainer(), SegmentationModule(), None, pairs(1), 0)
    assert logged == [("segmentation/pairs", place) for place in shown]
