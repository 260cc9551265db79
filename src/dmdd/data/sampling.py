"""Which image stands at which place of which training batch: a function of (seed, step, place) alone."""

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from os import SEEK_END
from pathlib import Path

import numpy as np
from torch.utils.data import Sampler

from dmdd.core.files import file_sha256

PERMUTATION_STREAM = 1  # Philox key word that separates this use of the seed from the pairs' plans (stream 0)
SPLIT_STREAM = 2
AUGMENTATION_STREAM = 3
CROP_STREAM = 4
CATEGORY_STREAM = 5
CROP_DRAWS = 4

RUN = 8
"""Neighbours that are held out together: more than photographs of one part usually are."""

END_BYTES = 4096
"""At the end of a file, by which copies are looked for first."""

Place = tuple[int, int, int]  # step, place in the global batch, index of the image, plus view times number of images


class PairSampler(Sampler[list[Place]]):
    """Yield this device's part of each global batch, from a first to a last step.

    Image ``i`` of the run is entry ``i mod N`` of the permutation of epoch ``i div N``, so every image is seen equally
    often and a resumed run goes on where the first one stopped. Epoch ``e`` shows view ``e mod V`` of all images.

    Of C categories every one is seen equally often: image ``i`` is of category ``i mod C`` in the permutation of round
    ``i div C``, and image ``i div C`` of that category's own run.

    Args:
        images: Number of training images N, or of each category, which follow each other.
        batch_size: Global batch size, over all devices.
        first_step: First step to yield.
        steps: How many steps the stage has.
        done: How many of them are behind it already, in a stage that goes on; they are counted but not yielded.
        seed: Seed of the run.
        views: Views V of each image.
        rank: This device's number.
        world_size: Number of devices; divides ``batch_size``.

    Raises:
        ValueError: ``batch_size`` is not divisible by ``world_size``, or there are no images.

    Source: ours.
    """

    def __init__(
        self,
        *,
        images: int | Sequence[int],
        batch_size: int,
        first_step: int,
        steps: int,
        seed: int,
        done: int = 0,
        views: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size % world_size:
            raise ValueError(f"batch_size={batch_size} cannot be shared evenly by {world_size} devices")
        self.counts = (images,) if isinstance(images, int) else tuple(images)
        if min(self.counts, default=0) < 1:
            raise ValueError("there are no images to sample from")
        self.batch_size, self.first_step, self.steps = batch_size, first_step, steps
        self.seed, self.done, self.rank, self.world_size = seed, done, rank, world_size
        self.views = views

    def __len__(self) -> int:
        """Return the number of steps of the whole stage, which is what Lightning counts against."""
        return self.steps

    def __iter__(self) -> Iterator[list[Place]]:
        """Yield, for each step not done, ``(step, place, index)`` of this device's images."""
        share = self.batch_size // self.world_size
        places = range(self.rank * share, (self.rank + 1) * share)
        turns = _Shuffled(len(self.counts), seed=self.seed, stream=CATEGORY_STREAM)
        orders = [_Shuffled(count, seed=self.seed, part=part) for part, count in enumerate(self.counts)]
        starts = np.cumsum([0, *self.counts])
        for step in range(self.first_step + self.done, self.first_step + self.steps):
            batch = []
            for place in places:
                number = step * self.batch_size + place
                part, turn = turns[number], number // len(self.counts)
                view = turn // self.counts[part] % self.views
                batch.append((step, place, int(starts[part]) + orders[part][turn] + int(starts[-1]) * view))
            yield batch


class _Shuffled:
    """Number ``i`` is entry ``i mod count`` of the permutation of epoch ``i div count``; the last one is kept."""

    def __init__(self, count: int, *, seed: int, stream: int = PERMUTATION_STREAM, part: int = 0) -> None:
        self.count, self.seed, self.stream, self.part = count, seed, stream, part
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __getitem__(self, number: int) -> int:
        epoch, offset = divmod(number, self.count)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = permutation(self.count, seed=self.seed, epoch=epoch, stream=self.stream, part=self.part)
        return int(self._order[offset])


class BlockSampler(Sampler[list[Place]]):
    """Join the parts of several consecutive steps into one list, so that their pairs are made in one go.

    Args:
        sampler: The parts, step by step.
        steps: How many steps to join, at least 1; the last list may be of fewer.

    Source: ours.
    """

    def __init__(self, sampler: PairSampler, steps: int) -> None:
        self.sampler, self.steps = sampler, steps

    def __len__(self) -> int:
        """Return the number of lists of the whole stage."""
        return -(-len(self.sampler) // self.steps)

    def __iter__(self) -> Iterator[list[Place]]:
        """Yield the places of ``steps`` steps at a time, in order."""
        parts = iter(self.sampler)
        while block := list(islice(parts, self.steps)):
            yield [place for part in block for place in part]


def permutation(count: int, *, seed: int, epoch: int, stream: int = PERMUTATION_STREAM, part: int = 0) -> np.ndarray:
    """Permute ``range(count)`` as a function of seed and epoch.

    Args:
        count: Number of images.
        seed: Seed of the run, in [0, 2^64).
        epoch: Pass over the images, from 0.
        stream: Which use of the seed.
        part: Which category.

    Returns:
        ``(count,)`` int64. Sorting raw Philox words keeps it the same in every numpy version.
    """
    generator = np.random.Philox(key=np.array([seed, stream], np.uint64), counter=[0, epoch, 0, part])
    return np.argsort(generator.random_raw(count), kind="stable")


def held_out(
    count: int,
    *,
    fraction: float,
    seed: int,
    order: Sequence[int] | None = None,
    barred: Collection[int] = (),
) -> tuple[list[int], list[int]]:
    """Split ``range(count)`` into a part to train on and a held-out part, as a function of the seed.

    Args:
        count: Number of normal images.
        fraction: Share to hold out, in [0, 1); rounded, but at least one image stays on each side when it is positive.
        seed: Seed of the run.
        order: The images in an order whose neighbours are of a kind; whole runs of neighbours are held out then, evenly
            spread, as new images will not have their like among those trained on. None holds out single images.
        barred: Images that are not held out; fewer are then, where the others are not enough.

    Returns:
        Sorted indices for training and held-out sorted indices.

    Raises:
        ValueError: ``fraction`` is outside [0, 1), or it is positive and there are fewer than two images or all are
            barred.

    Source: ours (docs/method.md, protocol: thresholds come from held-out normal training images).
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"the held-out fraction must be in [0, 1), got {fraction}")
    if fraction == 0:
        return list(range(count)), []
    if count < 2:
        raise ValueError("holding out images needs at least two of them")
    generator = np.random.Philox(key=np.array([seed, SPLIT_STREAM], np.uint64))
    size = count_held_out(count, fraction=fraction)
    permuted = order is None
    if order is None:
        order = np.argsort(generator.random_raw(count), kind="stable").tolist()
    free = [row for row in order if row not in barred]
    if not free:
        raise ValueError("the model of init= was trained on all of the images; add new ones")
    size = min(size, len(free))
    chosen = set(free[:size] if permuted else (free[place] for place in _runs(len(free), size, generator)))
    return [row for row in range(count) if row not in chosen], sorted(chosen)


def leave_out_copies(train: Sequence[int], rest: Sequence[int], files: Sequence[Path]) -> list[int]:
    """Leave out of the part to train on what has the same bytes as a held-out image: that one would not be new.

    Args:
        train: Indices of the images to train on.
        rest: Indices of the held-out images.
        files: All images.

    Returns:
        Those of ``train`` that are no copies, in order.
    """
    alike = {_end_of(files[row]) for row in rest}
    doubted = {row for row in train if _end_of(files[row]) in alike}  # of very many files few are read as a whole
    known = {file_sha256(files[row]) for row in rest} if doubted else set()
    return [row for row in train if row not in doubted or file_sha256(files[row]) not in known]


def _end_of(file: Path) -> tuple[int, bytes]:
    """Give what differs already in nearly all files that differ: the size and the last bytes."""
    with file.open("rb") as opened:
        size = opened.seek(0, SEEK_END)
        opened.seek(max(0, size - END_BYTES))
        return size, opened.read()


def _runs(count: int, size: int, generator: np.random.Philox) -> Iterator[int]:
    """Yield ``size`` places of ``range(count)``, in runs of about ``RUN``, one in each of as many equal parts."""
    runs = max(1, round(size / RUN))
    words = generator.random_raw(runs)
    for run in range(runs):
        length = size * (run + 1) // runs - size * run // runs
        first, last = count * run // runs, count * (run + 1) // runs - length
        start = first + int(words[run]) % (last - first + 1)
        yield from range(start, start + length)


def count_held_out(count: int, *, fraction: float) -> int:
    """Tell how many images `held_out` holds out.

    Args:
        count: Number of normal images.
        fraction: Share to hold out, in [0, 1).

    Returns:
        Their number; 0 where nothing is held out or can be.
    """
    return 0 if fraction <= 0 or count < 2 else min(max(1, round(fraction * count)), count - 1)


def augmentation_seed(seed: int, *, step: int, place: int) -> int:
    """Draw the seed of one image's augmentation as a function of the run's seed and the image's place.

    Args:
        seed: Seed of the run.
        step: Training step.
        place: Place in the global batch.

    Returns:
        An integer in [0, 2^32).
    """
    generator = np.random.Philox(key=np.array([seed, AUGMENTATION_STREAM], np.uint64), counter=[0, place, step, 0])
    return int(generator.random_raw()) >> 32


def crop_draws(seed: int, *, step: int, place: int) -> np.ndarray:
    """Draw where the crops of one pair lie, as a function of the run's seed and the pair's place.

    Args:
        seed: Seed of the run.
        step: Training step.
        place: Place in the global batch.

    Returns:
        ``(2, CROP_DRAWS)`` float64 in [0, 1): of the normal image, and of the other one.
    """
    generator = np.random.Philox(key=np.array([seed, CROP_STREAM], np.uint64), counter=[0, place, step, 0])
    words = generator.random_raw(2 * CROP_DRAWS) >> np.uint64(11)
    return (words * 2.0**-53).reshape(2, CROP_DRAWS)
