"""A GPU that is not there: tensors that say they are on one and compute on the CPU.

What would fail on a GPU for want of a transfer fails here: operations that mix devices, ``numpy()`` of its tensors.
What would make the program wait for a GPU is noted: values read back, and transfers that are not ``non_blocking``.
Not covered: backward passes (autograd asks the driver), the arithmetic of its kernels, memory, several of them.
"""

import collections
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

GPU = torch.device("cuda", 0)
_CPU = torch.device("cpu")
_OPS = torch.ops.aten
# A GPU's tensor may be indexed by indices on the CPU; that is a transfer.
_INDEXING = (_OPS.index.Tensor, _OPS.index_put.default, _OPS.index_put_.default, _OPS._index_put_impl_.default)
# Their answer, or its size, is not known before it is computed.
_READING = {
    *(_OPS._local_scalar_dense, _OPS.nonzero, _OPS.equal, _OPS._unique2, _OPS.unique_consecutive),
    *(_OPS.masked_select, _OPS.repeat_interleave, _OPS.bincount),
}


class StandIn(torch.Tensor):
    """A tensor of the GPU; ``held`` has its values."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, real: torch.Tensor) -> "StandIn":
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            real.size(),
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            device=_CPU,
            dispatch_device=True,
        )
        tensor.held = real
        return tensor

    def __repr__(self) -> str:
        return f"StandIn({self.held})"

    def tolist(self) -> Any:
        _note("tolist")
        return self.held.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Sees what makes new tensors, too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


WAITS: list[str] = []
"""Where the program would have waited for the GPU: operation, file and line."""


LAUNCHES: collections.Counter[str] = collections.Counter()
"""Kernels that a GPU would have been given, by operation: what computes or copies, not views and not bare memory."""


def _note(operation: str) -> None:
    own = [f for f in traceback.extract_stack() if "/dmdd/" in f.filename]
    WAITS.append(f"{operation} {own[-1].filename.rpartition('/dmdd/')[2]}:{own[-1].lineno}" if own else operation)


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if func is torch.ops.prim.device.default:
        return GPU
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):  # in inference mode
        with _Mode():
            return func.decompose(*args, **kwargs)
    flat, layout = tree_flatten((args, kwargs))
    tensors = [value for value in flat if isinstance(value, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, StandIn)]
    copies = func in (_OPS._to_copy.default, _OPS.copy_.default)
    if copies and func is _OPS.copy_.default:
        target_there = isinstance(args[0], StandIn)
    elif kwargs.get("device") is not None:
        target_there = torch.device(kwargs["device"]).type == "cuda"
    else:
        target_there = bool(there)
    _check(func, args, tensors, copies=copies)
    if copies:
        source_there = isinstance(args[-1 if func is _OPS._to_copy.default else 1], StandIn)
        blocking = not (kwargs.get("non_blocking") or (func is _OPS.copy_.default and args[2:3] == (True,)))
        if source_there != target_there and (source_there or blocking):
            _note("from the GPU" if source_there else "to the GPU")
    elif there and (func.overloadpacket in _READING or _takes_a_mask(func, args)):
        _note(str(func))
    if target_there and not _is_view(func):
        LAUNCHES[func.name()] += 1
    real = [v.held if isinstance(v, StandIn) else _CPU if isinstance(v, torch.device) else v for v in flat]
    real_args, real_kwargs = tree_unflatten(real, layout)
    found = func(*real_args, **real_kwargs)

    def back(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        for tensor in tensors:  # in place
            if value is (tensor.held if isinstance(tensor, StandIn) else tensor):
                return tensor
        return StandIn(value) if target_there else value

    return tree_map(back, found)


def _is_view(func: Any) -> bool:
    returned = [result.alias_info for result in func._schema.returns]
    views = any(alias is not None and not alias.is_write for alias in returned)
    return views or func.overloadpacket in (_OPS.empty, _OPS.empty_like, _OPS.empty_strided, _OPS.detach)


def _takes_a_mask(func: Any, args: Any) -> bool:
    """Whether a tensor is indexed by booleans, which are counted first."""
    masks = (torch.bool, torch.uint8)
    return func in _INDEXING and any(isinstance(index, StandIn) and index.dtype in masks for index in args[1])


def _check(func: Any, args: Any, tensors: list[torch.Tensor], *, copies: bool) -> None:
    """Refuse what a GPU refuses: tensors of both devices, unless those on the CPU are numbers or indices."""
    here = [tensor for tensor in tensors if not isinstance(tensor, StandIn)]
    if copies or not here or len(here) == len(tensors):
        return
    if func in _INDEXING and isinstance(args[0], StandIn):
        indices = [index for index in args[1] if index is not None]
        if any(not isinstance(index, StandIn) for index in indices):
            _note("index to the GPU")
        here = [tensor for tensor in here if not any(tensor is index for index in indices)]
    if any(tensor.dim() for tensor in here) or not isinstance(tensors[0], StandIn):
        raise RuntimeError(f"Expected all tensors to be on the same device: {func}")


@contextmanager
def stand_in_gpu() -> Iterator[list[str]]:
    """Let there be a device ``cuda``; gives the list of waits."""
    swapping, starting = torch.__future__.get_swap_module_params_on_conversion(), torch.cuda._lazy_init
    torch._C._ensureCUDADeviceGuardSet()
    torch.__future__.set_swap_module_params_on_conversion(True)
    torch._C._set_only_lift_cpu_tensors(True)
    torch.cuda._lazy_init = lambda: None
    WAITS.clear()
    LAUNCHES.clear()
    try:
        with torch.backends.cudnn.flags(enabled=False), _Mode():
            yield WAITS
    finally:
        torch.cuda._lazy_init = starting
        torch._C._set_only_lift_cpu_tensors(False)
        torch.__future__.set_swap_module_params_on_conversion(swapping)
