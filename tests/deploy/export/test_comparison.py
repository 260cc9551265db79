"""The comparison: differences, what rounding explains, and what fails."""

import math

import numpy as np
import pytest

from dmdd.deploy.export.comparison import compare
from dmdd.deploy.export.sources import Example, choose_source

EXAMPLES = [Example(np.zeros((4, 6, 3), np.uint8), 0, np.zeros((4, 6), bool)), Example(np.ones((8, 8, 3), np.uint8))]


def fake(value_at: dict[tuple[int, int], float]):
    """A runtime whose map and score are one value for each image size."""

    def run(images):
        size = images.shape[1:3]
        value = np.float32(value_at.get(size, 0.5))
        maps = np.full((1, *size), value)
        return {"map": maps, "score": np.array([value]), "raw": maps}

    return run


def differ(value_at, *, threshold=None, examples=EXAMPLES):
    settings = {"input_size": (2, 2), "tolerance": 1e-3, "threshold": threshold}
    return compare(fake({}), fake(value_at), examples, **settings)


def test_differences_are_over_all_images():
    report = differ({(4, 6): 0.5004, (8, 8): 0.5002})
    assert report["images"] == 2
    for name in ("map", "score"):
        assert report["difference"][name]["max"] == pytest.approx(4e-4, abs=1e-6)
        assert report["difference"][name]["mean"] == pytest.approx(3e-4, abs=1e-6)
    assert report["decisive"] == pytest.approx(4e-4, abs=1e-6)


def test_a_difference_that_equal_pixels_do_not_show_is_rounding():
    report = differ({(8, 8): 0.504})
    assert report["difference"]["map"]["max"] == pytest.approx(4e-3, abs=1e-6)
    assert report["decisive"] == pytest.approx(4e-4, abs=1e-6)
    assert differ({(8, 8): 0.54})["decisive"] == pytest.approx(4e-3, abs=1e-6)  # too much for rounding


def test_a_difference_that_equal_pixels_show_counts():
    assert differ({(8, 8): 0.504, (2, 2): 0.503})["decisive"] == pytest.approx(3e-3, abs=1e-6)


def test_nan_is_never_within_the_tolerance():
    assert math.isnan(differ({(8, 8): math.nan})["decisive"])


def test_verdicts_that_change_are_counted():
    assert differ({(8, 8): 0.6}, threshold=0.55)["verdicts_changed"] == 1
    assert "verdicts_changed" not in differ({})


def test_synthetic_images_have_several_sizes_and_a_seed():
    first, second = list(choose_source(None, None)), list(choose_source(None, None))
    assert len({example.image.shape for example in first}) == 5
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, second, strict=True))
