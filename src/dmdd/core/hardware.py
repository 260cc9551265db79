"""What depends on the machine: devices, precision, and what a result records about both."""

import ctypes
import os
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dmdd.core.errors import UserError


def resolve_accelerator(accelerator: str, *, setting: str = "trainer.accelerator") -> str:
    """Turn ``auto`` into ``gpu`` where CUDA is, else ``cpu``.

    Args:
        accelerator: ``auto``, ``gpu``, ``cuda`` or ``cpu``.
        setting: What to call it in the message.

    Returns:
        ``gpu`` or ``cpu``.

    Raises:
        UserError: It is another; Lightning knows ``mps``, ``tpu`` and ``hpu`` too.
    """
    if accelerator == "auto":
        return "gpu" if torch.cuda.is_available() else "cpu"
    if accelerator not in ("gpu", "cuda", "cpu"):
        raise UserError(f"{setting}={accelerator}: choose one of gpu (CUDA or ROCm), cpu, auto")
    return "gpu" if accelerator == "cuda" else accelerator


_switching, _inside, _switch_back = threading.Lock(), 0, lambda: None


@contextmanager
def whole_float32() -> Iterator[None]:
    """Compute float32 in float32: cuDNN's default is TF32, which keeps 10 of the 23 bits of what goes in.

    Matrix products are so by default, but a program may have chosen TF32 or bfloat16 for them, as Lightning advises.
    Scores and thresholds would depend on the device by more than rounding. It holds for the whole process: the first
    thread that enters switches, the last that leaves switches back.

    Source: ours.
    """
    global _inside, _switch_back
    with _switching:
        _inside += 1
        if _inside == 1:
            _switch_back = _forbid_tf32()
    try:
        yield
    finally:
        with _switching:
            _inside -= 1
            if _inside == 0:
                _switch_back()


def _forbid_tf32() -> Callable[[], None]:
    """Switch less than float32 off; gives what puts the settings back."""
    convolutions, products = _forbid_for_convolutions(), _forbid_for_products()

    def switch_back() -> None:
        convolutions()
        products()

    return switch_back


# torch has two ways to say it and refuses to read the older once the newer was used: the older one where it can be.
def _forbid_for_convolutions() -> Callable[[], None]:
    cudnn: Any = torch.backends.cudnn
    try:
        before = cudnn.allow_tf32
    except RuntimeError:
        before, cudnn.conv.fp32_precision = cudnn.conv.fp32_precision, "ieee"
        return lambda: setattr(cudnn.conv, "fp32_precision", before)
    cudnn.allow_tf32 = False
    return lambda: setattr(cudnn, "allow_tf32", before)


def _forbid_for_products() -> Callable[[], None]:
    matmul: Any = torch.backends.cuda.matmul
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:
        chosen, matmul.fp32_precision = matmul.fp32_precision, "ieee"
        return lambda: setattr(matmul, "fp32_precision", chosen)
    if before == "highest":
        return lambda: None
    torch.set_float32_matmul_precision("highest")
    return lambda: torch.set_float32_matmul_precision(before)


PRECISIONS = ("32-true", "16-mixed", "bf16-mixed", "64-true")


def resolve_precision(precision: object, accelerator: str, *, setting: str = "trainer.precision") -> str:
    """Turn ``auto`` into what the device computes fastest.

    That is ``bf16-mixed`` where there are instructions for bfloat16; else ``16-mixed`` on a GPU, ``32-true`` on a CPU.

    Args:
        precision: One of ``PRECISIONS``, or a shorter name that Lightning has for it, or ``auto``.
        accelerator: ``gpu`` or ``cpu``.
        setting: What to call it in the message.

    Returns:
        One of ``PRECISIONS``.

    Raises:
        UserError: It is none of them. Weights of half precision (``bf16-true``) are none: the pairs and the levels of
            normal images are float32.
    """
    if precision != "auto":
        name = {"64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}.get(str(precision), precision)
        if name not in PRECISIONS:
            raise UserError(f"{setting}={precision}: choose one of {', '.join(PRECISIONS)}, auto")
        if name == "16-mixed" and accelerator == "cpu":
            return "bf16-mixed"  # what Lightning would make of it, and say so
        return str(name)
    if accelerator == "gpu":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"  # before Ampere
    return "bf16-mixed" if {"amx_bf16", "avx512_bf16"} & _cpu_flags() else "32-true"


def _cpu_flags() -> set[str]:
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return set()
    for line in info.read_text(encoding="utf-8").splitlines():
        if line.startswith("flags"):
            return set(line.split())
    return set()


def keep_freed_memory() -> bool:
    """Let the C library keep what tensors on the CPU free, for the next ones.

    Otherwise it gives large blocks back to the kernel, which fills their pages with zeros when they are wanted again,
    in every step: about 7 % of a step of recipe=cpu on one thread. The process holds to its end what it needed at its
    peak.

    Returns:
        Whether it will; only glibc can be told.

    Source: ours.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 2**30)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def describe_device(accelerator: str) -> str:
    """Name the device, e.g. ``NVIDIA H100`` or the processor with its cores.

    Args:
        accelerator: ``gpu`` or ``cpu``.

    Returns:
        One line.
    """
    if accelerator == "gpu":
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.partition(":")[2].strip() for line in info.read_text("utf-8").splitlines() if "model name" in line
        ]
        name = names[0] if names else name
    return f"{name}, {os.cpu_count()} cores"
