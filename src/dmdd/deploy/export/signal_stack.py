"""The stack that signal handlers run on, kept from a library that would take it away."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """``stack_t`` of Linux."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def keep_signal_stack() -> Iterator[None]:
    """Put this thread's alternate signal stack back after the block; does nothing on other systems than Linux.

    OpenVINO installs one of its own in the thread that compiles a model and later frees its memory without removing
    it. Python's handlers run on the alternate stack, so the next signal with a handler (Ctrl-C, SIGTERM, the end of a
    loader's worker) would end the process with a segmentation fault.

    Source: ours.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    sigaltstack = ctypes.CDLL(None, use_errno=True).sigaltstack
    stack = _Stack()
    sigaltstack(None, ctypes.byref(stack))
    try:
        yield
    finally:
        sigaltstack(ctypes.byref(stack), None)
