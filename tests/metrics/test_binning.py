"""The bins keep the order of float32 and know their own edges."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmdd.metrics.binning import N_BINS, bin_floors, score_bins

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def bins_of(*scores):
    return score_bins(torch.tensor(scores, dtype=torch.float32)).tolist()


@given(FINITE, FINITE)
def test_a_larger_score_never_gets_a_smaller_bin(first, second):
    low, high = sorted((first, second))
    low_bin, high_bin = bins_of(low, high)
    assert 0 <= low_bin <= high_bin < N_BINS


@given(FINITE)
def test_floor_is_the_smallest_score_of_its_bin(score):
    (index,) = bins_of(score)
    floor = bin_floors(np.array([index]))[0]
    assert floor <= np.float32(score)
    assert bins_of(floor) == [index]
    if index > 0:
        assert bins_of(np.nextafter(floor, np.float32(-np.inf))) == [index - 1]


def test_ends_and_zeros():
    largest = float(np.finfo(np.float32).max)
    assert bins_of(-largest, largest) == [0, N_BINS - 1]
    assert bins_of(0.0) == bins_of(-0.0)
    assert bins_of(-1e-45)[0] == bins_of(0.0)[0] - 1


def test_floors_of_all_bins_ascend_and_map_back():
    floors = bin_floors(np.arange(N_BINS))
    assert np.all(np.diff(floors.astype(np.float64)) > 0)
    assert torch.equal(score_bins(torch.from_numpy(floors)), torch.arange(N_BINS, dtype=torch.int32))


def test_bins_within_the_window_keep_15_bits():
    # 2^15 bins between 1/2 and 1 are 2^-16 wide
    assert bins_of(0.5, 0.5 + 2.0**-16) == [bins_of(0.5)[0], bins_of(0.5)[0] + 1]
    assert bins_of(0.5 + 2.0**-17) == bins_of(0.5)


def test_large_arrays_get_the_bins_of_small_ones():
    # longer than what is binned at a time, the second part with negative scores
    scores = torch.cat([torch.linspace(0, 2, 70_000), torch.linspace(-2, 2, 70_000)]).view(2, 70_000)
    assert torch.equal(
        score_bins(scores), torch.cat([score_bins(row) for row in scores.flatten().split(100)]).view(2, -1)
    )
