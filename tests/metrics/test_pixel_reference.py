"""Pixel metrics against hand derivations, scikit-learn and the slow reference."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from dmdd.metrics import (
    AUPRO,
    PixelAUROC,
    PixelAveragePrecision,
    PixelF1Max,
    PixelIoUMax,
    estimates,
    functional,
    pixel_metrics,
)
from reference import aupro as reference

REFERENCES = {
    "pixel_auroc": reference.auroc,
    "pixel_ap": reference.average_precision,
    "aupro_30": lambda maps, masks: reference.aupro(maps, masks, 0.3),
    "aupro_5": lambda maps, masks: reference.aupro(maps, masks, 0.05),
    "pixel_f1_max": reference.f1_max,
    "pixel_iou_max": reference.iou_max,
}
# Ties, neighbours in one bin, both zeros, subnormals, both ends of float32, negatives.
SPECIAL = [
    0.0,
    -0.0,
    1.0,
    0.5,
    0.5000001,
    0.50000006,
    1e-45,
    -1e-45,
    1e-38,
    3.4e38,
    -3.4e38,
    -1.0,
    -1.0000001,
    63.99,
    64.0,
]
SCORES = st.one_of(
    st.sampled_from(SPECIAL),
    st.integers(0, 4).map(lambda step: step / 4),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@st.composite
def test_sets(draw):
    count, height, width = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(2, 5))
    size = count * height * width
    maps = draw(st.lists(SCORES, min_size=size, max_size=size))
    masks = draw(st.lists(st.integers(0, 1), min_size=size, max_size=size).filter(lambda m: 0 < sum(m) < size))
    shape = (count, height, width)
    return np.array(maps, np.float32).reshape(shape), np.array(masks, np.uint8).reshape(shape)


test_sets.__test__ = False


FUNCTIONS = {
    "pixel_auroc": functional.auroc,
    "pixel_ap": functional.average_precision,
    "aupro_30": functional.aupro,
    "aupro_5": lambda steps: functional.aupro(steps, 0.05),
    "pixel_f1_max": functional.f1_max,
    "pixel_iou_max": functional.iou_max,
}


def computed(maps, masks, *, exact=False):
    metric = PixelAUROC(exact=exact)
    metric.update(torch.from_numpy(maps), torch.from_numpy(masks))
    steps = metric.steps()
    return {name: function(steps) for name, function in FUNCTIONS.items()}


@settings(max_examples=150, deadline=None)
@given(test_sets())
def test_interval_contains_the_exact_value(test_set):
    for name, estimate in computed(*test_set).items():
        expected = REFERENCES[name](*test_set)
        assert estimate.lower <= expected <= estimate.upper, name
        assert estimate.lower <= estimate.value <= estimate.upper, name
        assert estimate.lower >= 0, name
        assert estimate.upper <= 1, name


@settings(max_examples=150, deadline=None)
@given(test_sets())
def test_exact_mode_equals_the_reference(test_set):
    for name, estimate in computed(*test_set, exact=True).items():
        expected = REFERENCES[name](*test_set)
        assert estimate.value == pytest.approx(expected, abs=1e-9), name
        assert estimate.upper - estimate.lower <= 1e-11, name
        assert estimate.lower <= expected <= estimate.upper, name


@settings(max_examples=60, deadline=None)
@given(test_sets(), st.sampled_from(["pixel_f1_max", "pixel_iou_max"]))
def test_threshold_reaches_the_maximum(test_set, name):
    maps, masks = test_set
    for exact in (False, True):
        best = computed(maps, masks, exact=exact)[name]
        predicted = maps >= np.float32(best.threshold)
        hits, wrong = np.sum(predicted & (masks == 1)), np.sum(predicted & (masks == 0))
        f1 = 2 * hits / (hits + wrong + masks.sum())
        assert best.value == pytest.approx(f1 if name == "pixel_f1_max" else hits / (wrong + masks.sum()), abs=1e-12)


def smooth_test_set(count=12, side=48, seed=0):
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, side, side), np.uint8)
    for mask in masks[::2]:
        for y, x in rng.integers(0, side - 8, (2, 2)):
            mask[y : y + 7, x : x + 5] = 1
    maps = rng.random(masks.shape, dtype=np.float32) ** 3
    return (maps + 0.4 * masks * rng.random(masks.shape, dtype=np.float32)).astype(np.float32), masks


@pytest.mark.parametrize("exact", [False, True])
def test_collection_computes_the_functions(exact):
    maps, masks = smooth_test_set()
    metrics = pixel_metrics(exact=exact)
    metrics.update(torch.from_numpy(maps), torch.from_numpy(masks))
    values = metrics.compute()
    found = estimates(metrics)
    shared = {name: estimate for name, estimate in found.items() if name in FUNCTIONS}
    np.testing.assert_equal(shared, computed(maps, masks, exact=exact))
    assert {name: estimate.value for name, estimate in found.items()} == {name: values[name].item() for name in found}


def test_auroc_and_ap_agree_with_scikit_learn():
    maps, masks = smooth_test_set()
    area = roc_auc_score(masks.ravel(), maps.ravel())
    precision = average_precision_score(masks.ravel(), maps.ravel())
    found, exact = computed(maps, masks), computed(maps, masks, exact=True)
    assert exact["pixel_auroc"].value == pytest.approx(area, abs=1e-12)
    assert exact["pixel_ap"].value == pytest.approx(precision, abs=1e-12)
    assert found["pixel_auroc"].value == pytest.approx(area, abs=1e-6)
    assert found["pixel_ap"].value == pytest.approx(precision, abs=1e-4)
    assert found["pixel_auroc"].upper - found["pixel_auroc"].lower < 1e-4


def test_aupro_by_hand():
    # Regions of 1 and 2 pixels (the two touch at a corner only), 5 normal pixels, scores all different.
    maps = torch.tensor([[[0.9, 0.8, 0.1, 0.2], [0.3, 0.4, 0.7, 0.6]]])
    masks = torch.tensor([[[1, 0, 0, 0], [0, 0, 0, 0]], [[0, 1, 0, 0], [0, 0, 1, 0]]])
    maps = torch.cat([maps, torch.tensor([[[0.15, 0.5, 0.05, 0.02], [0.01, 0.03, 0.85, 0.04]]])])
    # Descending: .9 A1 | .85 B | .8 n | .7 n | .6 n | .5 B | ten more normal. 13 normal pixels, overlaps 1/2 and then
    # 1/2 + 1/4 before the first normal pixel, 1 after the third.
    metric = AUPRO(fpr_limit=6 / 13, exact=True)
    metric.update(maps, masks)
    # three pixels of width 1 at 3/4, three at 1, over six
    assert float(metric.compute()) == pytest.approx((3 * 0.75 + 3) / 6, abs=1e-12)


def test_limit_inside_a_tie_is_interpolated():
    # One threshold holds everything: the curve is the diagonal, its area to 0.3 is 0.3^2 / 2, over 0.3.
    maps, masks = torch.full((1, 4, 5), 0.5), torch.zeros(1, 4, 5, dtype=torch.bool)
    masks[0, 0, 0] = True
    for exact in (False, True):
        metric = AUPRO(0.3, exact=exact)
        metric.update(maps, masks)
        assert float(metric.compute()) == pytest.approx(0.15, abs=1e-11)


@pytest.mark.parametrize("exact", [False, True])
def test_constant_map(exact):
    maps, masks = torch.full((2, 4, 4), 7.5), torch.zeros(2, 4, 4)
    masks[1, :2, :2] = 1
    metrics = pixel_metrics(exact=exact)
    metrics.update(maps, masks)
    values = metrics.compute()
    # 4 of 32 anomalous: AUROC a coin's, precision the base rate, F1 = 2 * 4 / (32 + 4), IoU 4 / 32
    assert float(values["pixel_auroc"]) == pytest.approx(0.5, abs=1e-12)
    assert float(values["pixel_ap"]) == pytest.approx(1 / 8, abs=1e-12)
    assert float(values["pixel_f1_max"]) == pytest.approx(2 / 9, abs=1e-12)
    assert float(values["pixel_iou_max"]) == pytest.approx(1 / 8, abs=1e-12)
    assert math.isnan(values["aupro_per_image_200"])


@pytest.mark.parametrize("metric_class", [PixelAUROC, PixelAveragePrecision, PixelF1Max, PixelIoUMax, AUPRO])
@pytest.mark.parametrize("exact", [False, True])
def test_perfect_and_inverted_maps(metric_class, exact):
    masks = torch.zeros(2, 6, 6, dtype=torch.uint8)
    masks[0, 1:3, 1:3] = 1
    metric = metric_class(exact=exact)
    metric.update(masks.float(), masks)
    assert float(metric.compute()) == 1.0
    metric.reset()
    metric.update(1.0 - masks.float(), masks)
    inverted = {PixelAUROC: 0.0, AUPRO: 0.0, PixelF1Max: 8 / 76, PixelAveragePrecision: 4 / 72, PixelIoUMax: 4 / 72}
    assert float(metric.compute()) == pytest.approx(inverted[metric_class], abs=1e-12)


def test_maps_outside_the_unit_interval_are_not_squashed():
    # torchmetrics applies a sigmoid to a batch such as the second, and to no other.
    scores, labels = torch.tensor([0.2, 0.9, 1.5, 1.2]), torch.tensor([0, 0, 1, 1])
    metric = PixelAUROC()
    metric.update(scores[:2].view(2, 1, 1), labels[:2].view(2, 1, 1))
    metric.update(scores[2:].view(2, 1, 1), labels[2:].view(2, 1, 1))
    assert float(metric.compute()) == 1.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types(dtype):
    maps, masks = smooth_test_set(4)
    lower = torch.from_numpy(maps).to(dtype)
    metric = PixelAUROC(exact=True)
    metric.update(lower, torch.from_numpy(masks))
    expected = roc_auc_score(masks.ravel(), lower.float().numpy().ravel())
    assert float(metric.compute()) == pytest.approx(expected, abs=1e-12)


def test_large_region_weights_are_within_the_interval():
    # Sizes that do not divide 2^40, one image each: the shares are rounded, the certified error says by how much.
    rng = np.random.default_rng(3)
    masks = np.zeros((3, 300, 300), np.uint8)
    masks[0, :299, :211], masks[1, 3:7, 5:12], masks[2, 0, :7] = 1, 1, 1
    maps = rng.permutation(masks.size).reshape(masks.shape).astype(np.float32) / masks.size + 0.1 * masks
    found, exact = computed(maps.astype(np.float32), masks), computed(maps.astype(np.float32), masks, exact=True)
    assert found["aupro_30"].lower <= exact["aupro_30"].value <= found["aupro_30"].upper
    assert found["aupro_30"].upper - found["aupro_30"].lower < 1e-4


def test_aupro_per_image_200_equals_its_reference():
    maps, masks = smooth_test_set(8, 24)
    metrics = pixel_metrics()
    metrics.update(torch.from_numpy(maps), torch.from_numpy(masks))
    expected = np.mean(
        [reference.overlap_200(scores, mask) for scores, mask in zip(maps, masks, strict=True) if mask.any()]
    )
    assert float(metrics.compute()["aupro_per_image_200"]) == pytest.approx(expected, abs=1e-9)


def test_aupro_per_image_200_where_no_rate_is_left():
    # Perfect map: no threshold above the lowest score lets a normal pixel through, which the old code divides by.
    masks = torch.zeros(1, 4, 4)
    masks[0, 0, 0] = 1
    metrics = pixel_metrics()
    metrics.update(masks.clone(), masks)
    assert float(metrics.compute()["aupro_per_image_200"]) == 1.0
