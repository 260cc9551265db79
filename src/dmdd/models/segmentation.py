"""The multi-perception segmentation network: fuses what teacher and student disagree on into one logit map."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmdd.core.errors import UserError
from dmdd.models.blocks import conv_norm_act, upsample

INPUTS = ("products", "whitened")


class ChannelAttention(nn.Module):
    """Weigh channels by a small network over their global mean and maximum.

    Args:
        channels: Channels.
        reduction: Factor by which the hidden layer is narrower.

    Source: the channel half of CBAM (Woo et al., ECCV 2018).
    """

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.network = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, h, w)`` to the same shape."""
        weight = self.network(x.mean((2, 3), keepdim=True)) + self.network(x.amax((2, 3), keepdim=True))
        return x * torch.sigmoid(weight)


class SpatialAttention(nn.Module):
    """Weigh pixels by a 7x7 convolution over the channels' mean and maximum.

    Source: the spatial half of CBAM (Woo et al., ECCV 2018).
    """

    def __init__(self) -> None:
        super().__init__()
        self.weigh = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, h, w)`` to the same shape."""
        summary = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.weigh(summary))


class SegmentationNetwork(nn.Module):
    """Parallel branches of different receptive fields, each with channel and spatial attention, fused to a logit map.

    Args:
        channels: Teacher channels at strides 4, 8, 16.
        width: Channels inside.
        dilations: One branch a dilation, in pixels at stride 4.
        inputs: What it is given of the normality features: ``products`` with the teacher's, or the sizes of
            ``whitened`` residuals, which on textures it generalises from better (docs/maps.md).

    Raises:
        UserError: ``inputs`` is neither of the two.

    Source: paper (fusion with multiple attention, several receptive fields); layout and ``products`` reconstructed,
    ``whitened`` ours.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        width: int = 64,
        dilations: Sequence[int] = (1, 2, 6, 12),
        inputs: str = "products",
    ) -> None:
        super().__init__()
        if inputs not in INPUTS:
            raise UserError(f"segmentation.inputs={inputs}: choose one of {', '.join(INPUTS)}")
        self.inputs = inputs
        # Projected at each level's own size: a 1x1 convolution over the concatenation of upsampled levels is the sum of
        # the upsampled projections, and this way the wide levels never exist at stride 4.
        self.project = nn.ModuleList(nn.Conv2d(2 * c, width, 1, bias=False) for c in channels)
        self.enter = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.branches = nn.ModuleList(
            nn.Sequential(conv_norm_act(width, width, dilation=d), ChannelAttention(width), SpatialAttention())
            for d in dilations
        )
        self.fuse = nn.Sequential(
            conv_norm_act(len(dilations) * width, width, 1), conv_norm_act(width, width), nn.Conv2d(width, 1, 1)
        )
        # The prior of a pixel to be anomalous, about 2 %: without it the first steps only learn the class imbalance.
        nn.init.constant_(self.fuse[-1].bias, -4.0)  # type: ignore[arg-type]
        self.spec: dict[str, Any] = {"width": int(width), "dilations": [int(d) for d in dilations], "inputs": inputs}

    def forward(
        self,
        teacher: list[Tensor],
        normality: list[Tensor],
        abnormality: list[Tensor],
        residuals: list[Tensor] | None = None,
    ) -> Tensor:
        """Fuse the disagreement of teacher and student.

        Args:
            teacher: Features ``(B, C_l, h_l, w_l)`` at strides 4, 8, 16.
            normality: The student's normality features, same shapes.
            abnormality: The student's abnormality features, same shapes.
            residuals: Whitened residuals of teacher and normality features, same shapes; only ``inputs=whitened``
                needs them.

        Returns:
            Logits ``(B, 1, H/4, W/4)``; their sigmoid is the probability that a pixel is anomalous.
        """
        size = (teacher[0].shape[-2], teacher[0].shape[-1])
        total: Tensor | int = 0
        for level, (project, t, n, a) in enumerate(zip(self.project, teacher, normality, abnormality, strict=True)):
            # Entries of the products are of the order 1 / C_l; scaled by C_l the levels reach the projection at one
            # size, which is that of whitened residuals too.
            t = -t.shape[1] * F.normalize(t, dim=1)
            if self.inputs == "products":
                first = t * F.normalize(n, dim=1)
            elif residuals is not None:
                first = compress(residuals[level])
            else:
                raise ValueError("segmentation.inputs=whitened: residuals are missing")
            total = total + upsample(project(torch.cat([first, t * F.normalize(a, dim=1)], dim=1)), size)
        x = self.enter(total)
        return self.fuse(torch.cat([branch(x) for branch in self.branches], dim=1))


def compress(residuals: Tensor) -> Tensor:
    """Give ``log(1 + |r|)`` of whitened residuals: a size without a sign, in which one far outlier does not decide."""
    return (residuals.abs() + 1).log()
