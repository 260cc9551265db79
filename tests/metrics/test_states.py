"""Batching, order, copies, devices, errors and undefined values of the metric classes."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from dmdd.core.errors import UserError
from dmdd.metrics import AUPRO, PixelAUROC, PixelF1Max, estimates, image_metrics, pixel_metrics
from dmdd.metrics.binning import N_BINS
from dmdd.metrics.pixel import PixelMetric
from dmdd.metrics.regions import anomalous_pixels

SHARED = {"pixel_auroc", "pixel_ap", "aupro_30", "aupro_5", "pixel_f1_max", "pixel_iou_max", "aupro_pooled_200"}
PIXEL_KEYS = SHARED | {"aupro_per_image_200", "aupimo"}


@pytest.fixture(scope="module")
def test_set():
    rng = np.random.default_rng(1)
    masks = np.zeros((7, 20, 30), np.uint8)
    masks[1, 2:9, 3:7], masks[4, 0:3, 0:30], masks[6, 10:12, 10:12], masks[6, 12:15, 12:20] = 1, 1, 1, 1
    maps = rng.random(masks.shape, dtype=np.float32) + 0.3 * masks
    return torch.from_numpy(maps.astype(np.float32)), torch.from_numpy(masks)


def values_of(metrics):
    return {name: value.item() for name, value in metrics.compute().items()}


@pytest.mark.parametrize("exact", [False, True])
def test_any_batching_and_order_gives_the_same_bits(test_set, exact):
    maps, masks = test_set
    whole = pixel_metrics(exact=exact)
    whole.update(maps, masks)
    expected = values_of(whole)
    assert set(expected) == PIXEL_KEYS
    for order, size in (([6, 2, 0, 4, 1, 5, 3], 1), ([3, 4, 5, 6, 0, 1, 2], 3)):
        parts = pixel_metrics(exact=exact)
        for first in range(0, 7, size):
            chosen = order[first : first + size]
            parts.update(maps[chosen][:, None], masks[chosen][:, None].bool())
        assert values_of(parts) == expected


def test_large_batches_count_like_small_ones():
    # above a million pixels the counting takes another route
    maps = torch.rand(3, 700, 700, generator=torch.Generator().manual_seed(0))
    masks = maps > 0.9
    whole, parts = PixelF1Max(), PixelF1Max()
    whole.update(maps, masks)
    for scores, mask in zip(maps, masks, strict=True):
        parts.update(scores[None], mask[None])
    assert torch.equal(whole.histograms, parts.histograms)
    assert int(whole.histograms[0].sum()) == maps.numel()
    assert int(whole.histograms[1].sum()) == int(masks.sum())


def test_members_share_one_state(test_set):
    metrics = pixel_metrics()
    metrics.update(*test_set)
    items = dict(metrics.items(copy_state=False))
    states = {items[name].histograms.data_ptr() for name in SHARED}
    assert len(states) == 1


@pytest.mark.parametrize("exact", [False, True])
def test_members_share_the_counting_over_thresholds(test_set, exact, monkeypatch):
    calls = []
    original = PixelMetric._steps
    monkeypatch.setattr(PixelMetric, "_steps", lambda metric: calls.append(metric) or original(metric))
    metrics = pixel_metrics(exact=exact)
    maps, masks = test_set
    for number in (1, 2):
        metrics.update(maps, masks)
        metrics.compute()
        assert len(calls) == number
    metrics.reset()
    metrics.update(maps, masks)
    metrics.update(maps, masks)
    metrics.compute()
    assert len(calls) == 3


def test_reset_pickle_clone_and_state_dict(test_set):
    maps, masks = test_set
    metrics = pixel_metrics()
    metrics.update(maps[:3], masks[:3])
    expected = values_of(metrics)
    for copied in (pickle.loads(pickle.dumps(metrics)), metrics.clone(), copy.deepcopy(metrics)):
        assert values_of(copied) == expected
        copied.update(maps[3:], masks[3:])
        assert values_of(copied) != expected
    assert values_of(metrics) == expected
    metrics.reset()
    metrics.update(maps[3:], masks[3:])
    metrics.update(maps[:3], masks[:3])
    whole = pixel_metrics()
    whole.update(maps, masks)
    assert values_of(metrics) == values_of(whole)


def test_unused_metrics_take_no_memory():
    metric = PixelAUROC()
    assert metric.histograms.untyped_storage().nbytes() == 8
    metric.update(torch.rand(1, 2, 2), torch.zeros(1, 2, 2))
    metric.reset()
    assert metric.histograms.untyped_storage().nbytes() == 8


@pytest.mark.parametrize("used", [False, True])
def test_a_move_to_another_device_spells_out_no_zeros(used):
    metrics, whole = pixel_metrics(), 3 * N_BINS * 8
    if used:
        metrics.update(torch.rand(1, 2, 2), torch.zeros(1, 2, 2))
    metrics.to("meta")
    for metric in metrics.values(copy_state=False):
        if isinstance(metric, PixelMetric):
            assert metric.device.type == metric.histograms.device.type == metric.n_regions.device.type == "meta"
            assert metric._defaults["histograms"].untyped_storage().nbytes() == 8
            assert metric.histograms.untyped_storage().nbytes() == (whole if used else 8)


def test_forward_gives_the_batch_and_keeps_the_sum(test_set):
    maps, masks = test_set
    metric, batch, whole = AUPRO(), AUPRO(), AUPRO()
    metric.update(maps[:4], masks[:4])
    batch.update(maps[4:], masks[4:])
    whole.update(maps, masks)
    assert metric(maps[4:], masks[4:]).item() == batch.compute().item()
    assert metric.compute().item() == whole.compute().item()


def test_states_filled_in_inference_mode_are_usable_outside(test_set):
    maps, masks = test_set
    metrics, plain = pixel_metrics(), pixel_metrics()
    with torch.inference_mode():
        metrics.update(maps[:4], masks[:4])
    metrics.update(maps[4:], masks[4:])
    plain.update(maps, masks)
    assert values_of(metrics) == values_of(plain)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("fill", [0, 1])
def test_one_kind_of_pixel_is_undefined(exact, fill):
    metrics = pixel_metrics(exact=exact)
    metrics.update(torch.rand(2, 4, 4), torch.full((2, 4, 4), fill))
    assert all(math.isnan(value) for value in values_of(metrics).values())
    assert all(math.isnan(estimate.lower) for estimate in estimates(metrics).values())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("exact", [False, True])
def test_non_finite_map_names_its_image_and_counts_nothing(test_set, bad, exact):
    maps, masks = test_set
    metrics = pixel_metrics(exact=exact)
    metrics.update(maps, masks)
    expected = values_of(metrics)
    broken = maps.clone()
    broken[2, 5, 5] = bad
    with pytest.raises(UserError, match="image 9 holds NaN or an infinite score"):
        metrics.update(broken, masks)
    assert values_of(metrics) == expected


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (torch.rand(2, 3, 4), torch.zeros(2, 4, 3), "differ in shape"),
        (torch.rand(2, 2, 3, 4), torch.zeros(2, 3, 4), r"maps must be \(B, H, W\)"),
        (torch.rand(2, 3, 4), torch.zeros(3, 4), r"masks must be \(B, H, W\)"),
        (torch.zeros(1, 3, 4, dtype=torch.int64), torch.zeros(1, 3, 4), "maps must be floating"),
        (torch.rand(1, 3, 4), torch.full((1, 3, 4), 255, dtype=torch.uint8), "mask of image 0 holds values other"),
        (torch.rand(1, 3, 4), torch.full((1, 3, 4), 0.5), "mask of image 0 holds values other"),
    ],
)
def test_unusable_batches_are_refused(maps, masks, message):
    with pytest.raises(UserError, match=message):
        PixelAUROC().update(maps, masks)


@pytest.mark.parametrize("fpr_limit", [0.0, -0.1, 1.5])
def test_impossible_fpr_limit_is_refused(fpr_limit):
    with pytest.raises(UserError, match="fpr_limit must lie in"):
        AUPRO(fpr_limit)


def test_too_many_regions_are_refused():
    metric = PixelAUROC()
    metric.update(torch.rand(1, 4, 4), torch.eye(4)[None])
    metric.n_regions += 2**22
    with pytest.raises(UserError, match="4194305 anomalous regions, more than 4194304"):
        metric.compute()


def test_empty_batch_changes_nothing(test_set):
    metrics = pixel_metrics()
    metrics.update(*test_set)
    expected = values_of(metrics)
    metrics.update(torch.zeros(0, 4, 4), torch.zeros(0, 4, 4))
    assert values_of(metrics) == expected


def test_regions_touch_at_corners_and_borders():
    mask = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 0, 1]], np.uint8)
    pixels = anomalous_pixels(mask)
    assert pixels.position.tolist() == [0, 3, 5, 7, 12, 13, 15]
    assert sorted(pixels.region_size.tolist()) == [1, 2, 2, 2]
    assert pixels.region[0] == pixels.region[2]
    assert pixels.region[4] == pixels.region[5]


def test_image_metrics_against_scikit_learn_in_any_batches():
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, 40)
    scores = (rng.normal(size=40) + labels).round(1).astype(np.float32)  # ties, negatives, beyond 1
    metrics = image_metrics()
    for first in range(0, 40, 7):
        metrics.update(torch.from_numpy(scores[first : first + 7]), torch.from_numpy(labels[first : first + 7]))
    values = values_of(metrics)
    assert values["image_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert values["image_ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    f1 = [2 * np.sum(labels[scores >= t]) / (np.sum(scores >= t) + labels.sum()) for t in scores]
    assert values["image_f1_max"] == pytest.approx(max(f1), abs=1e-12)


def test_image_metrics_of_one_class_are_undefined():
    metrics = image_metrics()
    metrics.update(torch.tensor([0.1, 0.2]), torch.tensor([1, 1]))
    assert all(math.isnan(value) for value in values_of(metrics).values())


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.1, math.nan], [0, 1], "image 4: its score is NaN or infinite"),
        ([0.1, 0.2], [2, 1], "image 3: its label is neither 0 nor 1"),
        ([0.1, 0.2], [1], r"must both be \(B,\)"),
        ([1, 2], [0, 1], "scores must be floating"),
    ],
)
def test_unusable_image_scores_are_refused(scores, labels, message):
    metrics = image_metrics()
    metrics.update(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0, 1, 0]))
    with pytest.raises(UserError, match=message):
        metrics.update(torch.tensor(scores), torch.tensor(labels))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("exact", [False, True])
def test_gpu_gives_the_bits_of_the_cpu(test_set, exact):
    maps, masks = test_set
    on_cpu, on_gpu = pixel_metrics(exact=exact), pixel_metrics(exact=exact).to("cuda")
    on_cpu.update(maps, masks)
    on_gpu.update(maps.cuda(), masks.cuda())
    assert values_of(on_gpu) == values_of(on_cpu)
