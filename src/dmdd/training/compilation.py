"""The arithmetic of a step through ``torch.compile``: fewer, larger kernels, and on a GPU one launch for all."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

BACKEND = "inductor"

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Network = TypeVar("Network", bound=nn.Module)


def _how(device: torch.device) -> dict[str, Any]:
    # A graph break would leave a step partly as it was and say nothing: fullgraph makes it an error.
    # reduce-overhead are CUDA graphs, whose shapes are fixed, as those of a step are.
    mode = "reduce-overhead" if device.type == "cuda" and BACKEND == "inductor" else None
    return {"backend": BACKEND, "fullgraph": True, "dynamic": False, "mode": mode}


def compile_function(function: Callable[Arguments, Result], device: torch.device) -> Callable[Arguments, Result]:
    """Compile a function of networks and tensors; the networks stay as they are, and so do the names of their weights.

    Args:
        function: Of tensors of the same shapes in each call; compiled in the first one, which may take minutes.
        device: Where it computes.

    Returns:
        The same function but for rounding.
    """
    return torch.compile(function, **_how(device))


def compile_copy(network: Network, device: torch.device) -> Network:
    """Compile a copy of a frozen network, so that the network itself goes on to take inputs of any size.

    Args:
        network: Frozen, where it is to compute.
        device: Where that is.

    Returns:
        The copy.
    """
    copy = deepcopy(network)
    copy.compile(**_how(device))
    return copy


def begin_step() -> None:
    """Let CUDA graphs use the memory of the step before again, which ends with the call of this."""
    torch.compiler.cudagraph_mark_step_begin()


def forget_compiled() -> None:
    """Give back the memory that compiled code holds."""
    torch.compiler.reset()
