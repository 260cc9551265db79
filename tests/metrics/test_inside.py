"""Pixels of a region in a row: the same figures as a slow count of them, and the same regions."""

import cv2
import numpy as np
import pytest
import torch

from dmdd.metrics import AUPRO, PixelAUROC, keep_inside


def example(seed: int):
    generator = np.random.default_rng(seed)
    scores = torch.from_numpy(generator.random((1, 30, 40)).astype(np.float32))
    mask = torch.from_numpy(generator.random((1, 30, 40)) < 0.15)
    inside = torch.zeros(1, 30, 40, dtype=torch.bool)
    inside[:, 5:25, 8:33] = True
    inside[:, 10:14, 15:20] = False
    return scores, mask, inside


@pytest.mark.parametrize("seed", range(3))
def test_a_row_keeps_pixels_and_regions(seed):
    scores, mask, inside = example(seed)
    row, marked = keep_inside(scores, mask, inside)
    assert row.shape == marked.shape == (1, 1, int(inside.sum()))
    kept = scores[inside].sort().values
    assert torch.equal(row.flatten().sort().values, kept)
    assert torch.equal(row[marked].sort().values, scores[inside & mask].sort().values)

    def sizes(image):
        stats = cv2.connectedComponentsWithStats(image.numpy().astype(np.uint8), connectivity=8)[2]
        return sorted(stats[1:, cv2.CC_STAT_AREA].tolist())

    assert sizes(marked[0]) == sizes((mask & inside)[0])


def test_figures_are_of_the_region_alone():
    scores, mask, inside = example(3)
    metric = PixelAUROC(exact=True)
    metric.update(*keep_inside(scores, mask, inside))
    anomalous, normal = scores[mask & inside].double(), scores[~mask & inside].double()
    expected = (anomalous[:, None] > normal).double().mean()
    assert float(metric.compute()) == pytest.approx(float(expected), abs=1e-12)
    # AUPRO of an image whose outside was never there: a rectangle.
    box = inside.clone()
    box[:, 5:25, 8:33] = True
    rectangle, whole = AUPRO(0.3, exact=True), AUPRO(0.3, exact=True)
    rectangle.update(*keep_inside(scores, mask, box))
    whole.update(scores[:, 5:25, 8:33], mask[:, 5:25, 8:33])
    assert float(rectangle.compute()) == pytest.approx(float(whole.compute()), abs=1e-12)


def test_where_all_is_anomalous_there_is_nothing_to_part_regions_with():
    scores, _, inside = example(4)
    row, marked = keep_inside(scores, torch.ones_like(inside), inside)
    assert marked.all()
    assert row.numel() == int(inside.sum())
