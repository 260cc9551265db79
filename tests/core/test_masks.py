"""From maps to masks: what blur adds to a region is taken off, small regions are dropped."""

import cv2
import numpy as np
import pytest

from dmdd.core.masks import drop_small, find_mask, scale_spot, tighten


def test_small_regions_are_dropped():
    mask = np.zeros((8, 8), bool)
    mask[0, 0] = mask[1, 1] = True  # one region of two pixels, over the corner
    mask[5, 5:8] = True
    assert drop_small(mask, 0) is mask
    assert drop_small(mask, 3).sum() == 3
    assert drop_small(mask, 2).sum() == 5
    assert not drop_small(mask, 4).any()


def test_each_region_loses_its_weakest_pixels():
    heat = np.zeros((6, 12), np.float32)
    heat[1, 0:8] = [5, 6, 7, 8, 9, 8, 7, 4]  # 8 pixels lose 4: 4, 5, 6 and one of the 7s; equal ones stay together
    heat[4, 2:4] = [2, 3]  # over the corner, 3 pixels; at least a quarter is left, so 1
    heat[5, 4] = 1
    mask = tighten(heat > 0, heat, 4)
    assert mask[1].nonzero()[0].tolist() == [2, 3, 4, 5, 6]
    assert mask[4:].nonzero() == ([0], [3])
    assert mask.sum() == 6


def test_no_spot_changes_nothing():
    mask = np.eye(4, dtype=bool)
    assert tighten(mask, np.eye(4), 0) is mask
    assert (tighten(mask, np.eye(4), 0.4) == mask).all()  # a spot of less than half a pixel


@pytest.mark.parametrize("radius", [4, 10, 30])
def test_a_blurred_circle_gets_its_size_back(radius):
    """A threshold far below half of the peak makes a small circle much too wide; what blur added is taken off."""
    rows, columns = np.mgrid[:128, :128] - 64
    true = rows**2 + columns**2 <= radius**2
    heat = cv2.GaussianBlur(true.astype(np.float32), (0, 0), 5)
    wide = heat >= 0.25 * heat.max()
    tight = find_mask(heat, 0.25 * float(heat.max()), spot_area_px=201)
    overlap = [(mask & true).sum() / (mask | true).sum() for mask in (wide, tight)]
    assert overlap[1] > overlap[0]
    assert (tight <= wide).all()


def test_what_is_outside_the_region_of_interest_is_no_part_of_a_region():
    heat = np.full((2, 8), 0.5, np.float32)
    heat[:, 4:] = 0.9
    inside = np.arange(8) < 4  # else the left half would be the region's weaker half and go
    assert find_mask(heat, 0.4, spot_area_px=4, inside=np.tile(inside, (2, 1))).sum() == 8


def test_a_spot_is_scaled_by_what_the_network_sees():
    assert scale_spot(200, seen=(512, 1024), input_size=(256, 256)) == 1600
    assert scale_spot(200, seen=(128, 128), input_size=(256, 256)) == 50
