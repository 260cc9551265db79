"""The scale that users see: threshold at 0.5, typical good image at 0.1, the order of images unchanged."""

import itertools

import numpy as np
import pytest
import torch

from dmdd.models.score_scale import ScoreScale

CALIBRATION = {
    "image_threshold": float(np.float32(0.4)),
    "typical_score": 0.3,
    "false_alarm_table": {"scores": [0.3, 0.4, 0.5], "rates": [0.5, 0.01, 0.0001]},
}
SCALE = ScoreScale.of(CALIBRATION)


def test_marks_of_the_scale():
    assert SCALE.readable(CALIBRATION["image_threshold"]) == 0.5
    assert SCALE.readable(0.3) == pytest.approx(0.1)
    # As far above the threshold as the typical image lies below it, on the logit scale: 2/3 * (2/3) / (3/7) = 28/27.
    assert SCALE.readable(28 / 55) == pytest.approx(0.9)


def test_order_is_kept_and_the_threshold_is_sharp():
    raw = np.linspace(0.001, 0.999, 400)
    shown = [SCALE.readable(float(value)) for value in raw]
    assert all(a < b for a, b in itertools.pairwise(shown))
    cut = np.float32(CALIBRATION["image_threshold"])
    below, above = np.nextafter(cut, np.float32(0)), np.nextafter(cut, np.float32(1))
    assert SCALE.readable(float(below)) < 0.5 < SCALE.readable(float(above))
    traced = SCALE.readable_traced(torch.tensor([below, cut, above]))
    assert traced[0] < 0.5 <= traced[1] <= traced[2]
    assert SCALE.readable_traced(torch.from_numpy(raw).float()).tolist() == pytest.approx(shown, abs=2e-5)


def test_false_alarm_probability_is_read_between_the_knots():
    assert SCALE.false_alarm_probability(0.3) == pytest.approx(0.5)
    assert SCALE.false_alarm_probability(0.9) == pytest.approx(0.0001)  # no smaller than the table goes
    middle = 1 / (1 + np.sqrt((0.6 / 0.4) * (0.5 / 0.5)))  # half way from 0.4 to 0.5 on the logit scale
    assert SCALE.false_alarm_probability(float(middle)) == pytest.approx(0.001, rel=1e-3)


@pytest.mark.parametrize("missing", list(CALIBRATION))
def test_older_models_have_no_scale(missing):
    assert ScoreScale.of({name: value for name, value in CALIBRATION.items() if name != missing}) is None


def test_a_threshold_below_the_typical_image_has_no_scale():
    assert ScoreScale.of(CALIBRATION | {"image_threshold": 0.2}) is None
