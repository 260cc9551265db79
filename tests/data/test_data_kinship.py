"""Neighbours by name that are alike, and what is held out then."""

from pathlib import Path

import pytest
import torch

from dmdd.data.kinship import SURE, alikeness, kin_order
from dmdd.data.sampling import RUN, held_out


def parts(count: int, each: int) -> torch.Tensor:
    """Draw several photographs of each of some parts, ``(count * each, 3, 32, 32)``, one light after the other."""
    generator = torch.Generator().manual_seed(0)
    own = torch.randint(0, 180, (count, 3, 32, 32), generator=generator)
    noise = torch.randint(0, 8, (each, count, 3, 32, 32), generator=generator)
    light = 8 * torch.arange(each).view(-1, 1, 1, 1, 1)
    return (own + noise + light).flatten(0, 1).to(torch.uint8)


def test_photographs_of_one_part_are_brought_together():
    """Six lights of each of ten parts: only the last number of the names says which part it is."""
    files = [Path(f"light{light}_part_{part}.png") for light in range(6) for part in range(10)]
    order = kin_order(parts(10, 6), files)
    assert order is not None
    assert [files[row].stem.rpartition("_")[2] for row in order] == [str(part) for part in range(10) for _ in range(6)]


def test_numbers_are_ordered_by_their_value():
    """A camera over time: 2 stands before 10."""
    steps = torch.randn(50, 3, 32, 32, generator=torch.Generator().manual_seed(1)).cumsum(0)
    images = (128 + 10 * steps).clamp(0, 255).to(torch.uint8)
    assert kin_order(images, [Path(f"{place}.png") for place in range(50)]) == list(range(50))


def test_images_that_differ_as_any_two_have_no_order():
    images = torch.randint(0, 256, (80, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    files = [Path(f"{place}.png") for place in range(80)]
    assert kin_order(images, files) is None
    assert kin_order(parts(5, 6), files[:30]) is None  # too few to tell
    # By their light alone, images are not of a kind.
    brighter = (images.float() / 2 + torch.arange(80).view(-1, 1, 1, 1)).to(torch.uint8)
    assert kin_order(brighter, files) is None
    assert kin_order(images[:0], files) is None  # large images, which are read in tiles


def test_alikeness_is_in_standard_errors_above_chance():
    found = [alikeness(torch.randn(60, 20, generator=torch.Generator().manual_seed(seed))) for seed in range(40)]
    assert abs(sum(found) / 40) < 0.5
    assert max(found) < SURE
    # All others are farther than the neighbour: a share of 1, half above chance.
    line = torch.arange(100.0)[:, None]
    assert alikeness(line) == pytest.approx(0.5 * (12 * 100) ** 0.5)


def test_whole_runs_are_held_out():
    order = torch.randperm(320, generator=torch.Generator().manual_seed(0)).tolist()
    train, rest = held_out(320, fraction=0.1, seed=0, order=order)
    assert sorted(train + rest) == list(range(320))
    assert len(rest) == 32
    places = sorted(order.index(row) for row in rest)
    starts = [place for place in places if place - 1 not in places]
    assert 320 // 4 * 0 <= starts[0] < 80 <= starts[1] < 160 <= starts[2] < 240 <= starts[3]  # evenly spread
    assert [start + step for start in starts for step in range(RUN)] == places
    assert held_out(320, fraction=0.1, seed=1, order=order)[1] != rest
    for count, size in ((5, 1), (30, 3), (47, 5), (2, 1)):
        assert len(held_out(count, fraction=0.1, seed=0, order=range(count))[1]) == size
