"""The student: a body that produces initial features, and two branches a level, normality and abnormality."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dmdd.core.doors import find_opened
from dmdd.core.errors import UserError
from dmdd.models.blocks import ResidualBlock, conv_norm_act, upsample


class Decoder(nn.Module):
    """Decode a stride-32 bottleneck into initial features at strides 16, 8 and 4, without skip connections.

    Skips would let an anomaly pass around the bottleneck, which is there to forget it.

    Args:
        bottleneck: Channels at stride 32.
        widths: Channels at strides 4, 8, 16.

    Source: ours, after RD4AD (Deng and Li, CVPR 2022) and DeSTSeg (Zhang et al., CVPR 2023).
    """

    def __init__(self, bottleneck: int, widths: Sequence[int]) -> None:
        super().__init__()
        channels = (bottleneck, *reversed(widths))
        self.reduce = nn.ModuleList(conv_norm_act(i, o, 1) for i, o in itertools.pairwise(channels))
        self.refine = nn.ModuleList(ResidualBlock(width, width) for width in reversed(widths))

    def forward(self, bottleneck: Tensor) -> list[Tensor]:
        """Map ``(B, bottleneck, H/32, W/32)`` to ``[(B, widths[l], H/s, W/s) for s in 4, 8, 16]``."""
        features, x = [], bottleneck
        for reduce, refine in zip(self.reduce, self.refine, strict=True):
            x = reduce(x)  # before the upsampling: a 1x1 convolution commutes with it and is four times cheaper here
            x = refine(upsample(x, (2 * x.shape[-2], 2 * x.shape[-1])))
            features.append(x)
        return features[::-1]


class ReverseBody(nn.Module):
    """Fuse the three teacher levels into a stride-32 bottleneck and decode it.

    Args:
        channels: Teacher channels at strides 4, 8, 16.
        widths: Channels of the initial features at strides 4, 8, 16.

    Source: reconstructed, after RD4AD's multi-scale fusion and one-class bottleneck.
    """

    def __init__(self, *, channels: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        low, middle, high = channels
        _, width, top = widths
        self.from_low = nn.Sequential(conv_norm_act(low, width, stride=2), conv_norm_act(width, width, stride=2))
        self.from_middle = conv_norm_act(middle, width, stride=2)
        self.from_high = conv_norm_act(high, width, 1)
        self.bottleneck = nn.Sequential(ResidualBlock(3 * width, 2 * top, stride=2), ResidualBlock(2 * top, 2 * top))
        self.decoder = Decoder(2 * top, widths)

    def forward(self, images: Tensor, features: list[Tensor]) -> list[Tensor]:
        """Map the teacher's features to initial features; ``images`` are not used.

        Args:
            images: ``(B, 3, H, W)``.
            features: Teacher features ``(B, C_l, H/s, W/s)`` of the same images.

        Returns:
            Initial features ``(B, widths[l], H/s, W/s)`` at strides 4, 8, 16.
        """
        low, middle, high = features
        fused = torch.cat([self.from_low(low), self.from_middle(middle), self.from_high(high)], dim=1)
        return self.decoder(self.bottleneck(fused))


class EncoderDecoderBody(nn.Module):
    """Encode the image itself to stride 32 and decode it.

    Args:
        channels: Teacher channels; not used, the input is the image.
        widths: Channels of encoder and initial features at strides 4, 8, 16.

    Source: reconstructed, after DeSTSeg's denoising student.
    """

    def __init__(self, *, channels: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        del channels
        low, middle, top = widths
        self.stem = nn.Sequential(conv_norm_act(3, low, 7, stride=2), conv_norm_act(low, low, stride=2))
        self.encoder = nn.Sequential(
            ResidualBlock(low, low),
            ResidualBlock(low, middle, stride=2),
            ResidualBlock(middle, top, stride=2),
            ResidualBlock(top, 2 * top, stride=2),
        )
        self.decoder = Decoder(2 * top, widths)

    def forward(self, images: Tensor, features: list[Tensor]) -> list[Tensor]:
        """Map images in [0, 1] to initial features; the teacher's ``features`` are not used.

        Args:
            images: ``(B, 3, H, W)`` in [0, 1].
            features: Teacher features of the same images.

        Returns:
            Initial features ``(B, widths[l], H/s, W/s)`` at strides 4, 8, 16.
        """
        images = images.to(next(self.parameters()).dtype)  # float32 as they are made, also for float64 weights
        return self.decoder(self.encoder(self.stem(2 * images - 1)))


BODIES: dict[str, type[ReverseBody] | type[EncoderDecoderBody]] = {
    "reverse": ReverseBody,
    "encoder_decoder": EncoderDecoderBody,
}


def find_body(name: str) -> type[nn.Module]:
    """Find the class of a body.

    Args:
        name: A key of ``BODIES``, or ``PACKAGE.CLASS`` of a package that the user allows (:mod:`dmdd.core.doors`): a
            module with the arguments ``channels`` and ``widths``, called as :class:`ReverseBody` is.

    Returns:
        The class.

    Raises:
        UserError: There is no such body, its package is not allowed, or it is no ``torch.nn.Module``.
    """
    if name in BODIES:
        return BODIES[name]
    if "." not in name:
        raise UserError(f"student.body={name}: choose one of {', '.join(BODIES)}, or PACKAGE.CLASS (docs/extending.md)")
    found = find_opened(name)
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        raise UserError(f"student.body={name}: expected a subclass of torch.nn.Module")
    return found


class DecoupleHead(nn.Module):
    """Expand one level's initial features with a 1x1 convolution and split them into two branches of equal capacity.

    Args:
        width: Channels of the initial features.
        channels: Channels of the teacher at this level.

    Source: paper (1x1 expansion, split, equal capacity); the 3x3 layer and the ending in the teacher's channels are
    reconstructed.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.expand = conv_norm_act(width, 2 * width, 1)
        self.normality = nn.Sequential(conv_norm_act(width, width), nn.Conv2d(width, channels, 1))
        self.abnormality = nn.Sequential(conv_norm_act(width, width), nn.Conv2d(width, channels, 1))

    def forward(self, initial: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(B, width, h, w)`` to normality and abnormality features, each ``(B, channels, h, w)``."""
        first, second = self.expand(initial).chunk(2, dim=1)
        return self.normality(first), self.abnormality(second)


class Student(nn.Module):
    """Decoupled student: initial features from a body, then normality and abnormality features at each level.

    Args:
        channels: Teacher channels at strides 4, 8, 16; both branches end with them.
        body: ``reverse`` (sees the teacher's features), ``encoder_decoder`` (sees the image), or the dotted name of a
            class of another package, see :func:`find_body`.
        widths: Channels of the initial features at strides 4, 8, 16.

    Raises:
        UserError: There is no such body, or ``widths`` are not three positive numbers.

    Source: paper (decouple student-teacher network); bodies reconstructed.
    """

    def __init__(
        self, *, channels: Sequence[int], body: str = "reverse", widths: Sequence[int] = (64, 96, 160)
    ) -> None:
        super().__init__()
        if len(widths) != 3 or min(widths) < 1:
            raise UserError(f"student.widths={list(widths)}: give three positive numbers, for strides 4, 8 and 16")
        self.body = find_body(body)(channels=channels, widths=widths)
        self.heads = nn.ModuleList(DecoupleHead(w, c) for w, c in zip(widths, channels, strict=True))
        self.spec: dict[str, Any] = {"body": body, "widths": [int(width) for width in widths]}

    def forward(self, images: Tensor, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Compute both kinds of features.

        Args:
            images: ``(B, 3, H, W)`` in [0, 1], RGB.
            features: Teacher features of the same images, ``(B, C_l, H/s, W/s)`` at strides 4, 8, 16.

        Returns:
            Normality and abnormality features, each a list with the shapes of ``features``.
        """
        pairs = [head(x) for head, x in zip(self.heads, self.body(images, features), strict=True)]
        return [normality for normality, _ in pairs], [abnormality for _, abnormality in pairs]
