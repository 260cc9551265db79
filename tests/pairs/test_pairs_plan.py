import pytest
import torch

from dmdd.pairs import PLAN_LENGTH, Column, draw_plan
from dmdd.pairs.hashing import derive_key, hash_uniform, key_from_uniform
from reference.perlin import derive, lowbias32
from reference.philox import philox4x64


def test_reference_gives_the_published_philox_vectors():
    # Known-answer vectors of Random123, the authors' library: all zeros, all ones.
    zeros = philox4x64((0, 0, 0, 0), (0, 0))
    assert zeros == (0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B)
    ones = philox4x64((2**64 - 1,) * 4, (2**64 - 1,) * 2)
    assert ones == (0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0)


@pytest.mark.parametrize(("seed", "step", "index"), [(0, 0, 0), (7, 123456, 319), (2**64 - 1, 2**40, 2**33)])
def test_plan_is_philox_of_seed_step_index(seed, step, index):
    words = [word for block in range(1, 7) for word in philox4x64((block, index, step, 0), (seed, 0))]
    expected = [(word >> 11) / 2**53 for word in words]
    assert draw_plan(seed, step, [index])[0].tolist() == expected


def test_plan_has_a_column_for_each_name():
    assert PLAN_LENGTH == 24
    assert [int(column) for column in Column] == list(range(24))
    assert (Column.OTHER, Column.TEXTURE) == (0, 1)


def test_plan_does_not_depend_on_the_batch():
    whole = draw_plan(3, 5, range(10))
    assert whole.shape == (10, PLAN_LENGTH)
    assert whole.dtype == torch.float64
    for part in ([4, 9, 0], [7]):
        assert torch.equal(draw_plan(3, 5, part), whole[part])


def test_plan_differs_by_seed_step_and_index():
    rows = [draw_plan(*key)[0] for key in ((0, 0, [0]), (1, 0, [0]), (0, 1, [0]), (0, 0, [1]))]
    assert len(torch.stack(rows).unique()) == 4 * PLAN_LENGTH


def test_plan_is_uniform():
    plan = draw_plan(0, 0, range(2000))
    assert 0 <= plan.min() < 1e-3
    assert 1 - 1e-3 < plan.max() < 1
    # Standard deviation of a mean of 2000 uniforms: 1 / sqrt(12 * 2000) = 0.0065; five of them.
    assert (plan.mean(0) - 0.5).abs().max() < 0.0325


@pytest.mark.parametrize(
    ("arguments", "name"), [((-1, 0, [0]), "seed"), ((0, 2**64, [0]), "step"), ((0, 0, [3, -2]), "index")]
)
def test_plan_refuses_what_is_no_64_bit_word(arguments, name):
    with pytest.raises(ValueError, match=rf"{name} must lie in \[0, 2\^64\)"):
        draw_plan(*arguments)


def test_hashes_equal_python_integers():
    keys = [0, 1, 0xDEADBEEF, 2**32 - 1]
    numbers = [0, 1, 77, 2**31 - 1]
    expected = [[derive(key, number) for number in numbers] for key in keys]
    assert derive_key(torch.tensor(keys)[:, None], torch.tensor(numbers)).tolist() == expected
    assert hash_uniform(torch.tensor(keys), 77).tolist() == [(derive(key, 77) >> 8) / 2**24 for key in keys]


def test_key_uses_all_53_bits():
    words = [0, 1, 2**32, 2**53 - 1, 0x123456789ABCD]
    keys = key_from_uniform(torch.tensor(words, dtype=torch.float64) / 2**53)
    assert keys.tolist() == [lowbias32((word % 2**32) ^ lowbias32(word >> 32)) for word in words]
