"""The order-preserving map from a float32 score to one of about a million bins."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# A bin is a run of neighbouring float32 bit patterns. Between FINE_FROM and FINE_TO, where anomaly maps live, a bin
# keeps 15 of the 23 mantissa bits; elsewhere it keeps 9. A uniform cut to the top 20 bits keeps 11 everywhere and
# spends nine tenths of its bins on magnitudes that no map holds.
FINE_FROM = 2.0**-18
FINE_TO = 2.0**6
_FINE_SHIFT = 8
_COARSE_SHIFT = 14
_MAGNITUDE = 0x7FFFFFFF
# Scores that are binned at a time on a CPU, so that the dozen passes over them stay in its second-level cache.
_CACHED = 1 << 16


def _bits(value: float) -> int:
    return int(np.float32(value).view(np.int32))


_LOW, _HIGH = _bits(FINE_FROM), _bits(FINE_TO)
_LARGEST = _bits(float(np.finfo(np.float32).max))
# An arithmetic shift rounds towards minus infinity: the most negative finite score gets coarse step -_OFFSET.
_OFFSET = -(-_LARGEST >> _COARSE_SHIFT)
_FINE_BINS = (_HIGH - _LOW) >> _FINE_SHIFT
_FIRST_FINE = _OFFSET + (_LOW >> _COARSE_SHIFT)
N_BINS = _FIRST_FINE + _FINE_BINS + ((_LARGEST - _HIGH) >> _COARSE_SHIFT) + 1


def score_bins(scores: Tensor) -> Tensor:
    """Find the bin of each score.

    Args:
        scores: float32, any shape, finite.

    Returns:
        int32 in [0, N_BINS), same shape; a larger score never gets a smaller bin, and -0.0 gets that of 0.0.

    Source: ours.
    """
    bits = scores.contiguous().view(torch.int32).flatten()
    bins = torch.empty_like(bits)
    at_a_time = _CACHED if bits.device.type == "cpu" else max(1, bits.numel())
    for source, target in zip(bits.split(at_a_time), bins.split(at_a_time), strict=True):
        _bins_of_bits(source, target)
    return bins.view(scores.shape)


def _bins_of_bits(bits: Tensor, bins: Tensor) -> None:
    # Maps are rarely negative: looking costs a tenth of what it saves. Not on a GPU, where looking means waiting.
    if bits.device.type != "cpu" or (bits.numel() and int(bits.min()) < 0):
        sign = bits >> 31
        bits = ((bits & _MAGNITUDE) ^ sign).sub_(sign)  # the magnitude with the sign of the score: compares as it does
    fine = bits.clamp(_LOW, _HIGH).sub_(_LOW)
    # Coarse steps to the score, less those within the window, which are counted in fine steps. Shifting the difference
    # of the two would save an operation, and overflow at -3e38.
    coarse = (bits >> _COARSE_SHIFT).sub_(fine >> _COARSE_SHIFT).add_(_OFFSET)
    torch.add(coarse, fine.bitwise_right_shift_(_FINE_SHIFT), out=bins)


def bin_floors(bins: NDArray[np.int64]) -> NDArray[np.float32]:
    """Give the smallest score that falls into each bin.

    Args:
        bins: integers in [0, N_BINS), any shape.

    Returns:
        float32, same shape; `score >= bin_floors(b)` holds exactly for the scores of bin `b` and above.

    Source: ours.
    """
    fine = np.asarray(bins, dtype=np.int64) - _FIRST_FINE
    ordered = np.where(
        fine < _FINE_BINS,
        np.where(fine < 0, fine << _COARSE_SHIFT, fine << _FINE_SHIFT) + _LOW,
        ((fine - _FINE_BINS) << _COARSE_SHIFT) + _HIGH,
    )
    ordered = np.maximum(ordered, -_LARGEST)
    magnitude = np.abs(ordered).astype(np.int32).view(np.float32)
    return np.where(ordered < 0, -magnitude, magnitude).astype(np.float32)
