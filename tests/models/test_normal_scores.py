"""Thresholds from few normal images: against known distributions, independent integration and simulation."""

import math

import numpy as np
import pytest
import torch
from benchmarks.calibration import simulate

from dmdd.models.normal_scores import (
    LOT_SHIFT,
    Rate,
    calibrate_scores,
    images_needed,
    learn_normal_scores,
    logit,
    move_pixel_threshold,
    promise,
    smallest_promise,
)
from dmdd.models.score_scale import describe_drift


def squash(z):
    return 1 / (1 + np.exp(-np.asarray(z)))


def test_many_normal_scores_give_the_quantile_of_their_distribution():
    z = -0.5 + 0.1 * torch.special.ndtri((torch.arange(400, dtype=torch.float64) + 0.5) / 400).numpy()
    known = learn_normal_scores(squash(z))
    assert float(logit(known.typical)) == pytest.approx(-0.5, abs=0.003)
    assert known.spread == pytest.approx(0.1, rel=0.05)
    # The 99 % quantile of a normal distribution is 2.326 standard deviations up; a little more, as it is not certain.
    assert float(logit(known.threshold(0.01))) == pytest.approx(-0.5 + 0.1 * 2.45, abs=0.015)
    rate = known.rate(known.threshold(0.01))
    assert rate.expected == pytest.approx(0.01, rel=1e-3)
    assert 0.003 < rate.low < 0.01 < rate.high < 0.02


def test_expected_rate_equals_an_integration_by_hand():
    """One image and a known spread: place and spread are integrated on a fine grid, family by family."""
    known = learn_normal_scores(squash([-0.4]), known_spread=0.1)
    cut = -0.4 + 0.35
    steps = np.linspace(-4, 4, 801)
    spread = 0.1 * np.exp(0.4 * np.linspace(-4, 4, 201))
    prior = np.exp(-0.5 * np.linspace(-4, 4, 201) ** 2)
    x = steps[None, :]  # of the image, in spreads: its place is -0.4 - x * spread
    density = {
        "normal": np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi),
        "gumbel": 1.16569 * np.exp(-(0.36651 + 1.16569 * x) - np.exp(-(0.36651 + 1.16569 * x))),
        "logistic": 1.62881 * np.exp(-1.62881 * x) / (1 + np.exp(-1.62881 * x)) ** 2,
    }
    y = (cut + 0.4) / spread[:, None] + x
    above = {
        "normal": 0.5 * np.vectorize(math.erfc)(y / math.sqrt(2)),
        "gumbel": 1 - np.exp(-np.exp(-(0.36651 + 1.16569 * y))),
        "logistic": 1 / (1 + np.exp(1.62881 * y)),
    }
    share = {"normal": 0.5, "gumbel": 0.25, "logistic": 0.25}
    total = rate = 0.0
    for name, own in density.items():
        # Most images, here the only one, are none of the intruders.
        weight = share[name] * prior[:, None] * np.where(0.98 * own > 0.02 / 20, 0.98 * own + 0.02 / 20, 0)
        total += weight.sum()
        rate += (weight * above[name]).sum()
    assert float(known.expected([squash(cut)])[0]) == pytest.approx(rate / total, rel=0.08)


def test_other_lots_lie_somewhere_above():
    """Many images leave nothing else open: the rate is the mean over a half-normal shift, by Monte Carlo."""
    z = -0.5 + 0.1 * torch.special.ndtri((torch.arange(400, dtype=torch.float64) + 0.5) / 400).numpy()
    known = learn_normal_scores(squash(z))
    cut = known.threshold(0.01)
    shifts = LOT_SHIFT * np.abs(np.random.default_rng(0).standard_normal(20_000))
    by_hand = known.expected(squash(logit(cut) - known.spread * np.quantile(shifts, np.linspace(0.005, 0.995, 100))))
    found = known.of_other_lots().rate(cut)
    assert found.expected == pytest.approx(by_hand.mean(), rel=0.1)
    assert found.high == pytest.approx(np.quantile(by_hand, 0.95), rel=0.15)
    told = calibrate_scores(squash(z), rate=0.01, other_lots=True)
    assert told["other_lots_rate"] == pytest.approx(found.high, rel=1e-3)
    assert told["image_threshold"] == pytest.approx(cut, abs=1e-6)
    assert told["promise"].endswith(" where parts, lot or light are others")


def test_one_intruder_does_not_set_the_threshold():
    random = np.random.default_rng(1)
    z = -0.6 + 0.06 * random.standard_normal(21)
    clean, dirty = learn_normal_scores(squash(z)), learn_normal_scores(squash([*z[:-1], 0.9]))
    assert dirty.intruders[-1] > 0.99
    assert dirty.intruders[:-1].max() < 0.2
    away = float(logit(dirty.threshold(0.01)) - logit(clean.threshold(0.01)))
    assert abs(away) < 0.06  # one spread


def test_few_scores_that_differ_more_than_expected_leave_the_threshold_near_them():
    """As of three sheets of paper, one of them a copy of a sheet trained on: not all three can be intruders."""
    training = squash(-0.95 + 0.01 * np.linspace(-2, 2, 29))
    told = calibrate_scores(squash([-1.07, -0.63, -0.52]), rate=0.01, training=training, other_lots=True)
    assert -0.52 < float(logit(told["image_threshold"])) < -0.4
    low, high = told["image_false_alarm_interval"]
    assert low < 0.01 < high < told["other_lots_rate"]


@pytest.mark.parametrize("count", [3, 21])
def test_rates_are_near_the_wanted_one_and_intervals_hold(count):
    """Short form of benchmarks/calibration.py: seeded, so that it cannot fail by chance."""
    found = [simulate(name, count, repeats=15) for name in ("normal", "gumbel")]
    assert 0.001 < np.mean([one["rate"] for one in found]) < 0.03
    assert np.mean([one["held"] for one in found]) > 0.8
    assert np.mean([one["largest"] for one in found]) > 0.6 / (count + 1)  # what the largest score would do


@pytest.mark.parametrize("scores", [[], [0.1, float("nan")]])
def test_scores_that_cannot_be_used(scores):
    with pytest.raises(ValueError, match="finite scores of at least one normal image are needed"):
        learn_normal_scores(scores)


def test_equal_scores_are_no_certainty():
    known = learn_normal_scores([0.3, 0.3, 0.3, 0.3])
    assert 0.3 < known.threshold(0.01) < 1
    assert math.isfinite(known.spread)


def test_calibration_is_what_a_detector_keeps():
    z = -0.6 + 0.05 * np.random.default_rng(2).standard_normal(40)
    found = calibrate_scores(squash(z), rate=0.05, anomalous=squash([-0.6, 0.0, 1.0]))
    assert found["promised"] is True
    assert found["anomalous_found"] == pytest.approx(2 / 3)
    assert np.float32(found["image_threshold"]) == found["image_threshold"]
    rates = found["false_alarm_table"]["rates"]
    assert rates == sorted(rates, reverse=True)
    assert len(rates) == len(found["false_alarm_table"]["scores"])
    assert found["promise"].startswith("40 good images: expect 5 % false alarms, between ")


def test_promises():
    assert promise(Rate(0.01, 0.004, 0.02), 0.01, 300) == (
        "300 good images: expect 1 % false alarms, between 0.4 % and 2 % of good images (90 % interval)"
    )
    assert promise(Rate(0.01, 0.0, 0.09), 0.01, 1) == (
        "1 % false alarms cannot be promised with 1 good image: expect between 0 % and 9 % of good "
        "images (90 % interval)"
    )
    # ln 9 / ln 3 = 2, so four times as many images.
    assert images_needed(Rate(0.01, 0.0, 0.09), 10) == 40
    known = learn_normal_scores(squash(-0.6 + 0.05 * np.random.default_rng(3).standard_normal(12)))
    rate = smallest_promise(known)
    assert known.rate(known.threshold(rate)).high <= 3 * rate
    assert 0.01 < rate <= 0.5


def test_drift_is_told_in_spreads():
    calibration = {"typical_score": 0.4, "spread": 0.1, "normal_images": 100}
    z = float(logit(0.4))
    around = z + 0.1 * torch.special.ndtri((torch.arange(50, dtype=torch.float64) + 0.5) / 50).numpy()
    assert describe_drift(squash(around), calibration).startswith(
        "none seen: the median of 50 normal-looking images is"
    )
    told = describe_drift(squash(around + 0.15), calibration)
    assert told.startswith("the median of 50 normal-looking images is 1.5 spreads above the calibration's: camera,")
    assert describe_drift(squash(around[:9]), calibration) is None
    assert describe_drift(squash(around), {"image_threshold": 0.5}) is None


def test_pixel_threshold_moves_with_the_maps_of_good_images():
    former = {"pixel_threshold": 0.5, "typical_peak": 0.2}
    # logit 0.2 = -ln 4 and logit 0.5 = 0, so the threshold goes up by ln 4, to 0.8.
    assert move_pixel_threshold([0.4, 0.5, 0.7], former) == pytest.approx({"pixel_threshold": 0.8, "typical_peak": 0.5})
    assert move_pixel_threshold([0.5], {"pixel_threshold": 0.5}) == {}
    assert move_pixel_threshold([0.5], {"pixel_threshold": None, "typical_peak": 0.2}) == {}


def test_an_image_that_scores_too_low_does_not_lift_the_threshold():
    """One of three good images resembles those trained on: a few per cent of belief in a huge spread decided alone."""
    training = 4 * [0.27, 0.272, 0.275, 0.28, 0.281, 0.282, 0.283, 0.285]
    plain = calibrate_scores([0.3734, 0.3478], rate=0.01, training=training)["image_threshold"]
    found = calibrate_scores([0.3734, 0.1021, 0.3478], rate=0.01, training=training)
    assert 0.3734 < found["image_threshold"] < plain + 0.02
    low, high = found["image_false_alarm_interval"]
    assert low <= found["image_false_alarm_rate"] <= high


PAPER = {"training": squash(-0.9 + 0.033 * torch.special.ndtri((torch.arange(29) + 0.5) / 29).double().numpy())}
"""As the printed paper's images trained on score after a short training."""


def test_few_images_and_an_intruder_among_them():
    """As of sheets of paper, one of them stained: by its score alone it might be one of the good ones."""
    z, looks = [-0.56, -0.65, -0.24], [0.3, -0.8, 4.6]
    clean = logit(learn_normal_scores(squash(z[:2]), **PAPER).threshold(0.01))
    blind = learn_normal_scores(squash(z), **PAPER)
    assert logit(blind.threshold(0.01)) > clean + 0.12
    seen = learn_normal_scores(squash(z), **PAPER, strangeness=looks)
    assert seen.intruders[2] > 0.95 > 0.05 > seen.intruders[:2].max()
    assert logit(seen.threshold(0.01)) == pytest.approx(clean, abs=0.03)  # half a spread
    told = calibrate_scores(squash(z), rate=0.01, **PAPER, strangeness=looks)
    assert told["image_threshold"] == pytest.approx(seen.threshold(0.01), abs=1e-6)
    # A good image that looks strange but scores like the others counts.
    good = learn_normal_scores(squash([-0.56, -0.65, -0.58]), **PAPER, strangeness=looks)
    assert good.intruders[2] < 0.5
    # And half of four may be intruders where they look like it.
    two = learn_normal_scores(squash([-0.56, -0.3, -0.62, -0.24]), **PAPER, strangeness=[0.3, 4.2, 0.5, 4.6])
    assert two.intruders.round(1).tolist() == [0, 1, 0, 1]


def test_images_that_all_look_strange_are_no_intruders():
    """Held out as runs of neighbours they may all be unlike those trained on."""
    z = -0.6 + 0.05 * np.linspace(-1.5, 1.5, 8)
    known = learn_normal_scores(squash(z), strangeness=np.full(8, 6.0))
    assert known.intruders.max() < 0.5
    assert logit(known.typical) == pytest.approx(-0.6, abs=0.03)
