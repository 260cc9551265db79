"""Losses against values derived by hand."""

import math

import pytest
import torch

from dmdd.core.errors import UserError
from dmdd.models.losses import (
    abnormality_mimicking_loss,
    cosine_distance,
    distance_to_target,
    level_mask,
    level_masks,
    normality_guidance_loss,
    segmentation_loss,
)


def features(*columns: tuple[float, float]) -> torch.Tensor:
    """One image of one row: a pixel a column, two channels."""
    return torch.tensor(columns, dtype=torch.float32).T.reshape(1, 2, 1, len(columns))


EAST, NORTH, WEST, NORTH_EAST = (1.0, 0.0), (0.0, 3.0), (-2.0, 0.0), (1.0, 1.0)


def test_cosine_distance_of_known_angles():
    distance = cosine_distance(features(EAST, EAST, EAST, EAST), features(EAST, NORTH, WEST, NORTH_EAST))
    assert torch.allclose(distance, torch.tensor([[[0.0, 1.0, 2.0, 1 - math.sqrt(0.5)]]]), atol=1e-6)


def test_cosine_distance_is_float32_for_bfloat16_features():
    assert cosine_distance(features(EAST).bfloat16(), features(NORTH).bfloat16()).dtype == torch.float32


def test_ngm_sums_levels_and_averages_pixels():
    # level 1: distances 0 and 1, mean 0.5; level 2: distance 2
    loss = normality_guidance_loss([features(EAST, EAST), features(EAST)], [features(EAST, NORTH), features(WEST)])
    assert loss.item() == pytest.approx(2.5, abs=1e-6)


def test_ngm_of_the_hardest_cells_of_each_image():
    # distances 0, 1, 2, 1 - sqrt(1/2) in the first image, all 1 in the second: the worst half is 2 and 1, and 1 and 1
    n = torch.cat([features(EAST, EAST, EAST, EAST)] * 2)
    t = torch.cat([features(EAST, NORTH, WEST, NORTH_EAST), features(NORTH, NORTH, NORTH, NORTH)])
    assert normality_guidance_loss([n], [t], hard_fraction=0.5).item() == pytest.approx((1.5 + 1) / 2, abs=1e-6)
    assert normality_guidance_loss([n], [t], hard_fraction=0.01).item() == pytest.approx((2 + 1) / 2, abs=1e-6)
    whole = normality_guidance_loss([n], [t])
    assert whole.item() == pytest.approx(((3 + 1 - math.sqrt(0.5)) / 4 + 1) / 2, abs=1e-6)


def test_aim_margin_of_one_image():
    # pixels 0 and 1 are normal with distances 1 and 0: mean 0.5; pixels 2 and 3 are anomalous with cosines -1 (no
    # penalty below zero) and sqrt(1/2): mean sqrt(1/2) / 2
    mask = torch.tensor([0.0, 0.0, 1.0, 1.0]).reshape(1, 1, 1, 4)
    loss = abnormality_mimicking_loss(
        [features(NORTH, EAST, WEST, NORTH_EAST)], [features(EAST, EAST, EAST, EAST)], mask
    )
    assert loss.item() == pytest.approx(0.5 + math.sqrt(0.5) / 2, abs=1e-6)


def test_aim_l1_is_the_distance_to_the_mask():
    # |1 - 0|, |0 - 0|, |2 - 1|, |(1 - sqrt(1/2)) - 1|
    mask = torch.tensor([0.0, 0.0, 1.0, 1.0]).reshape(1, 1, 1, 4)
    loss = abnormality_mimicking_loss(
        [features(NORTH, EAST, WEST, NORTH_EAST)], [features(EAST, EAST, EAST, EAST)], mask, form="l1"
    )
    assert loss.item() == pytest.approx((1 + 0 + 1 + math.sqrt(0.5)) / 4, abs=1e-6)


@pytest.mark.parametrize("form", ["margin", "l1"])
def test_aim_of_a_batch_is_the_mean_of_its_images(form):
    generator = torch.Generator().manual_seed(0)
    a, t = (torch.randn(4, 5, 6, 6, generator=generator) for _ in range(2))
    mask = torch.zeros(4, 1, 12, 12)
    mask[0, :, :3, :3] = 1
    mask[1, :, 4:11] = 1
    mask[2] = 1  # wholly anomalous; image 3 wholly normal
    whole = abnormality_mimicking_loss([a], [t], mask, form=form)
    parts = [abnormality_mimicking_loss([a[i : i + 1]], [t[i : i + 1]], mask[i : i + 1], form=form) for i in range(4)]
    assert whole.item() == pytest.approx(torch.stack(parts).mean().item(), abs=1e-6)


def test_aim_refuses_an_unknown_form():
    with pytest.raises(UserError, match=r"aim=l2: choose one of margin, l1"):
        abnormality_mimicking_loss([features(EAST)], [features(EAST)], torch.zeros(1, 1, 1, 1), form="l2")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_distance_to_target_has_the_value_and_the_gradient_of_the_cosine_distance(dtype, tolerance):
    generator = torch.Generator().manual_seed(0)
    trained, target = (torch.randn(2, 7, 5, 6, generator=generator).to(dtype) for _ in range(2))
    weight = torch.randn(2, 5, 6, generator=generator)
    found = []
    for distance in (distance_to_target, cosine_distance):
        own = trained.clone().requires_grad_()
        value = distance(own, target)
        (value * weight).sum().backward()
        assert own.grad.dtype == dtype
        found.append((value.detach(), own.grad.float()))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-6)
    assert (found[0][1] - found[1][1]).abs().max() < tolerance


def test_distance_to_target_of_a_feature_of_length_zero_is_finite():
    trained = torch.zeros(1, 3, 1, 1, requires_grad=True)
    value = distance_to_target(trained, torch.ones(1, 3, 1, 1))
    value.sum().backward()
    assert value.item() == 1
    assert trained.grad.isfinite().all()


def test_masks_of_levels_are_those_of_each_level_alone():
    mask = (torch.rand(2, 1, 48, 80, generator=torch.Generator().manual_seed(0)) > 0.99).float()
    sizes = [(24, 40), (12, 20), (5, 7), (3, 5)]  # the third is no whole part of the second, nor the fourth of it
    for size, found in zip(sizes, level_masks(mask, sizes), strict=True):
        assert torch.equal(found, level_mask(mask, size)[:, 0])


@pytest.mark.parametrize("size", [(24, 40), (5, 7), (12, 7), (48, 80)])
def test_level_mask_is_the_maximum_of_each_cell(size):
    mask = (torch.rand(2, 1, 48, 80, generator=torch.Generator().manual_seed(0)) > 0.97).float()
    assert torch.equal(level_mask(mask, size), torch.nn.functional.adaptive_max_pool2d(mask, size))


def test_level_mask_keeps_a_single_pixel():
    mask = torch.zeros(1, 1, 8, 8)
    mask[0, 0, 5, 2] = 1
    expected = torch.zeros(1, 1, 2, 2)
    expected[0, 0, 1, 0] = 1
    assert torch.equal(level_mask(mask, (2, 2)), expected)


def test_segmentation_loss_at_even_odds():
    # p = 1/2 everywhere: focal (1/2)^4 ln 2, L1 1/2
    loss = segmentation_loss(torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 16, 16))
    assert loss.item() == pytest.approx(math.log(2) / 16 + 0.5, abs=1e-6)


def test_segmentation_loss_vanishes_where_right():
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1
    assert segmentation_loss((mask - 0.5) * 80, mask).item() == pytest.approx(0, abs=1e-6)


def test_segmentation_loss_with_gamma_zero_is_cross_entropy_plus_l1():
    logit = torch.tensor(1.5).reshape(1, 1, 1, 1)
    p = 1 / (1 + math.exp(-1.5))
    loss = segmentation_loss(logit, torch.zeros(1, 1, 4, 4), focal_gamma=0.0)
    assert loss.item() == pytest.approx(-math.log(1 - p) + p, abs=1e-6)
