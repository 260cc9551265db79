"""The demo data set: the same bytes every time, masks exact to the pixel, nothing of anyone else's overwritten."""

import hashlib
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
import trees

from dmdd.core.errors import UserError
from dmdd.data.demo import generate
from dmdd.data.demo.defects import DEFECTS, render_plate
from dmdd.data.demo.generate import generate_demo
from dmdd.data.demo.plate import draw_look
from dmdd.data.images import read_image, read_mask
from dmdd.data.layouts import read_mvtec_ad

SMALL = {"size": 64, "train": 3, "test_good": 2, "per_defect": 2}


def refused(message: str) -> "pytest.RaisesExc[UserError]":
    return pytest.raises(UserError, match=re.escape(message))


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_shape_and_counts(tmp_path):
    target = generate_demo(tmp_path, **SMALL)
    assert target == tmp_path / "demo"
    category = read_mvtec_ad(root=target, category="plate", dataset="demo")
    assert len(category.train) == 3
    assert [s.defect for s in category.test] == [
        *("dent", "dent", "good", "good", "missing_piece", "missing_piece"),
        *("scratch", "scratch", "stain", "stain"),
    ]
    assert category.has_masks
    for sample in category.test:
        image = read_image(sample.path)
        assert image.shape == (64, 64, 3)
        if sample.mask_path is not None:
            assert 0 < read_mask(sample.mask_path, size=(64, 64)).mean() < 0.1
    assert [path.name for path in tmp_path.iterdir()] == ["demo"], "no staging folder stays behind"


def test_same_bytes_every_time_and_other_bytes_for_another_seed(tmp_path):
    first = digests(generate_demo(tmp_path / "a", **SMALL))
    assert digests(generate_demo(tmp_path / "b", **SMALL)) == first
    assert digests(generate_demo(tmp_path / "a", **SMALL)) == first
    other = digests(generate_demo(tmp_path / "c", seed=1, **SMALL))
    assert other.keys() == first.keys()
    assert not set(other.values()) & set(first.values())


def test_larger_set_begins_with_the_smaller_one(tmp_path):
    small = digests(generate_demo(tmp_path / "a", **SMALL))
    large = digests(generate_demo(tmp_path / "b", **{**SMALL, "train": 5, "per_defect": 3}))
    del small["demo.json"]
    assert small.items() <= large.items()


def test_no_image_comes_twice(tmp_path):
    images = [d for name, d in digests(generate_demo(tmp_path, **SMALL)).items() if "ground_truth" not in name]
    assert len(set(images)) == len(images)


@pytest.mark.parametrize("defect", DEFECTS)
def test_mask_is_where_the_defect_changed_its_normal_twin(defect):
    for number in range(4):
        look = draw_look(np.random.default_rng(number))
        twin, nothing = render_plate(look=look, size=256)
        image, mask = render_plate(look=look, size=256, defect=defect, rng=np.random.default_rng([number, 1]))
        assert not nothing.any()
        np.testing.assert_array_equal(image[~mask], twin[~mask])
        change = np.abs(image[mask].astype(int) - twin[mask]).max(axis=1)
        # Visible, and not only at the centre: at least half of the mask differs by more than the sensor's noise.
        assert change.mean() > 12, (defect, number)
        assert (change > 6).mean() > 0.5, (defect, number)
        assert 60 <= mask.sum() <= 256 * 256 * 0.04, (defect, number)


def test_normal_parts_vary():
    parts = [render_plate(look=draw_look(np.random.default_rng(n)), size=64)[0].astype(float) for n in range(6)]
    pairs = [np.abs(a - b).mean() for i, a in enumerate(parts) for b in parts[:i]]
    assert min(pairs) > 4
    assert all(30 < part.mean() < 200 for part in parts)
    assert all((part == 255).mean() < 0.05 for part in parts), "exposure keeps the highlights"


def test_an_older_demo_is_replaced_whole(tmp_path):
    generate_demo(tmp_path, **{**SMALL, "train": 6})
    target = generate_demo(tmp_path, **SMALL)
    assert len(list((target / "plate" / "train" / "good").iterdir())) == 3


def test_default_set_is_quick(tmp_path, monkeypatch):
    started = time.process_time()
    drawn = render_plate(look=draw_look(np.random.default_rng(0)), size=256)
    images = 48 + 12 + 4 * 6
    assert (time.process_time() - started) * images < 30, "about 5 s on one core"
    monkeypatch.setattr(generate, "render_plate", lambda **settings: drawn)
    target = generate_demo(tmp_path)
    category = read_mvtec_ad(root=target, category="plate", dataset="demo")
    assert (len(category.train), len(category.test)) == (48, images - 48)
    assert read_image(category.test[0].path).shape == (256, 256, 3)


def test_foreign_folder_is_left_alone(tmp_path):
    image = trees.write_image(tmp_path / "demo" / "mine.png")
    before = image.read_bytes()
    with refused(f"{tmp_path / 'demo'} is not a demo data set: it is left alone, give another --output"):
        generate_demo(tmp_path, **SMALL)
    assert image.read_bytes() == before
    (tmp_path / "demo" / "demo.json").write_text('{"files": 3}')
    with refused("is not a demo data set"):
        generate_demo(tmp_path, **SMALL)


def test_file_at_the_target_is_left_alone(tmp_path):
    (tmp_path / "demo").write_text("mine")
    with refused("is not a demo data set"):
        generate_demo(tmp_path, **SMALL)
    assert (tmp_path / "demo").read_text() == "mine"


def test_demo_with_foreign_files_is_left_alone(tmp_path):
    target = generate_demo(tmp_path, **SMALL)
    trees.write_image(target / "plate" / "test" / "mine.png")
    with refused(f"{target} holds files that are not the demo's (plate/test/mine.png): it is left alone"):
        generate_demo(tmp_path, **SMALL)
    assert (target / "plate" / "test" / "mine.png").exists()


def test_nothing_half_written_after_an_error(tmp_path, monkeypatch):
    target = generate_demo(tmp_path, **SMALL)
    before = digests(target)

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(generate, "_write_defects", fail)
    with pytest.raises(OSError, match="disk full"):
        generate_demo(tmp_path, **SMALL)
    assert digests(target) == before
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("size", 63, "size is 63: it must lie between 64 and 1024 px"),
        ("size", 1025, "size is 1025: it must lie between 64 and 1024 px"),
        ("seed", -1, "seed is -1: it must be 0 or more"),
        ("train", 0, "train is 0: it must lie between 1 and 1000"),
        ("per_defect", 1001, "per_defect is 1001: it must lie between 1 and 1000"),
    ],
)
def test_numbers_out_of_range(tmp_path, option, value, message):
    with refused(message):
        generate_demo(tmp_path, **{option: value})
    assert list(tmp_path.iterdir()) == []


def test_output_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with refused(f"cannot write to {tmp_path / 'file'}: "):
        generate_demo(tmp_path / "file", **SMALL)


def test_defect_needs_a_generator():
    with pytest.raises(ValueError, match="a defect needs a random generator"):
        render_plate(look=draw_look(np.random.default_rng(0)), size=64, defect="dent")


def test_marker_tells_how_it_was_made(tmp_path):
    about = json.loads((generate_demo(tmp_path, **SMALL) / "demo.json").read_text())
    assert (about["seed"], about["size_px"], about["version"]) == (0, 64, 1)
