"""The parts of the graph against the detector's own arithmetic, in PyTorch."""

import numpy as np
import pytest
import torch
from torch import nn

from dmdd.core.resize import resize_images
from dmdd.deploy.export.graph import DetectorGraph, smoothing_matrices
from dmdd.deploy.export.resizing import enlarge_traced, resize_traced
from dmdd.deploy.export.rewriting import FastSegmentation, SplitHead, split_inputs, split_outputs
from dmdd.models.blocks import upsample
from dmdd.models.detector import MAP_NAMES, Detector, Tiling, gaussian_blur
from dmdd.models.folding import fold_batch_norms
from dmdd.models.losses import cosine_distance
from dmdd.models.segmentation import SegmentationNetwork
from dmdd.models.student import Student
from dmdd.models.teacher import Teacher
from dmdd.models.tiling import detect_tiled
from dmdd.models.whitening import mahalanobis


def make(**changes) -> Detector:
    torch.manual_seed(0)
    teacher = Teacher(backbone="resnet10t")
    settings = {
        "teacher": teacher,
        "student": Student(channels=teacher.channels, widths=(8, 12, 16)),
        "segmentation": SegmentationNetwork(channels=teacher.channels, width=8),
        "input_size": (64, 96),
        "sigma_px": 2.0,
    }
    detector = Detector(**(settings | changes)).eval()
    if detector.whitening is not None:
        for level in range(3):  # as after fitting: lower triangular, larger than the identity
            mean, matrix = detector.whitening.gaussian(level)
            mean.normal_(0, 0.05)
            matrix.add_(torch.randn_like(matrix).tril()).mul_(3)
        detector.whitening.normal_grain.copy_(torch.tensor([0.1, 2.0]))
        detector.whitening.image_mean.normal_(0, 0.1)
        detector.whitening.image_matrix.mul_(5)
    for module in detector.modules():  # statistics as after training, or folding would have nothing to do
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    return detector


def images(*size: int, batch: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (batch, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(64, 96), (80, 120), (128, 192), (300, 500), (97, 61), (20, 30), (1, 1), (1, 700)])
def test_resize_gives_the_grey_values_of_training(size):
    given = images(*size)
    expected = resize_images(given.permute(0, 3, 1, 2), (64, 96)).float()
    difference = (resize_traced(given, (64, 96)) - expected).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 1e-4  # values that float32 rounding puts on the other side


def test_resize_of_simple_proportions_has_no_pixel_that_differs():
    for size in ((80, 120), (128, 192), (256, 384), (32, 48)):
        given = images(*size, batch=4)
        assert torch.equal(resize_traced(given, (64, 96)), resize_images(given.permute(0, 3, 1, 2), (64, 96)).float())


@pytest.mark.parametrize("size", [(64, 96), (1024, 700), (30, 20), (1, 1)])
def test_enlarged_maps_are_those_of_pytorch(size):
    maps = torch.rand(2, 64, 96, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(enlarge_traced(maps, size), upsample(maps[:, None], size)[:, 0], atol=1e-5)


def test_a_convolution_cut_in_parts_is_the_same():
    torch.manual_seed(0)
    convolution, values = nn.Conv2d(6, 4, 1), torch.rand(2, 6, 3, 5)
    with torch.no_grad():
        expected = convolution(values)
        outputs = torch.cat([part(values) for part in split_outputs(convolution, 2)], 1)
        inputs = sum(part(x) for part, x in zip(split_inputs(convolution, 3), values.chunk(3, 1), strict=True))
    assert torch.allclose(outputs, expected, atol=1e-6)
    assert torch.allclose(inputs, expected, atol=1e-6)


def test_rewritten_parts_are_the_same_functions():
    detector = make()
    channels = detector.teacher.channels
    whitened = make(segmentation=SegmentationNetwork(channels=channels, width=8, inputs="whitened"))
    for one in (detector, whitened):
        fold_batch_norms(one, torch.zeros(1, 3, 64, 96))
    features = [torch.randn(2, c, 16 // 2**i, 24 // 2**i) for i, c in enumerate(detector.teacher.channels)]
    initial = torch.randn(2, 8, 16, 24)
    with torch.no_grad():
        head = detector.student.heads[0]
        for ours, theirs in zip(SplitHead(head)(initial), head(initial), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5)
        others = [[torch.randn_like(x) for x in features] for _ in range(2)]
        zero = [torch.zeros_like(x) for x in features]
        for normality, abnormality in (others, (zero, zero), (features, zero)):
            logits, distances, lengths = FastSegmentation(detector.segmentation)(features, normality, abnormality)
            assert torch.allclose(logits, detector.segmentation(features, normality, abnormality), atol=1e-4)
            assert lengths == []
            for ours, first, second in zip(distances, normality, features, strict=True):
                assert torch.allclose(ours[:, 0], cosine_distance(first, second), atol=1e-5)
            residuals = whitened.whitening(features, normality)
            logits, _, lengths = FastSegmentation(whitened.segmentation, whitened.whitening)(
                features, normality, abnormality
            )
            expected = whitened.segmentation(features, normality, abnormality, residuals)
            assert torch.allclose(logits, expected, atol=1e-4)
            for ours, theirs in zip(lengths, mahalanobis(residuals), strict=True):
                assert torch.allclose(ours, theirs, atol=1e-4)


def test_folded_network_is_the_same_function():
    detector = make()
    folded = make()
    count = fold_batch_norms(folded, torch.zeros(1, 3, 64, 96))
    left = [name for name, module in folded.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert left == ["segmentation.enter.0"]  # fed by a sum, not by a convolution
    assert count == sum(isinstance(module, nn.BatchNorm2d) for module in detector.modules()) - 1
    pixels = images(64, 96).permute(0, 3, 1, 2)
    with torch.no_grad():
        assert torch.allclose(folded(pixels).map, detector(pixels).map, atol=1e-5)


def test_a_norm_that_no_convolution_feeds_is_kept():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)).eval()
    assert fold_batch_norms(module, torch.rand(1, 3, 2, 2)) == 0
    assert isinstance(module[2], nn.BatchNorm2d)


@pytest.mark.parametrize("sigma_px", [0.0, 2.0, 20.0])
def test_smoothing_matrices_are_upsampling_and_gaussian(sigma_px):
    detector = make(sigma_px=sigma_px)
    values = torch.rand(3, 1, 16, 24, generator=torch.Generator().manual_seed(0))
    rows, columns = smoothing_matrices(detector, (16, 24))
    expected = gaussian_blur(upsample(values, (64, 96)), sigma_px)
    assert torch.allclose(rows @ values @ columns, expected, atol=1e-6)


@pytest.mark.parametrize("smoothed", [False, True])
@pytest.mark.parametrize(
    ("anomaly_map", "score_map", "inputs"),
    [
        *((name, name, "products") for name in MAP_NAMES),
        *(("fused", "both", inputs) for inputs in ("products", "whitened")),
        *((name, score, "whitened") for name, score in (("relative", "overall"), ("segmentation", "distance"))),
    ],
)
def test_graph_gives_what_the_detector_gives(anomaly_map, score_map, inputs, smoothed):
    segmentation = SegmentationNetwork(channels=Teacher(backbone="resnet10t").channels, width=8, inputs=inputs)
    detector = make(anomaly_map=anomaly_map, score_map=score_map, score_smoothed=smoothed, segmentation=segmentation)
    given = images(130, 70)
    if not smoothed:
        detector.learn_baselines(images(130, 70).permute(0, 3, 1, 2), batch_size=2)
    with torch.no_grad():
        expected = detector(given.permute(0, 3, 1, 2))
        maps, score, raw = DetectorGraph(detector)(given)
    assert torch.allclose(raw, expected.map[:, 0], atol=1e-5)
    assert torch.allclose(maps, upsample(expected.map, (130, 70))[:, 0], atol=1e-5)
    assert torch.allclose(score, expected.score, atol=1e-5)


def test_graph_with_tiles_gives_what_tiles_give():
    detector, given = make(), images(150, 200)
    with torch.no_grad():
        expected = detect_tiled(detector, given.permute(0, 3, 1, 2), tile_px=(80, 80), overlap=0.5)
        maps, score = DetectorGraph(detector, tiling=Tiling((80, 80), 0.5))(given)
    assert torch.allclose(maps, expected.map[:, 0], atol=1e-5)
    assert torch.allclose(score, expected.score, atol=1e-5)


def test_the_detector_is_not_changed_by_its_export():
    detector = make()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    DetectorGraph(detector)
    assert all(torch.equal(before[name], value) for name, value in detector.state_dict().items())
    assert np.all([not parameter.requires_grad for parameter in detector.teacher.parameters()])
