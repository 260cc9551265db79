"""Figures at a threshold, by hand and against scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics

from dmdd.core.errors import UserError
from dmdd.metrics import Decisions, ImageDecisions, PixelDecisions, decide, decision_figures, decision_intervals


def test_figures_equal_scikit_learn_in_any_batches():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 50)
    scores = (rng.random(50) + 0.3 * labels).round(1).astype(np.float32)
    metric = ImageDecisions(0.7)
    for first in range(0, 50, 7):
        metric.update(torch.from_numpy(scores[first : first + 7]), torch.from_numpy(labels[first : first + 7]))
    predicted = scores >= np.float32(0.7)
    expected = {
        "image_precision": sklearn_metrics.precision_score(labels, predicted),
        "image_recall": sklearn_metrics.recall_score(labels, predicted),
        "image_f1": sklearn_metrics.f1_score(labels, predicted),
        "image_balanced_accuracy": sklearn_metrics.balanced_accuracy_score(labels, predicted),
        "image_false_alarm_rate": predicted[labels == 0].mean(),
    }
    assert {name: float(value) for name, value in metric.compute().items()} == pytest.approx(expected)
    wrong, right = sklearn_metrics.confusion_matrix(labels, predicted)
    assert metric.decisions() == (right[1], wrong[1], right[0], wrong[0])


def test_f1_of_pixels_equals_scikit_learn_in_any_batches():
    rng = np.random.default_rng(1)
    masks = rng.integers(0, 2, (5, 1, 4, 6))
    maps = (rng.random(masks.shape) + 0.3 * masks).round(1).astype(np.float32)
    metric = PixelDecisions(0.7)
    for part in (slice(0, 2), slice(2, 5)):
        metric.update(torch.from_numpy(maps[part]), torch.from_numpy(masks[part]))
    assert float(metric.compute()) == pytest.approx(sklearn_metrics.f1_score(masks.ravel(), maps.ravel() >= 0.7))
    metric.reset()
    metric.update(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))
    assert math.isnan(metric.compute())


def test_threshold_itself_is_found_and_counts_are_exact():
    decisions = decide(torch.tensor([0.5, 0.4, 0.5, 0.4]), torch.tensor([1, 1, 0, 0]), 0.5)
    assert decisions == Decisions(true_positive=1, false_positive=1, false_negative=1, true_negative=1)
    with pytest.raises(UserError, match=r"\(2,\) scores but \(1,\) labels"):
        decide(torch.zeros(2), torch.zeros(1), 0.5)


def test_what_has_no_denominator_is_undefined():
    figures = decision_figures(Decisions(0, 0, 0, 5))
    assert figures["image_false_alarm_rate"] == 0
    assert all(math.isnan(value) for name, value in figures.items() if name != "image_false_alarm_rate")
    assert decision_intervals(Decisions(0, 0, 0, 5)) == {}
    nothing_found = Decisions(0, 0, 4, 5)
    assert math.isnan(decision_figures(nothing_found)["image_precision"])
    assert "image_precision" not in decision_intervals(nothing_found)


def test_precision_is_undefined_on_images_of_one_kind():
    good_alone = decision_figures(Decisions(0, 2, 0, 5))  # was 0, whatever the detector does
    assert {name for name, value in good_alone.items() if not math.isnan(value)} == {"image_false_alarm_rate"}
    anomalous_alone = decision_figures(Decisions(3, 0, 1, 0))  # was 1
    assert {name for name, value in anomalous_alone.items() if not math.isnan(value)} == {"image_recall", "image_f1"}


@pytest.mark.parametrize("decisions", [Decisions(9, 2, 3, 10), Decisions(12, 0, 0, 12), Decisions(0, 0, 4, 5)])
def test_intervals_hold_their_figures_and_are_no_points(decisions):
    figures = decision_figures(decisions)
    for name, interval in decision_intervals(decisions).items():
        assert 0 <= interval.lower <= figures[name] <= interval.upper <= 1, name
        assert interval.upper - interval.lower > 0.05, name


def test_recall_has_the_interval_of_its_share():
    # Wilson's interval of 9 of 12, by his formula with z = 1.96: [0.468, 0.911]
    interval = decision_intervals(Decisions(9, 2, 3, 10))["image_recall"]
    assert interval == pytest.approx((0.4677, 0.9111), abs=1e-4)
    balanced = decision_intervals(Decisions(9, 2, 3, 10))["image_balanced_accuracy"]
    low = math.hypot(0.75 - 0.4677, 0.4480 - 1 / 6) / 2  # Wilson's upper end of 2 of 12 is 0.4480
    assert balanced.lower == pytest.approx((0.75 + 10 / 12) / 2 - low, abs=1e-4)


def test_intervals_cover_what_they_should():
    # recall 0.9 and false alarms 0.05 at a fixed threshold; 24 anomalous and 12 normal images
    rng = np.random.default_rng(0)
    truth = {
        "image_recall": 0.9,
        "image_false_alarm_rate": 0.05,
        "image_balanced_accuracy": (0.9 + 0.95) / 2,
        "image_f1": 2 * 21.6 / (21.6 + 0.6 + 24),
        "image_precision": 21.6 / (21.6 + 0.6),
    }
    held = dict.fromkeys(truth, 0)
    for found, wrong in zip(rng.binomial(24, 0.9, 2000), rng.binomial(12, 0.05, 2000), strict=True):
        intervals = decision_intervals(Decisions(found, wrong, 24 - found, 12 - wrong))
        for name, value in truth.items():
            held[name] += intervals[name].lower <= value <= intervals[name].upper
    assert all(count / 2000 >= 0.93 for count in held.values()), held
