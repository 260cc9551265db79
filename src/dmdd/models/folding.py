"""Batch norms folded into the convolutions before them: the same function with fewer steps."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


def fold_batch_norms(module: nn.Module, *inputs: Any) -> int:
    """Fold every batch norm that is fed by a convolution, in place.

    Which convolution feeds which batch norm is seen by running the module once, not guessed from names: teachers come
    from a library with many families. What is fed by something else stays as it is.

    Args:
        module: In evaluation mode.
        inputs: For one forward pass.

    Returns:
        How many were folded.

    Source: ours; the arithmetic is PyTorch's ``fuse_conv_bn_weights``.
    """
    pairs = _find_pairs(module, inputs)
    parents = {id(child): (parent, name) for parent in module.modules() for name, child in parent.named_children()}
    for convolution, norm in pairs:
        assert norm.running_mean is not None  # as _find_pairs chose them
        assert norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            convolution.weight,
            convolution.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        convolution.weight, convolution.bias = nn.Parameter(weight), nn.Parameter(bias)
        parent, name = parents[id(norm)]
        # timm's batch norms carry the activation that follows.
        rest = [getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part)]
        setattr(parent, name, nn.Sequential(*rest) if rest else nn.Identity())
    module.requires_grad_(False)
    return len(pairs)


def _find_pairs(module: nn.Module, inputs: tuple[Any, ...]) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    # Tensors are kept, since the identity of one that is gone may be given to another.
    outputs: list[tuple[Tensor, nn.Conv2d]] = []
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def remember(convolution: nn.Conv2d, arguments: Any, output: Tensor) -> None:
        outputs.append((output, convolution))

    def look_up(norm: nn.BatchNorm2d, arguments: tuple[Tensor, ...]) -> None:
        pairs.extend((convolution, norm) for output, convolution in outputs if output is arguments[0])

    hooks: list[Any] = []
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            hooks.append(part.register_forward_hook(remember))
        elif isinstance(part, nn.BatchNorm2d) and part.running_mean is not None:
            hooks.append(part.register_forward_pre_hook(look_up))
    try:
        with torch.no_grad():
            module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return pairs
