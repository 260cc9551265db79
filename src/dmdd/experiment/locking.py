"""Locks: one process a run folder, one sweep worker a GPU."""

import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from dmdd.core.errors import UserError, check_positive


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
