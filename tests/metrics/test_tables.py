"""Curves, tables by defect type, native mask sizes and bootstrap intervals."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.integrate import trapezoid  # numpy has one of that name from version 2 on
from sklearn import metrics as sklearn_metrics

from dmdd.core.errors import UserError
from dmdd.metrics import (
    AUPIMO,
    DefectTypes,
    PixelAUROC,
    PixelBootstrap,
    bootstrap_image_metrics,
    image_metrics,
    native_maps,
    percentile_interval,
    pixel_metrics,
    precision_recall_curve,
    pro_curve,
    recall_by_type,
    roc_curve,
    update_native,
)
from dmdd.metrics.bootstrap import resample
from reference import aupro as reference


def images(count=10, side=16, seed=0, lift=0.4):
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, side, side), np.uint8)
    for index, mask in enumerate(masks[1::2]):
        mask[index : index + 4, 3 : 8 + index % 3] = 1
    maps = (rng.random(masks.shape) + lift * masks).astype(np.float32)
    return torch.from_numpy(maps), torch.from_numpy(masks)


def exact_steps_of(maps, masks):
    metric = PixelAUROC(exact=True)
    metric.update(maps, masks)
    return metric.steps()


def test_curves_by_hand():
    # descending: anomalous .9, normal .8, anomalous .7 in another region of two pixels, normal .6, its other pixel .5
    maps = torch.tensor([[[0.9, 0.8, 0.7], [0.1, 0.6, 0.5]]])
    masks = torch.tensor([[[1, 0, 1], [0, 0, 1]]])
    steps = exact_steps_of(maps, masks)
    roc, pro, pr = roc_curve(steps), pro_curve(steps), precision_recall_curve(steps)
    assert roc.x.tolist() == pytest.approx([0, 0, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 1])
    assert roc.y.tolist() == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 1, 1])
    assert roc.threshold.tolist() == pytest.approx([math.inf, 0.9, 0.8, 0.7, 0.6, 0.5, 0.1])
    assert pro.y.tolist() == pytest.approx([0, 0.5, 0.5, 0.75, 0.75, 1, 1])
    assert pr.y.tolist() == pytest.approx([1, 1 / 2, 2 / 3, 2 / 4, 3 / 5, 3 / 6])
    assert pr.x.tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3, 1, 1])


def test_thinned_curve_keeps_ends_and_area():
    maps, masks = images(count=40)
    steps = exact_steps_of(maps, masks)
    whole, thin = roc_curve(steps, 10**9), roc_curve(steps, 100)
    assert len(whole.x) > 500
    assert len(thin.x) <= 100
    assert (thin.x[0], thin.y[0], thin.x[-1], thin.y[-1]) == (0, 0, 1, 1)
    assert set(zip(thin.x, thin.y, strict=True)) <= set(zip(whole.x, whole.y, strict=True))
    expected = sklearn_metrics.roc_auc_score(masks.flatten(), maps.flatten())
    assert trapezoid(thin.y, thin.x) == pytest.approx(expected, abs=2 / 99)
    # along a monotone curve, x + y is the way from its start
    kept = thin.x + thin.y
    assert all(np.abs(kept - way).min() <= 2 / 99 for way in whole.x + whole.y)


@pytest.mark.parametrize("curve", [roc_curve, pro_curve, precision_recall_curve])
def test_curves_without_anomalies_are_empty_and_need_two_points(curve):
    steps = exact_steps_of(torch.rand(1, 4, 4), torch.zeros(1, 4, 4))
    assert len(curve(steps).x) == 0
    with pytest.raises(UserError, match="at least 2 points, not 1"):
        curve(steps, 1)


def test_defect_types_by_hand_and_reference():
    maps, masks = images(6)
    types = ["good", "dent", "good", "scratch", "good", "dent"]
    table = DefectTypes(["dent", "scratch", "stain"], threshold=0.75)
    table.update(maps[:4], masks[:4], types[:4])
    table.update(maps[4:], masks[4:], types[4:])
    rows = table.table()
    for name in ("dent", "scratch"):
        own = [other == name for other in types]
        found, marked = maps[own] >= 0.75, masks[own] == 1
        row = rows[name]
        assert (row.n_images, row.n_regions, row.n_pixels) == (sum(own), sum(own), int(marked.sum()))
        assert row.pixel_recall == int((found & marked).sum()) / int(marked.sum())
        assert row.image_recall == sum(bool(image.any()) for image in found) / sum(own)
        # the defects of the other types are left out, their normal pixels are not
        expected = reference.aupro(*side_by_side(maps.numpy(), masks.numpy(), own), 0.3)
        assert row.aupro.lower <= expected <= row.aupro.upper
        assert table.compute()[name].item() == row.aupro.value
    assert rows["stain"].n_images == 0
    assert math.isnan(rows["stain"].image_recall)
    assert math.isnan(rows["stain"].aupro.value)


def side_by_side(maps, masks, own):
    """One long row of pixels: those of each image in turn, its one region last, other types' regions dropped."""
    rows = []
    for scores, mask, is_own in zip(maps, masks, own, strict=True):
        order = np.argsort(mask.ravel(), kind="stable")
        order = order if is_own else order[: np.sum(mask == 0)]
        rows.append((scores.ravel()[order], mask.ravel()[order]))
    scores, mask = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    return scores[None, None], mask[None, None]


@pytest.mark.parametrize(
    ("types", "message"),
    [
        (["dent", "rust"], "unknown defect type 'rust'; known are dent, scratch"),
        (["dent"], "2 maps but 1 defect types"),
        (["dent", "good"], "image 1 is 'good', but its mask is not empty"),
    ],
)
def test_defect_types_refuse(types, message):
    table = DefectTypes(["dent", "scratch"], threshold=0.5)
    with pytest.raises(UserError, match=message):
        table.update(torch.rand(2, 4, 4), torch.ones(2, 4, 4), types)


def test_defect_types_must_differ():
    with pytest.raises(UserError, match="defect types must differ: dent, dent"):
        DefectTypes(["dent", "dent"], threshold=0.5)


def test_recall_by_type_by_hand():
    scores = torch.tensor([0.1, 0.9, 0.4, 0.5, 0.6])
    found = recall_by_type(scores, ["good", "dent", "dent", "scratch", "good"], 0.5)
    assert found == {"good": 0.5, "dent": 0.5, "scratch": 1.0}
    assert list(found) == ["good", "dent", "scratch"]
    with pytest.raises(UserError, match="5 scores but 1 defect types"):
        recall_by_type(scores, ["good"], 0.5)


def test_native_masks_of_different_sizes():
    maps = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    masks = [torch.zeros(16, 24), torch.zeros(1, 8, 8), torch.zeros(5, 7)]
    masks[0][2:9, 3:20], masks[2][0, 0] = 1, 1
    sizes = [tuple(scores.shape) for scores, _ in native_maps(maps, masks)]
    assert sizes == [(1, 16, 24), (1, 8, 8), (1, 5, 7)]
    metrics = pixel_metrics(exact=True)
    update_native(metrics, maps, masks)
    up = [F.interpolate(m[None], mask.shape[-2:], mode="bilinear")[0, 0] for m, mask in zip(maps, masks, strict=True)]
    values, labels = torch.cat([u.flatten() for u in up]), torch.cat([mask.flatten() for mask in masks])
    expected = sklearn_metrics.roc_auc_score(labels, values)
    assert metrics.compute()["pixel_auroc"].item() == pytest.approx(expected, abs=1e-12)


def test_native_masks_refuse():
    with pytest.raises(UserError, match="2 maps but 1 masks"):
        list(native_maps(torch.rand(2, 4, 4), [torch.zeros(4, 4)]))
    with pytest.raises(UserError, match=r"a native mask must be \(H, W\)"):
        list(native_maps(torch.rand(1, 4, 4), [torch.zeros(3, 4, 4)]))


def test_resamples_keep_the_number_of_each_kind():
    anomalous = np.array([True, False, False, True, False])
    drawn = resample(anomalous, 200, seed=0)
    assert np.all(drawn[:, anomalous].sum(1) == 2)
    assert np.all(drawn[:, ~anomalous].sum(1) == 3)
    assert drawn.mean(0) == pytest.approx(np.ones(5), abs=0.2)
    assert np.array_equal(drawn, resample(anomalous, 200, seed=0))
    assert not np.array_equal(drawn, resample(anomalous, 200, seed=1))


def test_image_bootstrap_repeats_scikit_learn_on_each_resample():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, 30)
    scores = (rng.normal(size=30) + labels).round(1).astype(np.float32)  # with ties
    samples = bootstrap_image_metrics(torch.from_numpy(scores), torch.from_numpy(labels), n_resamples=25, seed=3)
    for index, counts in enumerate(resample(labels == 1, 25, seed=3)):
        again = np.repeat(labels, counts), np.repeat(scores, counts)
        assert samples["image_auroc"][index] == pytest.approx(sklearn_metrics.roc_auc_score(*again), abs=1e-12)
        assert samples["image_ap"][index] == pytest.approx(sklearn_metrics.average_precision_score(*again), abs=1e-12)
        metrics = image_metrics()
        metrics.update(torch.from_numpy(again[1]), torch.from_numpy(again[0]))
        for name, value in metrics.compute().items():
            assert samples[name][index] == pytest.approx(value.item(), abs=1e-12), name


def test_pixel_bootstrap_repeats_the_metrics_on_each_resample():
    maps, masks = images(12, side=24)
    bootstrap = PixelBootstrap(n_resamples=6, seed=5)
    bootstrap.update(maps[:5], masks[:5])
    bootstrap.update(maps[5:], masks[5:])
    samples = bootstrap.compute()
    for index, counts in enumerate(resample(masks.numpy().any(axis=(1, 2)), 6, seed=5)):
        again = torch.from_numpy(np.repeat(np.arange(12), counts))
        metrics = pixel_metrics(exact=True)
        metrics.update(maps[again], masks[again])
        for name, value in metrics.compute().items():
            if name not in ("aupro_per_image_200", "aupimo"):  # few normal pixels lie above most anomalous ones
                assert samples[name][index].item() == pytest.approx(value.item(), abs=5e-3), name
        pimo = AUPIMO()
        pimo.update(maps[again], masks[again])
        assert samples["aupimo"][index].item() == pytest.approx(pimo.compute().item(), abs=2e-2)


def test_an_image_that_several_processes_have_seen_counts_once():
    maps, masks = images(4, side=24)
    once, thrice = PixelBootstrap(n_resamples=50), PixelBootstrap(n_resamples=50)
    once.update(maps, masks)
    for _ in range(3):
        thrice.update(maps, masks, range(4))
    expected = once.compute()
    for name, samples in thrice.compute().items():
        assert torch.equal(samples, expected[name]), name
        assert not samples.isnan().any()
    thrice.update(maps[:1], torch.ones_like(masks[:1]), [0])
    with pytest.raises(UserError, match="two images have the same index"):
        thrice.compute()


def test_paired_difference_is_narrower_than_two_intervals():
    # Two models that differ by a constant handicap on the same images: each interval is wide, the difference is not 0.
    samples = []
    for lift in (0.5, 0.45):
        bootstrap = PixelBootstrap(n_resamples=200)
        bootstrap.update(*images(20, lift=lift))
        samples.append(bootstrap.compute()["pixel_auroc"].numpy())
    first, second, difference = (percentile_interval(s) for s in (*samples, samples[0] - samples[1]))
    assert first.lower < second.upper
    assert 0 < difference.lower < difference.upper < first.upper - second.lower


@pytest.mark.parametrize("scale", [(1, 0), (1e-3, 1 - 1e-3), (-1, 0), (1, -1000), (1e30, 0)])
def test_pixel_bootstrap_heeds_the_order_of_the_scores_only(scale):
    # in float64, since float32 would tie scores near -1000; a negative factor is undone by the sign of the exponent
    maps, masks = images(8, side=24)
    order = torch.argsort(torch.argsort(maps.flatten())).view(maps.shape).float() / maps.numel()
    factor, shift = scale
    moved = -1 / (order + 1) if factor == -1 else (order.double() * factor + shift).float()
    plain, other = PixelBootstrap(n_resamples=20), PixelBootstrap(n_resamples=20)
    plain.update(order, masks)
    other.update(moved, masks)
    expected = plain.compute()
    for name, samples in other.compute().items():
        if name != "aupro_pooled_200":  # its thresholds are linear in the scores
            np.testing.assert_allclose(samples, expected[name], atol=2e-3 if shift else 1e-12, err_msg=name)


def test_intervals_of_a_good_negative_map_hold_its_value():
    # maps around -50, and a detector that is nearly perfect
    maps, masks = images(30, side=24, lift=0.9)
    bootstrap, metrics = PixelBootstrap(n_resamples=200), pixel_metrics(exact=True)
    for target in (bootstrap, metrics):
        target.update(maps - 50, masks)
    values = {name: float(value) for name, value in metrics.compute().items()}
    intervals = bootstrap.intervals(values)
    assert set(intervals) == set(values) - {"aupro_per_image_200"}
    for name, (lower, upper) in intervals.items():
        assert lower < values[name] < upper <= 1, name
    assert intervals["pixel_auroc"].lower > values["pixel_auroc"] - 0.02


def test_intervals_by_type_are_those_of_a_test_set_without_the_other_types():
    maps, masks = images(12, side=24)
    types = ["good", "dent"] * 3 + ["good", "scratch"] * 3
    bootstrap, alone = PixelBootstrap(n_resamples=200), PixelBootstrap(n_resamples=200)
    bootstrap.update(maps, masks)
    table = DefectTypes(["dent", "scratch"], threshold=0.75)
    table.update(maps, masks, types)
    values = {n: {"aupro_30": r.aupro.value, "pixels_found": r.pixel_recall} for n, r in table.table().items()}
    places = {name: [i for i, other in enumerate(types) if other == name] for name in values}
    intervals = bootstrap.intervals_by_type(places, values, 0.75)
    for name, figures in intervals.items():
        for metric, (lower, upper) in figures.items():
            assert 0 <= lower < values[name][metric] < upper <= 1, (name, metric)
    # a set of one type only has no other types' normal pixels to draw
    alone.update(maps[:6], masks[:6])
    only = DefectTypes(["dent"], threshold=0.75)
    only.update(maps[:6], masks[:6], types[:6])
    value = {"aupro_30": only.table()["dent"].aupro.value}
    assert (
        alone.intervals_by_type({"dent": [1, 3, 5]}, {"dent": value}, 0.75)["dent"]["aupro_30"]
        == (alone.intervals(value)["aupro_30"])
    )


def test_percentile_interval_by_hand():
    assert percentile_interval(np.arange(101.0), level=0.9) == pytest.approx((5, 95))
    with pytest.raises(UserError, match="level must lie in"):
        percentile_interval(np.arange(3.0), level=1.0)


def test_bootstrap_indices_must_fit():
    with pytest.raises(UserError, match="2 maps but 1 indices"):
        PixelBootstrap().update(torch.rand(2, 4, 4), torch.zeros(2, 4, 4), [0])


def test_defect_types_keep_one_copy_of_their_histograms_and_forget_them():
    maps, masks = images()
    types = ["good", "dent"] * 5
    metric = DefectTypes(["dent"], threshold=0.5)
    assert metric._defaults["anomalous"].untyped_storage().nbytes() == 8
    metric.update(maps, masks, types)
    first = metric.table()["dent"]
    metric.reset()
    assert metric.table()["dent"].n_pixels == 0
    metric.update(maps, masks, types)
    assert metric.table()["dent"] == first
    assert metric._defaults["anomalous"].untyped_storage().nbytes() == 8
    assert metric.to("meta").anomalous.device.type == "meta"
    assert metric._defaults["anomalous"].untyped_storage().nbytes() == 8


def test_draws_are_those_of_numpy_all_at_once():
    anomalous = np.array([False, True, False, True, True])
    rng = np.random.default_rng(3)
    normal, other = (rng.multinomial(count, np.full(count, 1 / count), 7) for count in (2, 3))
    drawn = resample(anomalous, 7, 3)
    assert np.array_equal(drawn[:, ~anomalous], normal)
    assert np.array_equal(drawn[:, anomalous], other)
