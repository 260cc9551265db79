"""The one exception that reaches a user as a single line, and warnings as lines."""

import sys
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """Input that cannot be used: the message says what is wrong and what would be right.

    Entry points print the message on one line of stderr and leave with exit code 2; every other exception is a defect
    of ours and keeps its traceback.
    """


class Interrupted(UserError):
    """The process was told to stop, and has saved what it needs to go on.

    Args:
        message: Where it stopped.
        number: The signal.
    """

    def __init__(self, message: str, number: int = 15) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


def warn(sentences: Iterable[str]) -> None:
    """Print warnings on stderr, one a line.

    Args:
        sentences: What is to be known; the work goes on.
    """
    for sentence in sentences:
        print(f"warning: {sentence}", file=sys.stderr, flush=True)


def print_error(error: BaseException) -> None:
    """Print an error on one line of stderr.

    Args:
        error: Its message may have several lines.
    """
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)


def check_positive(name: str, value: object) -> None:
    """Refuse a setting that must be a positive whole number and is not.

    Args:
        name: The setting, as a user writes it.
        value: What was given.

    Raises:
        UserError: ``value`` is not a whole number of at least 1.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{name}={value}: give a positive whole number")


def check_seconds(name: str, value: object) -> None:
    """Refuse a setting that must be a time and is none.

    Args:
        name: The setting, as a user writes it.
        value: What was given.

    Raises:
        UserError: ``value`` is not a number above 0.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise UserError(f"{name}={value}: give a positive number of seconds")


def check_seed(seed: object) -> None:
    """Refuse a seed that pairs cannot be drawn from.

    Args:
        seed: What was given.

    Raises:
        UserError: ``seed`` is not a whole number from 0 to 2^32 - 1.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise UserError(f"seed={seed}: give a whole number from 0 to {2**32 - 1}")


MAX_OVERLAP = 0.9
"""Share of a tile that may lie in the next one."""


def check_tiles(tile_px: object, overlap: object) -> tuple[tuple[int, int], float]:
    """Refuse tiles that cannot be cut.

    Args:
        tile_px: Side of a tile, or its height and width, in pixels.
        overlap: Share of a tile that at least lies in the next one.

    Returns:
        Height and width of a tile in pixels, and the overlap.

    Raises:
        UserError: One of them is out of its range.
    """
    sides: Any = (tile_px, tile_px) if isinstance(tile_px, int) and not isinstance(tile_px, bool) else tile_px
    try:
        height, width = (int(side) for side in sides)
    except (TypeError, ValueError):
        height = width = 0
    if height < 1 or width < 1:
        raise UserError(f"tile_px={tile_px}: give a number of pixels, or height and width as in tile_px=[256,256]")
    if isinstance(overlap, bool) or not isinstance(overlap, int | float) or not 0 <= overlap <= MAX_OVERLAP:
        raise UserError(f"overlap={overlap}: give a number from 0 to {MAX_OVERLAP}")
    return (height, width), float(overlap)
