"""Crops of large images: drawn by plan, inside the image, on the part, and the same in any worker."""

import numpy as np
import pytest
import torch
from PIL import Image
from test_data_module import equal, make, pairs  # beside this file

from dmdd.core.errors import UserError
from dmdd.data import tiles
from dmdd.data.listing import Category, Sample
from dmdd.data.tiles import LargeImages

TILES = {"tile_px": 48, "image_size": (64, 64)}


def test_crops_do_not_depend_on_workers_devices_or_memory(demo_category, monkeypatch):
    alone = pairs(make(demo_category, **TILES))
    assert len(alone) == 3
    assert alone[0].normal.shape == (4, 3, 64, 64)
    assert all(equal(*two) for two in zip(alone, pairs(make(demo_category, num_workers=1, **TILES)), strict=True))
    resumed = make(demo_category, max_steps=2, **TILES)
    resumed.first_step = 1
    assert all(equal(*two) for two in zip(alone[1:], pairs(resumed), strict=True))
    assert not any(equal(*two) for two in zip(alone, pairs(make(demo_category, seed=8, **TILES)), strict=True))
    monkeypatch.setattr(tiles, "KEPT_BYTES", 3 * 128 * 128 * 2)
    few = make(demo_category, **TILES)
    assert few._train.large.kept == 2  # the others are decoded when they are needed
    assert all(torch.equal(a.normal, b.normal) for a, b in zip(alone, pairs(few), strict=True))


def noise_image(folder, *, height: int, width: int, part: tuple[slice, slice] | None = None):
    pixels = np.full((height, width, 3), 230, np.uint8)
    if part is not None:
        pixels[part] = 40
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{height}x{width}.png"
    Image.fromarray(pixels).save(file)
    return file


def test_crops_lie_in_the_image_reach_its_corners_and_prefer_the_part(tmp_path):
    file = noise_image(tmp_path, height=300, width=200, part=(slice(210, 270), slice(120, 180)))
    large = LargeImages([file], tile_px=(64, 80), size=(160, 160))
    assert 0.03 < large.foregrounds.float().mean() < 0.12  # the part covers 6 %
    generator = np.random.default_rng(0)
    places = [large.place(0, generator.random(4)) for _ in range(400)]
    assert all((rows.stop - rows.start, columns.stop - columns.start) == (64, 80) for rows, columns in places)
    assert min(rows.start for rows, _ in places) == 0
    assert max(rows.stop for rows, _ in places) == 300
    assert (min(c.start for _, c in places), max(c.stop for _, c in places)) == (0, 200)
    seen = [bool(large.foreground(0, place, (32, 32)).any()) for place in places]
    assert 0.75 < np.mean(seen) < 0.95  # three in four are drawn on it, some of the others meet it
    whole = large.foreground(0, (slice(0, 300), slice(0, 200)), (300, 200))[0]
    assert whole[240, 150]
    assert not whole[100, 100]


def test_an_image_that_is_no_larger_than_a_tile_is_refused(tmp_path):
    file = noise_image(tmp_path, height=64, width=60)
    with pytest.raises(UserError, match=r"data.tile_px=\[64, 64\]: .*64x60.png is not larger than a tile.*64 x 60 px"):
        LargeImages([file], tile_px=(64, 64), size=(64, 64))
    strip = LargeImages([noise_image(tmp_path, height=40, width=200)], tile_px=(64, 64), size=(64, 64))
    assert strip.place(0, np.full(4, 0.5))[0] == slice(0, 40)  # the short side is taken whole


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tile_px": 0}, r"tile_px=0: give a number of pixels"),
        ({"tile_px": 48, "overlap": 1.0}, r"overlap=1.0: give a number from 0 to 0.9"),
        ({"overlap": 0.5}, r"data.overlap=0.5 counts only with data.tile_px="),
    ],
)
def test_bad_tiles_are_refused(demo_category, settings, message):
    with pytest.raises(UserError, match=message):
        make(demo_category, **settings)


def test_validation_twins_are_whole_images_changed_in_one_crop(demo_category):
    module = make(demo_category, held_out_fraction=0.25, **TILES)
    first, again = list(module.val_dataloader()), list(module.val_dataloader())
    assert len(first) == 3 * 6  # three images, 16 twins or more
    assert sum(len(batch.images) for batch in first) == module.validation_images == 3 + 18
    assert sorted(int(i) for batch in first for i in batch.indices) == [*range(-18, 0), 0, 1, 2]
    assert all(batch.labels.tolist() == [1] for batch in first[3:])
    for batch, same in zip(first[:3], again[:3], strict=True):
        assert torch.equal(batch.images, same.images)
        assert batch.images.shape == (2, 3, 128, 128)
        assert batch.labels.tolist() == [0, 1]
        index = int(batch.indices[0])
        assert batch.indices.tolist() == [index, -1 - index]
        assert torch.equal(batch.images[0], module.held_out_large.image(index))
        changed = (batch.images[0] != batch.images[1]).any(0)
        assert not (changed & ~batch.masks[1, 0]).any()
        rows, columns = torch.nonzero(batch.masks[1, 0]).unbind(1)
        assert max(rows.max() - rows.min(), columns.max() - columns.min()) < 48


def test_test_images_come_one_by_one_at_their_own_size(tmp_path, demo_category):
    files = [noise_image(tmp_path, height=90, width=70), noise_image(tmp_path, height=80, width=100)]
    samples = tuple(Sample(file, 0, "good", None) for file in files)
    category = Category("folder", "x", tmp_path, demo_category.train, samples, has_masks=False)
    shapes = [batch.images.shape for batch in make(category, **TILES).test_dataloader()]
    assert shapes == [(1, 3, 90, 70), (1, 3, 80, 100)]
