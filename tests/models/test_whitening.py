"""Whitened residuals against NumPy, against a case that can be done by hand, and on the road into a saved model."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dmdd.core.errors import UserError
from dmdd.models.losses import cosine_distance
from dmdd.models.segmentation import SegmentationNetwork
from dmdd.models.whitening import ResidualWhitening, describe_images, grain, mahalanobis, residual, whitening_matrix


def levels(seed: int, batch: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, c, side, side + 1, generator=generator) for c, side in ((3, 8), (5, 4), (7, 2))]


def fit(teacher: list[torch.Tensor], normality: list[torch.Tensor], *, batch_size: int = 2) -> ResidualWhitening:
    """Fit to features that stand for those of as many images: each image is its index."""
    whitening = ResidualWhitening([level.shape[1] for level in teacher])
    images = torch.arange(len(teacher[0]))
    whitening.fit(
        images, lambda rows: ([t[rows] for t in teacher], [n[rows] for n in normality]), batch_size=batch_size
    )
    return whitening


def test_distances_are_numpys_mahalanobis_distances():
    teacher, normality = levels(0, 6), levels(1, 6)
    found = mahalanobis(fit(teacher, normality)(teacher, normality))
    for t, n, ours in zip(teacher, normality, found, strict=True):
        rows = [x.double().permute(0, 2, 3, 1).flatten(0, 2).numpy() for x in (t, n)]
        lengths = [np.linalg.norm(x, axis=1, keepdims=True) for x in rows]
        difference = rows[0] / lengths[0] - rows[1] / lengths[1]
        covariance = np.cov(difference.T, bias=True)
        covariance += 0.01 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        centred = difference - difference.mean(0)
        expected = np.sqrt(np.einsum("ni,ij,nj->n", centred, np.linalg.inv(covariance), centred) / len(covariance))
        assert ours.shape == (t.shape[0], 1, *t.shape[2:])
        assert np.allclose(ours.flatten().numpy(), expected, atol=1e-4)


def test_whitened_residuals_of_normal_images_have_covariance_one_but_for_the_shrinkage():
    teacher, normality = levels(2, 8), levels(3, 8)
    for whitened in fit(teacher, normality)(teacher, normality):
        rows = whitened.permute(0, 2, 3, 1).flatten(0, 2)
        assert rows.mean(0).abs().max() < 1e-5
        covariance = rows.T @ rows / len(rows)
        assert ((covariance.diagonal() > 0.8) & (covariance.diagonal() <= 1 + 1e-5)).all()
        assert (covariance - torch.diag(covariance.diagonal())).abs().max() < 0.05


def test_a_whitening_matrix_by_hand():
    # [[4, 2], [2, 5]] is L L^T with L = [[2, 0], [1, 2]], whose inverse is [[1/2, 0], [-1/4, 1/2]].
    covariance = torch.tensor([[4.0, 2.0], [2.0, 5.0]], dtype=torch.float64)
    expected = torch.tensor([[0.5, 0.0], [-0.25, 0.5]], dtype=torch.float64)
    assert torch.allclose(whitening_matrix(covariance, shrinkage=0.0), expected)
    # The mean variance is 4.5; 2/3 of it added to both variances: L = [[sqrt(7), 0], [2/sqrt(7), ...]].
    first = whitening_matrix(covariance, shrinkage=2 / 3)[0]
    assert torch.allclose(first, torch.tensor([7**-0.5, 0.0], dtype=torch.float64))


def test_an_image_counts_as_of_the_nearest_kind():
    """Two kinds of images whose means lie far apart: each is as normal as by a Gaussian of its own kind's mean."""
    teacher = levels(6, 12)
    teacher[-1][6:] = teacher[-1][6:] + 3
    whitening = ResidualWhitening([3, 5, 7], kinds=2)
    whitening.fit(
        torch.arange(12), lambda rows: ([t[rows] for t in teacher], [t[rows] for t in teacher]), kinds=[0] * 6 + [1] * 6
    )
    described = describe_images(teacher[-1]).double()
    own = torch.cat([part - part.mean(0) for part in described.split(6)])
    covariance = own.T @ own / 12
    covariance += 0.1 * covariance.diagonal().mean() * torch.eye(14)
    expected = (torch.linalg.solve(covariance, own.T).T * own).sum(1).div(14).sqrt()
    found = whitening.against_images(torch.ones(12, 1, 2, 2), teacher[-1])[:, 0, 0, 0]
    assert torch.allclose(found.square() * 8, expected.float(), atol=1e-3)
    between = whitening.against_images(torch.ones(1, 1, 2, 2), teacher[-1][:1] + 1.0)
    assert between.max() > found.max()


def test_before_it_is_fitted_residuals_stay_as_they_are():
    teacher, normality = levels(4, 2), levels(5, 2)
    whitening = ResidualWhitening([3, 5, 7])
    for found, t, n in zip(whitening(teacher, normality), teacher, normality, strict=True):
        assert torch.allclose(found, F.normalize(t, dim=1) - F.normalize(n, dim=1), atol=1e-6)
    whitening.fit(torch.arange(0), lambda rows: ([], []))
    assert torch.equal(whitening.gaussian(0)[1], torch.eye(3))


def test_the_fit_depends_on_neither_batches_nor_order():
    teacher, normality = levels(6, 6), levels(7, 6)
    one = fit(teacher, normality, batch_size=1)
    other = fit([t.flip(0) for t in teacher], [n.flip(0) for n in normality], batch_size=4)
    for level in range(3):
        for first, second in zip(one.gaussian(level), other.gaussian(level), strict=True):
            assert torch.allclose(first, second, atol=1e-4)


def test_a_student_without_any_error_gives_finite_numbers():
    teacher = levels(8, 2)
    whitening = fit(teacher, teacher)
    for found in mahalanobis(whitening(teacher, levels(9, 2))):
        assert torch.isfinite(found).all()
    assert all(distance.abs().max() < 1e-3 for distance in mahalanobis(whitening(teacher, teacher)))


def test_grain_is_the_mean_of_the_smaller_half():
    distance = torch.tensor([[0.1, 0.3, 0.2, 2.0], [0.4, 0.4, 0.4, 0.4]]).view(2, 2, 2)
    assert torch.allclose(grain(distance), torch.tensor([0.15, 0.4]))
    assert torch.allclose(grain(torch.tensor([[0.7]])), torch.tensor([0.7]))  # half of one place is that place


def test_maps_are_set_against_the_grain_of_normal_images():
    teacher, normality = levels(4, 6), levels(5, 6)
    whitening = fit(teacher, normality)
    grains = grain(cosine_distance(normality[0], teacher[0]))
    wanted = torch.stack([grains.min() / 1.25, grains.max() * 1.25])
    assert torch.allclose(whitening.normal_grain, wanted, atol=1e-6)
    whitening.normal_grain.copy_(torch.tensor([0.2, 0.8]))
    finest = torch.tensor([0.1, 0.2, 0.4, 1.6]).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    found = whitening.against_grain(torch.full((4, 1, 3, 3), 0.6), finest)
    assert torch.allclose(found[:, 0, 0, 0], torch.tensor([0.6, 0.6, 0.3, 0.15]))  # held in range below and above


def test_images_are_described_by_means_and_spreads_of_directions():
    # Directions (1, 0), (0, 1), (1, 0), (1, 0), whatever their lengths.
    features = torch.tensor([[[[2.0, 0.0], [5.0, 1.0]], [[0.0, 3.0], [0.0, 0.0]]]])
    spread = (0.75 * 0.25) ** 0.5
    assert torch.allclose(describe_images(features), torch.tensor([[0.75, 0.25, spread, spread]]), atol=1e-6)


def test_maps_are_weighted_by_numpys_distance_of_the_image_from_normal_ones():
    teacher, normality = levels(6, 9), levels(7, 9)
    whitening = fit(teacher, normality, batch_size=4)
    rows = describe_images(teacher[-1]).double().numpy()
    covariance = np.cov(rows.T, bias=True)
    covariance += 0.1 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    others = levels(8, 3)[-1]
    centred = describe_images(others).double().numpy() - rows.mean(0)
    distance = np.sqrt(np.einsum("ni,ij,nj->n", centred, np.linalg.inv(covariance), centred) / len(covariance))
    found = whitening.against_images(torch.full((3, 1, 2, 2), 0.5), others)
    assert np.allclose(found[:, 0, 0, 0].numpy(), 0.5 * np.sqrt(distance / 8), rtol=1e-3)
    whitening.image_mean.add_(100)  # now everything is far
    assert torch.equal(whitening.against_images(torch.full((3, 1, 2, 2), 0.5), others), torch.full((3, 1, 2, 2), 0.5))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(whitening.against_images(torch.ones(3, 1, 2, 2), others), torch.ones(3, 1, 2, 2))


def test_before_fitting_no_map_is_set_against_grain():
    maps, finest = torch.rand(2, 1, 3, 3), torch.rand(2, 1, 3, 3)
    whitening = ResidualWhitening([3])
    assert torch.equal(whitening.against_grain(maps, finest), maps)
    whitening.fit(torch.arange(0), lambda rows: ([], []))
    assert torch.equal(whitening.normal_grain, torch.ones(2))
    without = ResidualWhitening([3], with_images=False)
    assert "normal_grain" not in without.state_dict()
    assert "image_matrix" not in without.state_dict()
    with pytest.raises(ValueError, match="the grain of normal images is not known"):
        without.against_grain(maps, finest)
    with pytest.raises(ValueError, match="normal images are not known"):
        without.against_images(maps, finest)


def test_half_precision_features_are_whitened_in_float32():
    teacher, normality = levels(10, 2), levels(11, 2)
    whitening = fit(teacher, normality)
    halves = [t.bfloat16() for t in teacher]
    with torch.autocast("cpu", torch.bfloat16):
        found = whitening(halves, normality)
    expected = whitening([t.float() for t in halves], normality)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert residual(halves[0], normality[0]).dtype == torch.float32


def test_the_segmentation_network_sees_whitened_residuals_without_their_sign():
    torch.manual_seed(0)
    teacher, normality, abnormality = levels(12, 2), levels(13, 2), levels(14, 2)
    network = SegmentationNetwork(channels=(3, 5, 7), width=4, inputs="whitened").eval()
    residuals = fit(teacher, normality)(teacher, normality)
    with torch.no_grad():
        found = network(teacher, normality, abnormality, residuals)
        assert torch.equal(found, network(teacher, abnormality, abnormality, [-r for r in residuals]))
        assert not torch.equal(found, network(teacher, normality, abnormality, [2 * r for r in residuals]))
    with pytest.raises(ValueError, match=r"segmentation.inputs=whitened: residuals are missing"):
        network(teacher, normality, abnormality)
    with pytest.raises(UserError, match=r"segmentation.inputs=sums: choose one of products, whitened"):
        SegmentationNetwork(channels=(3, 5, 7), inputs="sums")
