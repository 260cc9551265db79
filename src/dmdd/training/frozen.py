"""Copies of frozen networks for training in half precision, whose weights need no cast in each step."""

from copy import deepcopy
from typing import TypeVar

import torch
from torch import nn

HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
CAST = (nn.Conv2d, nn.Linear)
"""What autocast casts whole, input, weight and bias. Not their subclasses, which may do more with a weight."""

Network = TypeVar("Network", bound=nn.Module)


def for_training(network: Network, precision: object) -> Network:
    """Give a frozen network in the form that a step in a precision is fastest with.

    Autocast remembers the casts of trained weights within a step, but casts frozen ones in each call: for a
    WideResNet-50-2 40 launches and 150 MB. The copy computes the same bits.

    Args:
        network: Frozen, where it is to compute; stays as it is.
        precision: The trainer's.

    Returns:
        A copy of it for half precision, else itself.
    """
    dtype = HALF.get(str(precision))
    if dtype is None:
        return network
    copy = deepcopy(network)
    for module in copy.modules():
        if type(module) in CAST:
            module.to(dtype)
    return copy
