"""What a machine does to a job - memory, disk, worker processes - as one line that says what to set."""

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from dmdd.core.errors import UserError

MEMORY_PHRASES = ("DefaultCPUAllocator", "out of memory", "STATUS_ALLOC_FAILED", "Insufficient memory", "</torch_")
"""How torch, CUDA's libraries, OpenCV, and torch about shared memory, say that memory does not suffice."""

UNWRITABLE = frozenset(
    getattr(errno, name, None)
    for name in (
        *("EACCES", "EDQUOT", "EEXIST", "EFBIG", "EIO", "EISDIR", "EMFILE", "ENAMETOOLONG", "ENFILE", "ENOENT"),
        *("ENOSPC", "ENOTDIR", "EPERM", "EROFS", "ESTALE"),
    )
)
"""What a file system answers where it does not take a file."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception says that memory, of a GPU or of the machine, does not suffice.

    Args:
        error: Any exception.

    Source: ours.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    known = any(phrase in str(error) for phrase in MEMORY_PHRASES)
    return known and (isinstance(error, RuntimeError) or type(error).__module__.startswith("cv2"))


def is_worker_death(error: BaseException) -> bool:
    """Tell whether an exception says that a worker process of a DataLoader died.

    torch raises it from a signal handler, so it can come out of any line of the main thread, a file's writing included.

    Args:
        error: Any exception.

    Source: ours.
    """
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)


def is_compiler_failure(error: BaseException) -> bool:
    """Tell whether an exception says that ``torch.compile`` could not compile something, or found no compiler.

    Args:
        error: Any exception.

    Source: ours.
    """
    compilers = ("torch._dynamo.", "torch._inductor.", "torch._functorch.", "triton.")
    return any(kind.__module__.startswith(compilers) for kind in type(error).__mro__)


@contextmanager
def report_errors(doing: str, *, sizes: Mapping[str, Any], workers: str = "num_workers") -> Iterator[None]:
    """Turn too little memory, what DataLoader workers meet and what cannot be compiled into one line.

    Args:
        doing: What is done inside, as the line's beginning.
        sizes: The settings that decide how much memory it takes, with their values.
        workers: Name of the setting that says how many worker processes there are.

    Raises:
        UserError: Memory does not suffice, a worker process died or met a ``UserError``, or ``torch.compile`` failed.

    Source: ours.
    """
    try:
        yield
    except UserError as error:
        # A worker's exception carries the worker's traceback in its message, which ends in the exception itself.
        if not str(error).startswith("Caught UserError in DataLoader worker"):
            raise
        raise UserError(str(error).rpartition("dmdd.core.errors.UserError: ")[2].strip()) from None
    except Exception as error:
        if is_out_of_memory(error):
            shown = ", ".join(f"{name}={value}" for name, value in sizes.items())
            less = " or ".join(f"{name}=" for name in sizes)
            raise UserError(
                f"{doing}: memory does not suffice for {shown} ({_one_line(error)}); give a smaller {less}"
            ) from error
        if is_worker_death(error):
            told = _one_line(error).rstrip(". ")
            raise UserError(
                f"{doing}: {told}. Often memory or shared memory was used up; {workers}=0 needs no workers"
            ) from error
        if is_compiler_failure(error):
            told = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise UserError(f"{doing}: torch.compile failed ({told}); give compile=false") from error
        raise


@contextmanager
def report_write_errors(
    folder: Path, *, then: str = "the same command with resume=true goes on", own: bool = True
) -> Iterator[None]:
    """Turn a full disk or a folder that cannot be written to into one line, and leave no file half written.

    Args:
        folder: What is written inside lies in it.
        then: What helps when there is room again.
        own: The folder is one run's alone; ``*.partial`` files in it are removed where writing failed.

    Raises:
        UserError: Writing failed.

    Source: ours.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        found = describe_write_error(error, folder=folder, then=then)
        if found is None:
            raise
        if own:
            with suppress(OSError):
                for partial in folder.rglob("*.partial"):
                    partial.unlink()
        raise found from error


def describe_write_error(
    error: OSError | SafetensorError, *, folder: Path | None = None, then: str = ""
) -> UserError | None:
    """Describe what kept a file from being written.

    Args:
        error: What writing raised.
        folder: Named where the error names no file.
        then: What helps when there is room again.

    Returns:
        One line; None if the error is about something else than files, such as a connection.
    """
    if isinstance(error, OSError) and error.errno not in UNWRITABLE:
        return None
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    place = getattr(error, "filename", None) or folder or "a file"
    return UserError(f"{place} cannot be written: {reason}" + (f"; when there is room, {then}" if then else ""))


def _one_line(error: BaseException) -> str:
    """The first sentence: torch adds advice on its allocator and stack traces."""
    return " ".join(str(error).split("\n")[0].split()).partition(". ")[0][:160] or type(error).__name__
