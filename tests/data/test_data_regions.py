"""Regions of interest: masks and polygons, for all images or by name; what does not fit is told in one line."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from test_data_module import make  # beside this file

from dmdd.core.errors import UserError
from dmdd.core.resize import resize_masks
from dmdd.data.datasets import within
from dmdd.data.images import read_image, read_size, write_mask
from dmdd.data.regions import GREY, PackedMasks, Regions, choose_regions
from dmdd.data.sampling import PairSampler

SIZE = (128, 128)
BOX = [[32, 16], [95, 16], [95, 111], [32, 111]]


def box() -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[16:112, 32:96] = True
    return mask


def save(file, mask):
    file.parent.mkdir(parents=True, exist_ok=True)
    write_mask(file, mask)
    return file


def test_a_mask_and_polygons_say_the_same(tmp_path):
    shapes = tmp_path / "shapes.json"
    shapes.write_text(json.dumps([BOX]))
    for roi in (box(), str(save(tmp_path / "roi.png", box())), [BOX], str(shapes)):
        assert np.array_equal(Regions(roi).of(None, SIZE), box())
        assert np.array_equal(Regions(ignore=roi).of(None, SIZE), ~box())
        assert np.array_equal(Regions(roi).common(SIZE), box())
    hole = [[40, 20], [50, 20], [50, 30], [40, 30]]
    found = Regions([BOX], [hole]).of(None, SIZE)
    assert not found[20:31, 40:51].any()
    assert found.sum() == box().sum() - 11 * 11
    assert not Regions()


def test_images_have_regions_by_name(tmp_path):
    save(tmp_path / "masks/train/good/000.png", box())
    (tmp_path / "shapes.json").write_text(json.dumps({"train/good/000.jpg": [BOX]}))
    images = tmp_path / "images"
    first, second = images / "train/good/000.jpg", images / "train/good/001.jpg"
    for given in (str(tmp_path / "masks"), str(tmp_path / "shapes.json")):
        by_name = Regions(given, base=images)
        assert np.array_equal(by_name.of(first, SIZE), box())
        assert by_name.common(SIZE) is None
        with pytest.raises(UserError, match=r"roi=.* has no region for .*001.jpg"):
            by_name.of(second, SIZE)
        assert Regions(ignore=given, base=images).of(second, SIZE).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"roi": "nowhere.png"}, r"roi=nowhere.png: no such file or folder"),
        ({"roi": "empty"}, r"roi=empty: no mask files in this folder"),
        ({"ignore": "broken.json"}, r"ignore=broken.json cannot be read: "),
        ({"roi": "number.json"}, r"roi=number.json: give a list of polygons"),
        ({"roi": [[[0, 0], [1, 1]]]}, r"roi=.*give a list of polygons, each of three or more corners"),
        ({"roi": "small.png"}, r"the region roi=small.png is 30 x 20 px but the image is 128 x 128 px"),
        ({"roi": "black.png"}, r"roi=black.png: no pixel is left; give a larger region"),
        ({"roi": [BOX], "ignore": [BOX]}, r"roi=, ignore=: no pixel is left"),
    ],
)
def test_bad_regions_are_one_line(tmp_path, monkeypatch, settings, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text("[")
    (tmp_path / "number.json").write_text("7")
    write_mask(tmp_path / "small.png", np.ones((20, 30), bool))
    write_mask(tmp_path / "black.png", np.zeros(SIZE, bool))
    with pytest.raises(UserError, match=message):
        Regions(**settings).of(None, SIZE)


def test_the_region_of_a_model_is_named_where_it_does_not_fit():
    regions = choose_regions(torch.ones(20, 30, dtype=torch.bool), roi=None, ignore=None)
    with pytest.raises(UserError, match=r"the region of the model is 30 x 20 px but the image is 128 x 128 px"):
        regions.of(None, SIZE)


@pytest.mark.parametrize("tiles", [{}, {"tile_px": 48}])
def test_pairs_are_grey_and_unchanged_outside(demo_category, tiles):
    module = make(demo_category, roi=box(), held_out_fraction=0.25, **tiles)
    changed = 0
    sampler = PairSampler(images=9, batch_size=4, first_step=0, steps=3, seed=7)
    for batch in map(module.make_pairs, module.planned(sampler, torch.device("cpu"))):
        outside = ~batch.inside.expand_as(batch.normal)
        assert outside.any()
        assert (batch.normal[outside] == GREY).all()
        assert torch.equal(batch.anomalous[outside], batch.normal[outside] / 255)
        assert not batch.mask[outside[:, :1]].any()
        changed += int(batch.mask.flatten(1).any(1).sum())
    assert changed > 6
    for planned in module.val_dataloader():
        module.trainer.training = False
        batch = module.on_after_batch_transfer(planned, 0)
        assert len(batch.inside) == len(batch.images)
        assert not (batch.masks & ~torch.stack(batch.inside)).any()
    assert torch.equal(module.region, torch.from_numpy(box()))


@pytest.mark.parametrize("size", [(5, 7), (4, 8)])
def test_masks_that_are_alike_take_the_memory_of_one(size):
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(3, 1, *size, generator=generator) < 0.5
    order = [2, 0, 0, 1, 2] * 20
    kept = PackedMasks.of((masks[row][None] for row in order), size)
    assert len(kept) == 100
    assert kept.packed.shape == (3, -(-size[0] * size[1] // 8))
    assert torch.equal(kept[:], masks[order])
    assert torch.equal(kept[torch.tensor([3, 1])], masks[[1, 0]])
    assert torch.equal(kept.part([4, 3]).on(torch.device("cpu"))[:], masks[[2, 1]])


def test_a_region_for_all_images_is_kept_once(demo_category, tmp_path):
    module = make(demo_category, roi=box(), held_out_fraction=0.25)
    assert len(module.held_out_inside) == 3
    assert len(module.held_out_inside.packed) == 1
    small = resize_masks(torch.from_numpy(box())[None, None], module.image_size)
    assert torch.equal(module.held_out_inside[:], small.expand(3, -1, -1, -1))
    names = [sample.path.relative_to(demo_category.root) for sample in demo_category.train]
    for number, name in enumerate(names):
        mask = box()
        mask[: 20 + 2 * number] = False
        save(tmp_path / "masks" / name, mask)
    module = make(demo_category, roi=str(tmp_path / "masks"), held_out_fraction=0.25)
    assert len(module.held_out_inside.packed) == len(names)  # each its own, eight pixels to the byte
    assert len({int(mask.sum()) for mask in module.held_out_inside[:]}) == 3


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
def test_the_size_in_the_header_is_that_of_the_image(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (30, 20)).save(tmp_path / name, exif=exif)
    assert read_size(tmp_path / name) == read_image(tmp_path / name).shape[:2]
    assert read_size(tmp_path / name) == ((30, 20) if orientation > 4 else (20, 30))


def test_a_file_without_a_header_is_told_as_ever(tmp_path):
    (tmp_path / "a.png").write_bytes(b"text")
    with pytest.raises(UserError, match=r"cannot read image .*a.png: not an image file"):
        read_size(tmp_path / "a.png")


def test_a_defect_outside_counts_as_none(demo_category):
    whole = next(iter(make(demo_category).test_dataloader()))
    left = np.zeros(SIZE, bool)
    left[:, :64] = True
    batch = next(iter(make(within(demo_category, Regions(left)), roi=left).test_dataloader()))
    marked = whole.masks[..., :32].flatten(1).any(1)
    assert batch.labels.tolist() == (whole.labels.bool() & marked).long().tolist()
    assert 0 < batch.labels.sum() < whole.labels.sum()
    assert not batch.masks[..., 32:].any()
    assert torch.equal(batch.masks[..., :32], whole.masks[..., :32])
    with Image.open(demo_category.test[0].path) as image:
        assert image.size == SIZE
