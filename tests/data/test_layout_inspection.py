"""The data sets of surface inspection, read from generated trees, and what can be wrong with them."""

import json
import re
from pathlib import Path

import pytest
import trees

from dmdd.core.errors import UserError
from dmdd.data.check import check_data
from dmdd.data.images import read_mask
from dmdd.data.layout_inspection import (
    READERS,
    read_aitex,
    read_bsdata,
    read_dagm,
    read_kolektor_sdd,
    read_kolektor_sdd2,
    read_mvtec_3d,
    read_mvtec_ad_2,
    read_real_iad,
)
from dmdd.data.layouts import category_names
from dmdd.data.listing import how_to_get


def names(samples) -> list[str]:
    return [sample.path.name for sample in samples]


def in_test(category) -> list[tuple[str, str, str | None]]:
    return [(s.path.name, s.defect, s.mask_path and s.mask_path.name) for s in category.test]


def refused(message: str) -> "pytest.RaisesExc[UserError]":
    return pytest.raises(UserError, match=re.escape(message))


def test_mvtec_ad_2_reads_the_public_test_set(tmp_path):
    trees.mvtec_ad_2_category(tmp_path)
    category = read_mvtec_ad_2(root=tmp_path, category="can")
    assert names(category.train) == ["000_regular.png", "001_regular.png", "000_regular.png"]
    assert [(s.held_out, s.path.parts[-3]) for s in category.train] == [
        *[(False, "train")] * 2,
        (True, "validation"),
    ]
    assert in_test(category) == [
        ("000_regular.png", "bad", "000_regular_mask.png"),
        ("001_regular.png", "bad", "001_regular_mask.png"),
        ("000_regular.png", "good", None),
    ]
    included = read_mvtec_ad_2(root=tmp_path, category="can", include_validation=True).train
    assert [s.held_out for s in included] == [False] * 3


def test_mvtec_3d_reads_the_colour_images(tmp_path):
    folder = trees.mvtec_3d_category(tmp_path)
    category = read_mvtec_3d(root=tmp_path, category="bagel")
    assert {(s.held_out, s.path.parent) for s in category.train} == {
        (False, folder / "train" / "good" / "rgb"),
        (True, folder / "validation" / "good" / "rgb"),
    }
    assert [(s.defect, s.mask_path) for s in category.test] == [
        ("crack", folder / "test" / "crack" / "gt" / "000.png"),
        ("good", None),
        ("hole", folder / "test" / "hole" / "gt" / "000.png"),
    ]
    assert not any(s.held_out for s in read_mvtec_3d(root=tmp_path, category="bagel", include_validation=True).train)


def test_real_iad_reads_every_view_by_the_table(tmp_path):
    trees.real_iad_category(tmp_path)
    category = read_real_iad(root=tmp_path, category="audiojack")
    assert names(category.train) == [f"audiojack_0001_OK_C{view}_2023.jpg" for view in (1, 2)]
    assert [s.part for s in category.test] == ["NG/BX/S0003"] * 2 + ["OK/S0002"] * 2
    assert in_test(category) == [
        *((f"audiojack_0003_BX_C{view}_2023.jpg", "BX", f"audiojack_0003_BX_C{view}_2023.png") for view in (1, 2)),
        *((f"audiojack_0002_OK_C{view}_2023.jpg", "good", None) for view in (1, 2)),
    ]
    trees.real_iad_category(tmp_path, size="1024")
    assert "realiad_1024" in read_real_iad(root=tmp_path, category="audiojack").root.parts
    assert "realiad_512" in read_real_iad(root=tmp_path, category="audiojack", size=512).root.parts


def test_dagm_takes_what_has_no_label_for_normal(tmp_path):
    trees.dagm_category(tmp_path)
    category = read_dagm(root=tmp_path, category="Class1")
    assert names(category.train) == ["0001.PNG", "0003.PNG", "0004.PNG"]
    assert in_test(category) == [
        ("0001.PNG", "defect", "0001_label.PNG"),
        ("0002.PNG", "good", None),
        ("0003.PNG", "defect", "0003_label.PNG"),
    ]


def test_kolektor_sdd_keeps_a_commutator_on_one_side(tmp_path):
    trees.kolektor_sdd_root(tmp_path)
    category = read_kolektor_sdd(root=tmp_path, category="commutator", test_fraction=0.4)
    good = {s.path.parent for s in category.test if s.label == 0}
    assert good
    assert not good & {s.path.parent for s in category.train}
    assert len(category.train) + sum(s.label == 0 for s in category.test) == 10
    assert [t for t in in_test(category) if t[1] != "good"] == [("Part1.jpg", "defect", "Part1_label.bmp")] * 2


def test_kolektor_sdd2_trains_on_normal_images_alone(tmp_path):
    trees.kolektor_sdd2_root(tmp_path)
    category = read_kolektor_sdd2(root=tmp_path, category="surface")
    assert names(category.train) == ["10000.png", "10001.png"]
    assert in_test(category) == [("10000.png", "good", None), ("10001.png", "defect", "10001_GT.png")]


def test_bsdata_fills_the_outlines(tmp_path):
    trees.bsdata_root(tmp_path)
    category = read_bsdata(root=tmp_path, category="ball_screw")
    (bad,) = (s for s in category.test if s.label == 1)
    assert (bad.path.name, bad.defect) == ("01_3_crop_2.jpg", "pitting")
    assert len(category.train) + len(category.test) == 6
    mask = read_mask(bad.mask_path, size=(trees.SIDE, trees.SIDE))
    assert mask.sum() == 2 * 16  # 4 x 4 px each, the corners included
    assert mask[2:6, 2:6].all()
    assert mask[2:6, 12:16].all()


def test_aitex_reads_one_fabric(tmp_path):
    trees.aitex_root(tmp_path)
    category = read_aitex(root=tmp_path, category="03")
    assert [t for t in in_test(category) if t[1] != "good"] == [
        ("0010_002_03.png", "c002", "0010_002_03_mask.png"),
        ("0011_019_03.png", "c019", "0011_019_03_mask.png"),
    ]
    assert len(category.train) + sum(s.label == 0 for s in category.test) == 5
    assert category_names({"_target_": "dmdd.data.layouts.read_aitex", "root": str(tmp_path)}) == ["03", "04"]


@pytest.mark.parametrize("name", READERS)
def test_check_finds_nothing_wrong_with_a_sound_tree(tmp_path, name):
    category, write = trees.PUBLISHED[name]
    write(tmp_path / name)
    lines, count = check_data(data_dir=tmp_path, dataset=name)
    assert count == 0
    assert lines[-1].startswith("no problems found")
    assert lines[0].startswith(f"{name}/{category}  ")


def spoil_table(root: Path, change) -> None:
    table = trees.real_iad_category(root)
    content = json.loads(table.read_text())
    change(content)
    table.write_text(json.dumps(content))


def remove(*places: str):
    return lambda root: [(root / place).unlink() for place in places]


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("mvtec_ad_2", remove("can/test_public/ground_truth/bad/000_regular_mask.png"), "image without mask: "),
        ("mvtec_3d", remove("bagel/test/hole/rgb/000.png"), "mask without image: "),
        (
            "mvtec_3d",
            remove(*(f"bagel/train/good/rgb/00{number}.png" for number in (0, 1))),
            "no normal images to train on",
        ),
        ("dagm", remove("Class1/Test/0003.PNG"), "mask without image: "),
        ("kolektor_sdd", remove("kos03/Part0_label.bmp"), "image without label: "),
        ("kolektor_sdd2", remove("train/10000_GT.png"), "image without label: "),
        ("bsdata", remove("data/01_3_crop_2.jpg"), "mask without image: "),
        ("aitex", remove("Mask_images/0010_002_03_mask.png"), "image without mask: "),
        ("real_iad", remove("realiad_jsons/realiad_jsons/audiojack.json"), "no table "),
        ("real_iad", remove("realiad_512/audiojack/OK/S0001/audiojack_0001_OK_C1_2023.jpg"), "missing file: "),
        ("real_iad", lambda r: spoil_table(r, lambda t: t.pop("meta")), "no table of Real-IAD ('meta')"),
        (
            "real_iad",
            lambda r: spoil_table(r, lambda t: t["train"].append(t["test"][2])),
            "is anomalous and to train on",
        ),
        (
            "real_iad",
            lambda r: spoil_table(r, lambda t: t["test"][2].update(mask_path=None)),
            "is anomalous and has no mask",
        ),
        ("real_iad", lambda r: spoil_table(r, lambda t: t["test"].clear()), "no test images in "),
    ],
)
def test_what_is_wrong_is_told(tmp_path, name, spoil, message):
    category, write = trees.PUBLISHED[name]
    write(tmp_path)
    spoil(tmp_path)
    with refused(message):
        READERS[name][0](root=tmp_path, category=category)


def test_real_iad_in_a_size_that_is_not_there(tmp_path):
    trees.real_iad_category(tmp_path)
    with refused("size= may be 512"):
        read_real_iad(root=tmp_path, category="audiojack", size=1024)


@pytest.mark.parametrize(
    "content",
    ["no json", "[]", '{"imageWidth": 4, "imageHeight": 4, "shapes": [{"shape_type": "circle", "points": []}]}'],
)
def test_outlines_that_cannot_be_read(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with refused(f"cannot read outlines {tmp_path / 'a.json'}: no file of labelme ("):
        read_mask(tmp_path / "a.json")


def test_a_data_set_without_an_archive_points_to_the_docs(tmp_path):
    assert how_to_get("bsdata", data_dir=tmp_path) == "docs/datasets.md says where to get bsdata and how to unpack it"
