"""Parts of the network written for speed: the same functions with fewer and cheaper steps.

Together 27.3 to 25.3 ms an image of 320 px in OpenVINO, measured in one run on two cores (EfficientNet-Lite0, 256 px).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmdd.models.blocks import upsample
from dmdd.models.segmentation import SegmentationNetwork, compress
from dmdd.models.student import DecoupleHead
from dmdd.models.whitening import ResidualWhitening

EPSILON = 1e-12
"""That of ``F.normalize``, which the segmentation network uses."""


class SplitHead(nn.Module):
    """A decouple head whose expansion is two convolutions: no tensor is made only to be cut in two.

    Args:
        head: With folded batch norms.

    Source: ours.
    """

    def __init__(self, head: DecoupleHead) -> None:
        super().__init__()
        convolution: Any
        convolution, *rest = head.expand
        self.first, self.second = split_outputs(convolution, 2)
        self.rest = nn.Sequential(*rest)
        self.normality, self.abnormality = head.normality, head.abnormality

    def forward(self, initial: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(B, width, h, w)`` to normality and abnormality features, each ``(B, channels, h, w)``."""
        return self.normality(self.rest(self.first(initial))), self.abnormality(self.rest(self.second(initial)))


class FastSegmentation(nn.Module):
    """The segmentation network without the copies: features are scaled to length one after the projection.

    A length is one number a pixel and a 1x1 convolution is linear, so dividing its few outputs is dividing its many
    inputs. Concatenations that only feed a convolution are sums of convolutions.

    Args:
        network: With folded batch norms.
        whitening: The detector's; None where neither network nor maps use whitened residuals.

    Source: ours.
    """

    def __init__(self, network: SegmentationNetwork, whitening: ResidualWhitening | None = None) -> None:
        super().__init__()
        self.inputs = network.inputs
        self.whiten = nn.ModuleList() if whitening is None else nn.ModuleList(whitening_layers(whitening))
        projects: Any = network.project
        self.normality = nn.ModuleList(split_inputs(project, 2)[0] for project in projects)
        self.abnormality = nn.ModuleList(split_inputs(project, 2)[1] for project in projects)
        self.enter, self.branches = network.enter, network.branches
        first: Any = network.fuse[0]
        convolution, *rest = first
        self.merge = split_inputs(convolution, len(network.branches))
        self.rest = nn.Sequential(*rest, *network.fuse[1:])

    def forward(
        self, teacher: list[Tensor], normality: list[Tensor], abnormality: list[Tensor]
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Fuse the disagreement of teacher and student to logits, as ``SegmentationNetwork.forward``.

        Args:
            teacher: ``(B, C_l, h_l, w_l)`` at strides 4, 8, 16.
            normality: Same shapes.
            abnormality: Same shapes.

        Returns:
            Logits ``(B, 1, h_1, w_1)``, and what it needed on the way, ``(B, 1, h_l, w_l)`` for each level: the cosine
            distance of normality and teacher, and the Mahalanobis distance of their whitened residuals, if there are.
        """
        size = (teacher[0].shape[-2], teacher[0].shape[-1])
        total: Tensor | int = 0
        cosines, lengths = [], []
        levels = zip(self.normality, self.abnormality, teacher, normality, abnormality, strict=True)
        for level, (from_normality, from_abnormality, t, n, a) in enumerate(levels):
            size_t, size_n, product = length(t), length(n), t * n
            cosines.append((1 - channel_sum(product) / (size_t * size_n)).clamp(min=0))
            factor = size_t.new_full((), -t.shape[1]) / size_t  # a number divided would be a Reciprocal
            if len(self.whiten):
                whitened = self.whiten[level](t / size_t - n / size_n)
                lengths.append((channel_sum(whitened * whitened) / t.shape[1]).sqrt())
            if self.inputs == "whitened":
                first = from_normality(compress(whitened))
            else:
                first = from_normality(product) * (factor / size_n)
            second = from_abnormality(t * a) * (factor / length(a))
            total = total + upsample(first + second, size)
        x = self.enter(total)
        parts = [merge(branch(x)) for merge, branch in zip(self.merge, self.branches, strict=True)]
        return self.rest(sum(parts[1:], parts[0])), cosines, lengths


def whitening_layers(whitening: ResidualWhitening) -> list[nn.Conv2d]:
    """Write the whitening of each level as a 1x1 convolution: ``M (r - mean)`` is ``M r`` and a bias."""
    gaussians = [whitening.gaussian(level) for level in range(whitening.levels)]
    return [_pointwise(matrix[:, :, None, None], -(matrix @ mean)) for mean, matrix in gaussians]


def channel_sum(features: Tensor) -> Tensor:
    """Add up the channels, ``(B, C, h, w)`` to ``(B, 1, h, w)``.

    As a convolution, since runtimes keep its operands in their own layout; before a reduction they copy them.
    """
    return F.conv2d(features, torch.ones(1, features.shape[1], 1, 1, device=features.device))


def length(features: Tensor) -> Tensor:
    """Give the length of each pixel's feature vector, ``(B, 1, h, w)``, bounded from zero."""
    return channel_sum(features * features).sqrt().clamp(min=EPSILON)


def split_outputs(convolution: nn.Conv2d, count: int) -> list[nn.Conv2d]:
    """Cut a 1x1 convolution into several that each give a part of its channels."""
    weights = convolution.weight.chunk(count, dim=0)
    biases = [None] * count if convolution.bias is None else convolution.bias.chunk(count)
    return [_pointwise(weight, bias) for weight, bias in zip(weights, biases, strict=True)]


def split_inputs(convolution: nn.Conv2d, count: int) -> nn.ModuleList:
    """Cut a 1x1 convolution into several that each take a part of its channels; their sum is what it gives."""
    weights = convolution.weight.chunk(count, dim=1)
    biases = [convolution.bias, *[None] * (count - 1)]
    return nn.ModuleList(_pointwise(weight, bias) for weight, bias in zip(weights, biases, strict=True))


def _pointwise(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    part = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias is not None)
    part.weight = nn.Parameter(weight.clone(), requires_grad=False)
    if bias is not None:
        part.bias = nn.Parameter(bias.clone(), requires_grad=False)
    return part
