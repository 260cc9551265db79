"""The segmentation network: shapes, and the projection that replaces a concatenation."""

import torch
import torch.nn.functional as F

from dmdd.models.segmentation import SegmentationNetwork

CHANNELS = (6, 10, 14)


def features(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, c, 64 // s, 96 // s, generator=generator) for c, s in zip(CHANNELS, (4, 8, 16), strict=True)]


def test_logits_are_at_stride_4():
    network = SegmentationNetwork(channels=CHANNELS, width=8)
    assert network(features(0), features(1), features(2)).shape == (2, 1, 16, 24)


def test_begins_by_calling_few_pixels_anomalous():
    torch.manual_seed(0)
    network = SegmentationNetwork(channels=CHANNELS, width=16).eval()
    with torch.no_grad():
        share = torch.sigmoid(network(features(0), features(1), features(2))).mean()
    assert 0.005 < share < 0.06


def test_projection_equals_upsampling_and_concatenating_first():
    torch.manual_seed(0)
    network = SegmentationNetwork(channels=CHANNELS, width=8).eval()
    teacher, normality, abnormality = features(0), features(1), features(2)
    seen = {}
    network.enter.register_forward_pre_hook(lambda module, inputs: seen.update(x=inputs[0]))
    with torch.no_grad():
        network(teacher, normality, abnormality)
    stacked = []
    for t, n, a in zip(teacher, normality, abnormality, strict=True):
        unit = [x / x.norm(dim=1, keepdim=True) for x in (t, n, a)]
        both = torch.cat([-unit[0] * unit[1], -unit[0] * unit[2]], 1) * t.shape[1]
        stacked.append(F.interpolate(both, size=(16, 24), mode="bilinear", align_corners=False))
    weight = torch.cat([p.weight for p in network.project], 1)
    expected = F.conv2d(torch.cat(stacked, 1), weight)
    assert torch.allclose(seen["x"], expected, atol=1e-4)


def test_scale_of_the_features_does_not_matter():
    torch.manual_seed(0)
    network = SegmentationNetwork(channels=CHANNELS, width=8).eval()
    teacher, normality, abnormality = features(0), features(1), features(2)
    with torch.no_grad():
        once = network(teacher, normality, abnormality)
        scaled = network([3 * t for t in teacher], normality, [0.5 * a for a in abnormality])
    assert torch.allclose(once, scaled, atol=1e-4)
