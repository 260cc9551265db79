"""The 95 % intervals: by hand, against scipy, and how often they hold the true value."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from benchmarks.coverage import draw_maps, measure_maps
from scipy import stats

from dmdd.core.errors import UserError
from dmdd.metrics import PixelBootstrap, image_intervals, image_metrics, mean_interval, sample_interval, wilson_interval
from dmdd.metrics.intervals import _t_quantile


@pytest.mark.parametrize(("found", "count"), [(0, 12), (3, 12), (12, 12), (77, 80)])
def test_score_interval_equals_scipy(found, count):
    expected = stats.binomtest(found, count).proportion_ci(method="wilson")
    assert wilson_interval(found / count, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_score_interval_refuses_what_is_no_share():
    for share, count in ((1.5, 10), (0.5, 0)):
        with pytest.raises(UserError, match="needs a share in"):
            wilson_interval(share, count)
    assert wilson_interval(0.7, math.inf) == (0.7, 0.7)


@pytest.mark.parametrize("freedom", [4, 16, 70, 1000])
def test_quantile_equals_scipy(freedom):
    assert _t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=0.02)


def test_interval_of_samples_that_spread_like_a_share():
    # variance p (1 - p) / n is that of a share of n images; many images know it as well as the normal quantile says
    samples = np.random.default_rng(0).binomial(40, 0.8, 200_000) / 40
    expected = wilson_interval(0.8, 40)
    assert sample_interval(0.8, samples, count=10**6) == pytest.approx(expected, abs=1e-3)
    few = sample_interval(0.8, samples, count=16)
    assert few.lower < expected.lower
    assert few.upper > expected.upper


def test_interval_is_no_point_where_the_samples_are():
    assert sample_interval(1.0, np.ones(100), count=16).upper == 1
    assert 0.7 < sample_interval(1.0, np.ones(100), count=16).lower < 0.9


def test_interval_of_a_mean():
    figures = np.array([0.0, 1.0, 1.0, 0.5, 1.0, 0.75])
    low, high = mean_interval(figures.mean(), (figures**2).mean(), figures.size)
    assert 0.2 < low < figures.mean() < high < 1
    # ones and zeros are a share of all of them, but for the divisor of the variance
    ones = wilson_interval(0.9, 99, _t_quantile(100))
    assert mean_interval(0.9, 0.9, 100) == pytest.approx(ones)
    assert mean_interval(1.0, 1.0, 4).lower < 0.6


def test_perfect_detectors_get_no_point():
    scores, labels = torch.arange(36.0), torch.arange(36) >= 12
    for name, (low, high) in image_intervals(scores, labels, n_resamples=200).items():
        assert high == 1, name
        assert low < 0.95, name
    assert image_intervals(scores, torch.zeros(36), n_resamples=10) == {}


def test_intervals_hold_their_values_with_ties():
    rng = np.random.default_rng(1)
    labels = torch.from_numpy(rng.integers(0, 2, 30))
    scores = torch.from_numpy((rng.normal(size=30) + labels.numpy()).round().astype(np.float32))
    metrics = image_metrics()
    metrics.update(scores, labels)
    values, intervals = metrics.compute(), image_intervals(scores, labels, n_resamples=200)
    assert set(intervals) == set(values)
    for name, (low, high) in intervals.items():
        assert low <= float(values[name]) <= high, name
        assert low < high, name


def true_values(shift, n_normal, n_anomalous):
    """AUROC, AP and F1-max of normal scores of one spread, by integrals over the threshold."""
    threshold = np.linspace(12, -12, 200_001)
    wrong, found = (count * stats.norm.sf(threshold - at) for count, at in ((n_normal, 0), (n_anomalous, shift)))
    precision = found / (found + wrong)
    return {
        "image_auroc": stats.norm.cdf(shift / math.sqrt(2)),
        "image_ap": np.sum(np.diff(found) * (precision[1:] + precision[:-1]) / 2) / n_anomalous,
        "image_f1_max": np.max(2 * found / (found + wrong + n_anomalous)),
    }


@pytest.mark.parametrize(("n_normal", "n_anomalous", "auroc"), [(12, 24, 0.983), (60, 80, 0.75), (20, 60, 0.9)])
def test_intervals_cover_the_true_value(n_normal, n_anomalous, auroc):
    # 300 sets: 93 % less two standard errors; benchmarks/coverage.py does 1,000 sets of many more kinds
    rng, sets = np.random.default_rng(0), 300
    shift = NormalDist().inv_cdf(auroc) * math.sqrt(2)
    labels = torch.arange(n_normal + n_anomalous) >= n_normal
    truth = true_values(shift, n_normal, n_anomalous)
    held = dict.fromkeys(truth, 0)
    for seed in range(sets):
        scores = torch.from_numpy(rng.normal(size=len(labels)) + shift * labels.numpy())
        intervals = image_intervals(scores, labels, n_resamples=100, seed=seed)
        for name, value in truth.items():
            held[name] += intervals[name].lower <= value <= intervals[name].upper
    assert all(count / sets >= 0.93 - 2 * 0.0147 for count in held.values()), held


def test_intervals_of_pixel_metrics_cover_the_true_value():
    """12 + 24 small maps, whose images differ in level and contrast; the long form is coverage.py --pixels."""
    rng, sets = np.random.default_rng(0), 40
    truth = measure_maps(*draw_maps(600, 1200, np.random.default_rng(99)))
    held = dict.fromkeys(("pixel_auroc", "pixel_ap", "aupro_30"), 0)
    for seed in range(sets):
        maps, masks = draw_maps(12, 24, rng)
        bootstrap = PixelBootstrap(n_resamples=100, seed=seed)
        bootstrap.update(maps, masks)
        intervals = bootstrap.intervals(measure_maps(maps, masks))
        for name in held:
            held[name] += intervals[name].lower <= truth[name] <= intervals[name].upper
    assert all(count / sets >= 0.93 - 2 * 0.0404 for count in held.values()), held
