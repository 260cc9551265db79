"""Order, split and seeds are functions of their counters, whatever the number of devices."""

from collections import Counter

import numpy as np
import pytest

from dmdd.data.sampling import PairSampler, augmentation_seed, held_out, leave_out_copies, permutation


def batches(**changes):
    return list(PairSampler(**{"images": 10, "batch_size": 4, "first_step": 0, "steps": 10, "seed": 3} | changes))


def test_every_image_is_seen_equally_often():
    seen = Counter(index for batch in batches() for _, _, index in batch)
    assert seen == dict.fromkeys(range(10), 4)


def test_each_epoch_is_a_permutation_of_its_own():
    order = [index for batch in batches() for _, _, index in batch]
    epochs = [tuple(order[i : i + 10]) for i in range(0, 40, 10)]
    assert len(set(epochs)) == 4
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)


def test_each_epoch_shows_the_next_view_of_all_images():
    order = [index for batch in batches(views=3) for _, _, index in batch]
    plain = [index for batch in batches() for _, _, index in batch]
    assert order == [index + 10 * (place // 10 % 3) for place, index in enumerate(plain)]


@pytest.mark.parametrize("world_size", [2, 4])
def test_devices_share_out_the_same_global_batches(world_size):
    parts = [batches(rank=rank, world_size=world_size) for rank in range(world_size)]
    joined = [[place for part in parts for place in part[step]] for step in range(10)]
    assert joined == batches()


def test_a_later_first_step_continues_where_the_first_would_be():
    assert batches(first_step=6, steps=4) == batches()[6:]


def test_another_seed_gives_another_order():
    assert batches(seed=4) != batches()


def test_permutation_sorts_the_raw_words_of_philox():
    words = np.random.Philox(key=np.array([3, 1], np.uint64), counter=[0, 5, 0, 0]).random_raw(7)
    assert permutation(7, seed=3, epoch=5).tolist() == sorted(range(7), key=lambda i: words[i])


def test_categories_take_turns_whatever_their_sizes():
    seen = Counter(index for batch in batches(images=[2, 5]) for _, _, index in batch)
    assert seen == {0: 10, 1: 10, 2: 4, 3: 4, 4: 4, 5: 4, 6: 4}
    of_batch = [Counter(index > 1 for _, _, index in batch) for batch in batches(images=[2, 5])]
    assert all(counts == {True: 2, False: 2} for counts in of_batch)


def test_several_categories_go_on_and_are_shared_out_as_one_does():
    whole = batches(images=[2, 5, 3], views=2)
    assert batches(images=[2, 5, 3], views=2, done=4) == whole[4:]
    parts = [batches(images=[2, 5, 3], views=2, rank=rank, world_size=2) for rank in range(2)]
    assert [[*first, *second] for first, second in zip(*parts, strict=True)] == whole
    seen = Counter(index for batch in batches(images=[2, 5], views=2) for _, _, index in batch)
    assert (seen[0], seen[7], seen[2], seen[9]) == (5, 5, 2, 2)  # views of all seven images follow each other


def test_batch_that_devices_cannot_share():
    with pytest.raises(ValueError, match="batch_size=4 cannot be shared evenly by 3 devices"):
        PairSampler(images=10, batch_size=4, first_step=0, steps=1, seed=0, world_size=3)


def test_no_images():
    with pytest.raises(ValueError, match="there are no images"):
        PairSampler(images=0, batch_size=4, first_step=0, steps=1, seed=0)


def test_held_out_is_a_seeded_partition():
    train, rest = held_out(54, fraction=0.1, seed=0)
    assert len(rest) == 5
    assert sorted(train + rest) == list(range(54))
    assert held_out(54, fraction=0.1, seed=0) == (train, rest)
    assert held_out(54, fraction=0.1, seed=1) != (train, rest)


@pytest.mark.parametrize(("count", "fraction", "size"), [(5, 0.0, 0), (5, 0.01, 1), (2, 0.9, 1), (320, 0.1, 32)])
def test_held_out_leaves_images_on_both_sides(count, fraction, size):
    train, rest = held_out(count, fraction=fraction, seed=0)
    assert (len(train), len(rest)) == (count - size, size)


def test_barred_images_are_not_held_out():
    rest = held_out(54, fraction=0.1, seed=0)[1]
    first, *_, last = rest
    again, others = held_out(54, fraction=0.1, seed=0, barred={first, last})
    assert len(others) == 5
    assert {first, last} <= set(again)
    assert set(rest[1:-1]) < set(others)  # the rest of the order is as before
    assert sorted(again + others) == list(range(54))
    assert held_out(54, fraction=0.1, seed=0, barred=set(range(52)))[1] == [52, 53]
    with pytest.raises(ValueError, match="the model of init= was trained on all of the images; add new ones"):
        held_out(54, fraction=0.1, seed=0, barred=set(range(54)))


@pytest.mark.parametrize(("fraction", "count"), [(1.0, 5), (-0.1, 5)])
def test_held_out_fraction_out_of_range(fraction, count):
    with pytest.raises(ValueError, match=r"held-out fraction must be in \[0, 1\)"):
        held_out(count, fraction=fraction, seed=0)


def test_one_image_cannot_be_split():
    with pytest.raises(ValueError, match="needs at least two"):
        held_out(1, fraction=0.5, seed=0)


def test_augmentation_seeds_differ_by_step_place_and_run():
    seeds = {
        augmentation_seed(seed, step=step, place=place) for seed in (0, 1) for step in range(5) for place in range(5)
    }
    assert len(seeds) == 50
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_copies_of_held_out_images_are_not_trained_on(tmp_path):
    files = [tmp_path / f"{place}.png" for place in range(6)]
    for file, content in zip(files, (b"one", b"two", b"three", b"two", b"six", b"three"), strict=True):
        file.write_bytes(content)
    assert leave_out_copies([0, 1, 3, 4], [2, 5], files) == [0, 1, 3, 4]  # copies within a part stay
    assert leave_out_copies([0, 1, 2, 4, 5], [3], files) == [0, 2, 4, 5]
    assert leave_out_copies([0, 1, 2], [], files) == [0, 1, 2]
