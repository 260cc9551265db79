"""A sweep as its user sees it: which member runs, how long the rest takes."""

import gc
import os
import sys
import time
import traceback
from contextlib import suppress

from dmdd.core.errors import UserError

_started = time.monotonic()


class SweepFailed(UserError):
    """Members of a sweep failed; the rest went on.

    Args:
        message: Which, and why.
        defects: Whether one failed for another reason than bad input.
    """

    def __init__(self, message: str, *, defects: bool = False) -> None:
        super().__init__(message)
        self.exit_code = 1 if defects else 2


def announce(member: int, name: str) -> None:
    """Print which member of a sweep begins and, from the second on, how long the rest will take.

    Args:
        member: Its number, from 0.
        name: Data set, category and seed.
    """
    size = int(os.environ.get("DMDD_SWEEP_SIZE", "0"))
    if not size:
        return
    line = f"sweep: {member + 1} of {size}, {name}"
    if member:
        left_s = (time.monotonic() - _started) / member * (size - member)
        line += f", about {max(1, round(left_s / 60))} min left"
    print(line, file=sys.stderr, flush=True)


def free_memory(error: BaseException | None = None) -> None:
    """Give back what a member of a sweep has held, on the GPU above all, before the next one begins.

    Args:
        error: What ended it. Hydra keeps it to the end of the sweep, and its traceback all that the functions it went
            through held: batches, networks, features in a cache.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        with suppress(RuntimeError):  # a GPU that has failed says so again at every call
            torch.cuda.empty_cache()
