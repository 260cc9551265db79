"""The random numbers of each pair, drawn on the CPU by a counter: no worker, device or resume changes them."""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor


class Column(IntEnum):
    """What each number of a plan decides. All are uniforms in [0, 1)."""

    OTHER = 0  # which other normal image (read by the data module)
    TEXTURE = 1  # which texture file (read by the data module)
    EMPTY = 2  # whether the pair stays without an anomaly (`empty_rate`)
    SOURCE = 3  # what the anomaly is made of
    MASK = 4  # the shape of its mask
    BLEND = 5  # how much of the normal image shows through
    ANCHOR = 6  # the foreground point at which the anomaly sits
    SIZE = 7  # its radius or length
    COUNT = 8  # how many blobs or strokes
    ANGLE = 9  # rotation of the mask
    ASPECT = 10  # elongation of a blob or rectangle, width of a stroke
    SCALE_Y = 11  # Perlin periods down
    SCALE_X = 12  # Perlin periods across
    AREA = 13  # share of the foreground that a Perlin mask covers
    SOFTNESS = 14  # width of the soft edge
    VARIANT = 15  # member of the source's family
    CONTRAST = 16  # strength of a colour or tone change
    HUE = 17
    SATURATION = 18
    VALUE = 19  # brightness of a colour
    MOVE_ANGLE = 20  # direction of a displacement
    MOVE_LENGTH = 21  # and its size
    MASK_KEY = 22  # key of the mask's noise fields
    SOURCE_KEY = 23  # key of the source's noise fields


PLAN_LENGTH: int = len(Column)


def draw_plan(seed: int, step: int, indices: Sequence[int]) -> Tensor:
    """Draw the random numbers of some pairs.

    Each row is a function of (seed, step, index) alone, so the pair is the same for any batch, worker, device or
    resume. The raw 64-bit words are shifted to 53 bits here, instead of asking numpy for floats: numpy guarantees the
    bit stream of Philox across versions, not that of its distributions.

    Args:
        seed: Key of the generator, in [0, 2^64).
        step: Training step, or any other counter of the pass over the data, in [0, 2^64).
        indices: For each pair, a number that tells it from the others of its step, in [0, 2^64); in training its
            place in the global batch.

    Returns:
        (B, PLAN_LENGTH) float64 on the CPU, uniform in [0, 1); the columns are named by `Column`.

    Raises:
        ValueError: If the seed, the step or an index leaves [0, 2^64).

    Source: ours; the generator is Philox4x64-10 (Salmon et al., SC 2011).
    """
    for name, value in (("seed", seed), ("step", step), *(("index", index) for index in indices)):
        if not 0 <= value < 2**64:
            raise ValueError(f"{name} must lie in [0, 2^64), got {value}")
    words = np.empty((len(indices), PLAN_LENGTH), np.uint64)
    for row, index in zip(words, indices, strict=True):
        # Counter word 0 counts the blocks of one pair; numpy adds one before the first block.
        counter = np.array([0, index, step, 0], np.uint64)
        row[:] = np.random.Philox(key=np.array([seed, 0], np.uint64), counter=counter).random_raw(PLAN_LENGTH)
    return torch.from_numpy((words >> np.uint64(11)).astype(np.float64) * 2.0**-53)
