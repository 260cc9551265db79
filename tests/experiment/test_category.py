"""One category, a list, a pattern or all of a data set, in every layout."""

import re
from pathlib import Path

import pytest

from dmdd.config.schema import TrainSettings
from dmdd.core.errors import UserError
from dmdd.data.listing import Category
from dmdd.experiment.category import read_category
from tiny import save_image


def read(root: Path, category: str | None, dataset: str = "mvtec_layout") -> Category:
    return read_category(TrainSettings.compose(dataset=dataset, data_dir=str(root)).dataset, category)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Categories in the layout `folder`, which all layouts are joined like."""
    root = tmp_path_factory.mktemp("parts")
    for name in ("metal_lid", "metal_rod", "nut"):
        for number in range(6):
            save_image(root / name / "good" / f"{number}.png", seed=number)
        save_image(root / name / "bad" / "dent" / "0.png", seed=9)
    return root


@pytest.mark.parametrize(
    ("given", "members"),
    [
        ("all", ("metal_lid", "metal_rod", "nut")),
        ("metal_*", ("metal_lid", "metal_rod")),
        ("nut, metal_lid", ("nut", "metal_lid")),
        ("nut,nut", ()),
        ("n*", ()),
        ("nut", ()),
    ],
)
def test_what_names_several_categories(parts, given, members):
    category = read(parts, given, dataset="folder")
    assert category.members == members
    if not members:
        assert category.name == "nut"
        return
    assert category.name == given.replace(", ", ",")
    assert category.root == parts
    alone = [read(parts, name, dataset="folder") for name in members]
    assert [sample.path for sample in category.test] == [sample.path for one in alone for sample in one.test]
    assert {sample.defect for sample in category.test} == {"good", *(f"{name}-dent" for name in members)}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("wood_*", "no category matches 'wood_*': there are metal_lid, metal_rod, nut"),
        ("nut,metal_lit", "unknown category 'metal_lit'"),
        ("all_each", "category=all_each trains one model a category: add -m"),
    ],
)
def test_what_names_none(parts, given, message):
    with pytest.raises(UserError, match=re.escape(message)):
        read(parts, given, dataset="folder")


@pytest.mark.parametrize(
    ("dataset", "good", "bad"), [("mvtec_ad", "train/good", "test/dent"), ("folder", "good", "bad")]
)
def test_results_go_under_the_name_of_the_settings_whatever_the_reader_calls_it(tmp_path, dataset, good, bad):
    masks = "ground_truth/dent/1_mask.png" if dataset == "mvtec_ad" else "masks/1.png"
    for file in (f"{good}/0.png", f"{good}/1.png", f"{bad}/1.png", masks):
        save_image(tmp_path / "lid" / file, seed=1)
    settings = TrainSettings.compose(f"dataset={dataset}", "dataset.name=mine", f"dataset.layout.root='{tmp_path}'")
    assert read_category(settings.dataset, "lid").dataset == "mine"
