"""What depends on the machine: devices, precision, and what a result records about both."""

import ctypes
import itertools
import os
import platform
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from dmdd.errors import UserError, check_positive

RECORDED_PACKAGES = ("dmdd", "torch", "torchvision", "lightning", "timm", "torchmetrics", "albumentations", "numpy")


def resolve_accelerator(accelerator: str) -> str:
    """Turn ``auto`` into ``gpu`` where CUDA is, else ``cpu``.

    Args:
        accelerator: As for ``lightning.Trainer``.

    Returns:
        ``gpu``, ``cpu``, or what was asked for.
    """
    if accelerator == "auto":
        return "gpu" if torch.cuda.is_available() else "cpu"
    return "gpu" if accelerator == "cuda" else accelerator


STEP_COUNTERS = (
    *("accumulate_grad_batches", "fast_dev_run", "limit_train_batches", "max_epochs", "max_steps", "max_time"),
    *("min_epochs", "min_steps", "overfit_batches"),
)
"""Arguments of a trainer that change how many batches a stage sees; a stage here is its steps, one batch each."""

BATCH_LIMITS = ("limit_test_batches", "limit_val_batches", "limit_predict_batches")
"""Arguments of a trainer that leave images out of what is measured."""

SET_BY_US = {
    "barebones": "leave it out",
    "callbacks": "use callbacks.NAME=",
    "check_val_every_n_epoch": "leave it out, the validation comes once, after training",
    "default_root_dir": "use hydra.run.dir=",
    "enable_checkpointing": "use save_state_every_n_steps=",
    "enable_model_summary": "leave it out",
    "logger": "use logger=",
    "num_sanity_val_steps": "leave it out",
    "reload_dataloaders_every_n_epochs": "leave it out, a stage is one epoch",
    "use_distributed_sampler": "leave it out, each device gets images of its own",
    "val_check_interval": "leave it out, the validation comes once, after training",
}
"""Arguments of a trainer that a run sets itself, so that another value would do nothing, and what to use instead."""


def check_trainer(trainer: Mapping[str, Any]) -> None:
    """Refuse arguments that would end a stage early, measure a part of the images only, or do nothing.

    Args:
        trainer: The arguments of ``lightning.Trainer``.

    Raises:
        UserError: One of ``STEP_COUNTERS``, ``BATCH_LIMITS`` or ``SET_BY_US`` is among them, or more than one machine
            is asked for.
    """
    for name in BATCH_LIMITS:
        value = trainer.get(name)
        # Lightning takes 1 as one batch and 1.0 as all of them.
        if not (value is None or (isinstance(value, float) and value == 1)):
            raise UserError(
                f"trainer.{name}={value}: a result is measured on all images that are listed; leave it out, "
                "and for a quick try give category= a folder with fewer images"
            )
    for name, instead in SET_BY_US.items():
        if name in trainer:
            raise UserError(f"trainer.{name}={trainer[name]} would do nothing, dmdd sets it itself; {instead}")
    for name in STEP_COUNTERS:
        value = trainer.get(name)
        # Not `in (None, False)`: zero equals False, and means no steps at all.
        if not (value is None or value is False or (name == "accumulate_grad_batches" and value == 1)):
            raise UserError(
                f"trainer.{name}={value}: a stage has as many batches as distillation.steps or "
                "segmentation_training.steps say; set these, or batch_size"
            )
    if trainer.get("num_nodes") not in (None, 1):
        raise UserError(f"trainer.num_nodes={trainer['num_nodes']}: a run uses the devices of one machine")


def check_devices(devices: object, accelerator: str, batch_size: int) -> int:
    """Check the number of devices against the machine and the batch size.

    Args:
        devices: ``trainer.devices``.
        accelerator: ``gpu`` or ``cpu``.
        batch_size: Global batch size.

    Returns:
        Number of devices.

    Raises:
        UserError: Not a positive number, more than there are, or the batch cannot be shared evenly.
    """
    there = torch.cuda.device_count() if accelerator == "gpu" else os.cpu_count() or 1
    unit = "GPU" if accelerator == "gpu" else "CPU core"
    if there == 0:
        raise UserError("trainer.accelerator=gpu: no CUDA GPU is visible; use trainer.accelerator=cpu")
    if not isinstance(devices, int) or isinstance(devices, bool) or devices < 1:
        raise UserError(f"trainer.devices={devices}: give a number from 1 to {there}")
    if devices > there:
        raise UserError(
            f"trainer.devices={devices}, but this machine has {there} {unit}{'s' if there > 1 else ''}; "
            f"use trainer.devices={there} or fewer"
        )
    if batch_size % devices:
        raise UserError(f"batch_size={batch_size} cannot be shared evenly by trainer.devices={devices}")
    return devices


_switching, _inside, _switch_back = threading.Lock(), 0, lambda: None


@contextmanager
def whole_float32() -> Iterator[None]:
    """Compute float32 convolutions in float32: cuDNN's default is TF32, which keeps 10 of the 23 bits of what goes in.

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
    """Switch TF32 off for convolutions; gives what puts the setting back."""
    cudnn: Any = torch.backends.cudnn
    # torch has two ways to say it and refuses to read the older once the newer was used: the older one where it can be.
    try:
        before = cudnn.allow_tf32
    except RuntimeError:
        before, cudnn.conv.fp32_precision = cudnn.conv.fp32_precision, "ieee"
        return lambda: setattr(cudnn.conv, "fp32_precision", before)
    cudnn.allow_tf32 = False
    return lambda: setattr(cudnn, "allow_tf32", before)


PRECISIONS = ("32-true", "16-mixed", "bf16-mixed", "64-true")


def resolve_precision(precision: object, accelerator: str, *, setting: str = "trainer.precision") -> str:
    """Turn ``auto`` into ``bf16-mixed`` where the device computes bfloat16 faster than float32, else ``32-true``.

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
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = bool({"amx_bf16", "avx512_bf16"} & _cpu_flags())
    return "bf16-mixed" if fast else "32-true"


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


def describe_versions() -> dict[str, str]:
    """List the versions that decide a result: Python's and the main packages'."""
    versions = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def git_commit() -> str | None:
    """Give the commit of the checkout this package runs from, with ``-dirty`` if files differ, or None outside one."""
    folder = Path(__file__).resolve().parent
    if not (folder.parents[1] / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to a run folder; the lock ends with the process, however it ends.

    Args:
        folder: Made if needed.

    Raises:
        UserError: Another process holds it, or it cannot be written to.
    """
    if int(os.environ.get("LOCAL_RANK", 0)) > 0:  # one of several processes of one run
        yield
        return
    file = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file, blocking=False)
        lock.acquire()
    except Timeout:
        raise UserError(f"{folder} is in use by another run; wait for it or give another name=") from None
    except OSError as error:
        raise UserError(f"{folder} cannot be written to: {error.strerror or error}") from error
    try:
        yield
    finally:
        with suppress(OSError):  # a folder that is gone has been told already, or is told by what comes next
            file.unlink()
        lock.release()


_claimed: FileLock | None = None


def claim_gpu(*, runs_per_gpu: int = 1, wait_s: float = 600) -> None:
    """Take one GPU, or a share of one, for this process, as a worker of a sweep; without GPUs do nothing.

    Each worker process keeps the first GPU it gets: CUDA cannot move to another one later. The lock ends with it. The
    workers spread over all GPUs before two of them share one.

    Args:
        runs_per_gpu: How many workers may share a GPU. With two, one trains while the other reads images, computes
            metrics or writes pictures.
        wait_s: How long to wait for a GPU to become free.

    Raises:
        UserError: None became free, or ``runs_per_gpu`` is not positive.
    """
    global _claimed
    check_positive("launcher.runs_per_gpu", runs_per_gpu)
    if isinstance(wait_s, bool) or not isinstance(wait_s, int | float):
        raise UserError(f"launcher.wait_s={wait_s}: give a number of seconds")
    if _claimed is not None:
        return
    if os.environ.get("SUBMITIT_EXECUTOR") == "local" and (given := os.environ.get("DMDD_SWEEP_GPUS")) is not None:
        # submitit hides all GPUs but those of `gpus_per_node`, the same for every member; here they share them out.
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        os.environ |= {} if given == "all" else {"CUDA_VISIBLE_DEVICES": given}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = _gpu_names() if visible is None else [name for name in visible.split(",") if name.strip()]
    if not names:
        return
    folder = Path(tempfile.gettempdir()) / f"dmdd-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    end = time.monotonic() + wait_s
    while True:
        for place, name in itertools.product(range(runs_per_gpu), names):
            lock = FileLock(folder / f"{name.replace('/', '_')}.{place}.lock", blocking=False)
            try:
                lock.acquire()
            except Timeout:
                continue
            _claimed = lock
            os.environ["CUDA_VISIBLE_DEVICES"] = name
            return
        if time.monotonic() > end:
            none = f"no GPU of {', '.join(names)} became free in {wait_s:g} s"
            raise UserError(f"{none}; start fewer members at once, with joblib hydra.launcher.n_jobs")
        time.sleep(1)


def _gpu_names() -> list[str]:
    """List the GPUs without starting CUDA, which would fix the choice."""
    try:
        return [str(number) for number in range(torch.cuda.device_count())]
    except RuntimeError:
        return []
