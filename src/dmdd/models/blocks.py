"""The few convolution blocks that student and segmentation network are made of."""

import torch.nn.functional as F
from torch import Tensor, nn


def conv_norm_act(inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Build convolution, batch norm and ReLU; the padding keeps ``H / stride``.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        kernel: Odd kernel size in pixels.
        stride: Stride in pixels.
        dilation: Dilation in pixels.

    Returns:
        A module from ``(B, inputs, H, W)`` to ``(B, outputs, H / stride, W / stride)``.
    """
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut, as in ResNet-18.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        stride: Stride of the first convolution; the shortcut is a 1x1 convolution where the shape changes.

    Source: He et al., CVPR 2016.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__()
        self.first = conv_norm_act(inputs, outputs, stride=stride)
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, inputs, H, W)`` to ``(B, outputs, H / stride, W / stride)``."""
        return F.relu(self.second(self.first(x)) + self.shortcut(x))


def upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge ``(B, C, h, w)`` to ``size`` in pixels, bilinearly, corners not aligned."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
