"""The pixel threshold against a search by hand."""

import pytest
import torch

from dmdd.metrics.pixel_threshold import choose_pixel_threshold, count_values, peaks


def test_pixel_threshold_is_the_one_of_the_largest_f1():
    generator = torch.Generator().manual_seed(0)
    maps, masks = torch.rand(3, 1, 16, 16, generator=generator), torch.rand(3, 1, 16, 16, generator=generator) < 0.2
    maps[masks] = (maps[masks] + 0.6).clamp(max=1)
    counts = count_values(maps, masks)
    threshold, f1 = choose_pixel_threshold(counts)
    values, truth = maps.flatten(), masks.flatten()
    by_hand = []
    for cut in (k / 4096 for k in range(4096)):
        hit = int((truth & (values >= cut)).sum())
        by_hand.append(2 * hit / (int(truth.sum()) + int((values >= cut).sum())))
    assert f1 == pytest.approx(max(by_hand))
    assert by_hand[round(threshold * 4096)] == pytest.approx(max(by_hand))
    assert peaks(counts) == pytest.approx(maps.flatten(1).amax(1).tolist(), abs=1 / 4096)
    assert choose_pixel_threshold(count_values(maps, torch.zeros_like(masks))) is None
