"""Remembered features equal computed ones, and nothing is remembered that should not be."""

import pytest
import torch

from dmdd.models.teacher import Teacher
from dmdd.training.feature_cache import FeatureCache

IMAGES = torch.randint(256, (5, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
MORE = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


class CountingTeacher(Teacher):
    seen = 0

    def forward(self, images):
        self.seen += len(images)
        return super().forward(images)


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return CountingTeacher(backbone="resnet10t")


def test_second_time_comes_from_memory_and_is_the_same(teacher):
    cache, indices = FeatureCache(images=5, limit_gb=1), [3, 0]
    first = cache(teacher, IMAGES[indices], indices, MORE)
    assert teacher.seen == 4
    second = cache(teacher, IMAGES[indices], indices, MORE)
    assert teacher.seen == 6  # MORE only
    for before, after in zip(first, second, strict=True):
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(before, after, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first[0], second[0], strict=True))


def test_a_partly_known_batch_is_computed(teacher):
    cache = FeatureCache(images=5, limit_gb=1)
    cache(teacher, IMAGES[:2], [0, 1], MORE)
    own, rest = cache(teacher, IMAGES[1:3], [1, 2], MORE)
    expected = teacher(IMAGES[1:3] / 255)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(own, expected, strict=True))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(rest, teacher(MORE), strict=True))


@pytest.mark.parametrize("settings", [{"images": 0, "limit_gb": 1}, {"images": 5, "limit_gb": 1e-6}])
def test_nothing_is_remembered_when_images_change_or_memory_is_short(teacher, settings):
    cache, indices = FeatureCache(**settings), [0]
    for _ in range(2):
        cache(teacher, IMAGES[:1], indices, MORE)
    assert teacher.seen == 6


def test_too_little_memory_is_known_before_the_first_batch_is_made(teacher):
    """A run that goes on begins with an empty memory and must make its batches as before."""
    sizes = []
    handle = teacher.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    cache = FeatureCache(images=5, limit_gb=1e-6)
    for _ in range(3):
        cache(teacher, IMAGES[:1], [0], MORE)
    handle.remove()
    assert sizes == [1 + len(MORE)] * 3


def test_cleared_it_computes_again(teacher):
    cache = FeatureCache(images=5, limit_gb=1)
    for _ in range(2):
        cache(teacher, IMAGES[:1], [0], MORE)
    cache.clear()
    own, _ = cache(teacher, IMAGES[:1], [0], MORE)
    assert teacher.seen == 3 + 2 + 3
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(own, teacher(IMAGES[:1] / 255), strict=True))
