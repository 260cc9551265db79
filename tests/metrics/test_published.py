"""sPRO, AUPIMO, the pooled overlap of 200 thresholds and recall at a rate, against slow references and by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from dmdd.core.errors import UserError
from dmdd.metrics import (
    AUPIMO,
    AUPROPerImage200,
    AUPROPooled200,
    Channel,
    ImageRecallAtFPR,
    SaturatedAUPRO,
    auroc_by_type,
    image_metrics,
    pixel_metrics,
    recall_by_type,
)
from dmdd.metrics.regions import saturated_pixels
from reference import published as reference


def images(count=6, side=12, seed=0, lift=0.4):
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, side, side), np.uint8)
    for index, mask in enumerate(masks[1::2]):
        mask[index : index + 4, 3 : 6 + index % 3] = 1
        mask[side - 1, :2] = 1
    maps = (rng.random(masks.shape) + lift * masks).round(2).astype(np.float32)  # with ties
    return maps, masks


@st.composite
def loco_sets(draw):
    """Maps with ties, and defects that overlap, are not connected and are saturated anywhere."""
    count, side = draw(st.integers(1, 3)), draw(st.integers(2, 4))
    steps = draw(st.lists(st.integers(-3, 5), min_size=count * side**2, max_size=count * side**2))
    maps = (np.array(steps, np.float32) / 4).reshape(count, side, side)
    channels = []
    for index in range(count):
        own = []
        for _ in range(draw(st.integers(int(index == 0), 3))):
            mask = np.array(draw(st.lists(st.booleans(), min_size=side**2, max_size=side**2))).reshape(side, side)
            mask[0, 0], mask[-1, -1] = True, False  # one pixel at least, and one normal pixel in each image
            own.append(Channel(mask, draw(st.integers(1, int(mask.sum())))))
        channels.append(own)
    return maps, channels


@settings(max_examples=40, deadline=None)
@given(loco_sets(), st.sampled_from([0.05, 0.3, 1.0]))
def test_saturated_overlap_equals_its_reference(test_set, limit):
    maps, channels = test_set
    expected = reference.saturated_aupro(maps, channels, limit)
    for exact in (False, True):
        metric = SaturatedAUPRO(limit, exact=exact)
        for scores, own in zip(maps, channels, strict=True):
            metric.update(torch.from_numpy(scores[None]), [own])
        assert float(metric.compute()) == pytest.approx(expected, abs=1e-9), exact
        assert metric.estimate.lower <= expected <= metric.estimate.upper, exact


def test_saturated_overlap_by_hand():
    # A defect of four pixels of which two are enough, found above all normal pixels: nothing is left to find.
    mask = np.array([[True, True, True, True, False, False]])
    scores = torch.tensor([[[0.9, 0.8, 0.1, 0.05, 0.5, 0.4]]])
    metric = SaturatedAUPRO(1.0, exact=True)
    metric.update(scores, [[Channel(mask, 2)]])
    assert float(metric.compute()) == pytest.approx(1, abs=1e-12)
    metric.reset()
    metric.update(scores, [[Channel(mask, 4)]])
    assert float(metric.compute()) == pytest.approx(0.5, abs=1e-12)


def test_whole_regions_as_defects_give_the_plain_overlap():
    maps, masks = (torch.from_numpy(part) for part in images())
    masks[:, -1] = 0  # one region in each anomalous image
    metric, plain = SaturatedAUPRO(0.3), pixel_metrics()
    metric.update(maps, [[Channel(mask.numpy() == 1, int(mask.sum()))] if mask.any() else [] for mask in masks])
    plain.update(maps, masks)
    assert float(metric.compute()) == float(plain.compute()["aupro_30"])


@pytest.mark.parametrize("saturation", [0, 4])
def test_saturations_that_no_defect_has_are_refused(saturation):
    channel = Channel(np.eye(3, dtype=bool), saturation)
    with pytest.raises(UserError, match=rf"defect 0: a saturation of {saturation} pixels.* the 3 pixels"):
        saturated_pixels(np.zeros((3, 3), np.float32), [channel])
    metric = SaturatedAUPRO()
    with pytest.raises(UserError, match="a saturation of"):
        metric.update(torch.zeros(1, 3, 3), [[channel]])
    assert int(metric.n_images) == 0


def test_defects_must_fit_their_maps():
    metric = SaturatedAUPRO()
    with pytest.raises(UserError, match="2 maps but the defects of 1 images"):
        metric.update(torch.zeros(2, 3, 3), [[]])
    with pytest.raises(UserError, match=r"the maps are \(3, 3\) pixels, but a defect is \(2, 2\)"):
        metric.update(torch.zeros(1, 3, 3), [[Channel(np.ones((2, 2), bool), 1)]])
    with pytest.raises(UserError, match="fpr_limit must lie in"):
        SaturatedAUPRO(0)


@pytest.mark.parametrize("bounds", [(1e-5, 1e-4), (0.01, 0.1), (0.2, 1.0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_aupimo_equals_its_reference(bounds, seed):
    maps, masks = images(seed=seed)
    metric = AUPIMO(bounds)
    for first in range(0, len(maps), 4):
        metric.update(torch.from_numpy(maps[first : first + 4]), torch.from_numpy(masks[first : first + 4]))
    expected = reference.aupimo(maps, masks, *bounds)
    assert float(metric.compute()) == pytest.approx(expected, abs=1e-9)
    assert metric.estimate.lower <= expected <= metric.estimate.upper


def test_aupimo_by_hand():
    # Ten normal pixels 0.1 ... 1.0: a pixel at 0.95 is found at rate 0.1 and above, one at 0.75 at 0.3 and above.
    normal = torch.arange(1, 11).float().view(1, 2, 5) / 10
    maps = torch.cat([normal, torch.tensor([[[0.95, 0.75, 0.0, 0.0, 0.0], [0.0] * 5]])])
    masks = torch.zeros(2, 2, 5, dtype=torch.uint8)
    masks[1, 0, :2] = 1
    metric = AUPIMO((0.1, 1.0))
    metric.update(maps, masks)
    # log10: from -1 to 0 all of it, and from log10(0.3) on
    assert float(metric.compute()) == pytest.approx((1 - math.log10(0.3)) / 2, abs=1e-6)


def test_aupimo_needs_both_kinds_of_images_and_ascending_bounds():
    metric = AUPIMO()
    metric.update(torch.rand(2, 4, 4), torch.ones(2, 4, 4))
    assert math.isnan(metric.compute())
    with pytest.raises(UserError, match="must ascend within"):
        AUPIMO((0.1, 0.1))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pooled_200_equals_its_reference(seed):
    maps, masks = images(seed=seed)
    maps = maps * 3 - 1  # any range and sign
    expected = reference.pooled_200(maps, masks)
    for exact, tolerance in ((True, 1e-9), (False, 2e-2)):
        metric = AUPROPooled200(exact=exact)
        metric.update(torch.from_numpy(maps), torch.from_numpy(masks))
        assert float(metric.compute()) == pytest.approx(expected, abs=tolerance), exact


def test_pooled_200_where_no_rate_is_left():
    masks = torch.zeros(1, 4, 4)
    masks[0, 0, 0] = 1
    metric = AUPROPooled200()
    metric.update(masks.clone(), masks)  # perfect: the old code divides 0 by 0
    assert float(metric.compute()) == 1.0
    metric.reset()
    metric.update(torch.full((1, 4, 4), 0.5), masks)  # constant: nothing exceeds the lowest score
    assert float(metric.compute()) == 0.0


def test_images_left_out_of_the_per_image_overlap_are_counted():
    maps, masks = (torch.from_numpy(part) for part in images())
    maps[1] = 0.5  # constant
    maps[3] = 1 - 0.01 * maps[3]  # 0.3 of the normal pixels pass at no threshold but some do
    maps[3, 5, 5] = -100
    metric = AUPROPerImage200()
    metric.update(maps, masks)
    metric.compute()
    assert metric.left_out == 2
    assert metric.interval.lower < float(metric.compute()) < metric.interval.upper


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2, 1.0])
def test_recall_at_a_rate_equals_its_reference(rate):
    rng = np.random.default_rng(3)
    labels = np.arange(60) % 3 == 0
    scores = (rng.normal(size=60) + labels).round(1).astype(np.float32)
    metric = ImageRecallAtFPR(rate)
    metric.update(torch.from_numpy(scores), torch.from_numpy(labels))
    expected = reference.recall_at(scores.tolist(), labels.tolist(), rate)
    assert float(metric.compute()) == pytest.approx(expected, abs=1e-12)
    threshold = metric.estimate.threshold
    assert np.mean(scores[~labels] >= threshold) <= rate
    assert np.mean(scores[labels] >= threshold) == pytest.approx(expected)


def test_recall_at_a_rate_by_hand():
    # 20 normal images: a rate of 0.05 lets one of them pass, 0.01 none
    scores = torch.cat([torch.arange(20.0), torch.tensor([30.0, 18.5, 18.0, 5.0])])
    metrics = image_metrics()
    metrics.update(scores, torch.tensor([0] * 20 + [1] * 4))
    values = metrics.compute()
    assert float(values["image_recall_at_fpr_1"]) == pytest.approx(0.25)
    assert float(values["image_recall_at_fpr_5"]) == pytest.approx(0.5)
    with pytest.raises(UserError, match="fpr_limit must lie in"):
        ImageRecallAtFPR(0.0)


def test_image_auroc_by_type():
    rng = np.random.default_rng(4)
    types = ["good", "dent", "scratch", "good", "dent"] * 6
    scores = torch.from_numpy(rng.random(30).astype(np.float32))
    areas = auroc_by_type(scores, types)
    assert list(areas) == ["dent", "scratch"]
    for name, area in areas.items():
        own = [other in (name, "good") for other in types]
        labels = [other == name for other in types if other in (name, "good")]
        assert area == pytest.approx(roc_auc_score(labels, scores.numpy()[own]), abs=1e-12)
    assert auroc_by_type(scores[:1], ["dent"]) == {}
    for function in (auroc_by_type, lambda s, t: recall_by_type(s, t, 0.5)):
        with pytest.raises(UserError, match="1 scores but 2 defect types"):
            function(scores[:1], ["dent", "good"])
