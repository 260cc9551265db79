"""The channels of MVTec LOCO and the areas that suffice to find them."""

import json

import cv2
import numpy as np
import pytest

from dmdd.core.errors import UserError
from dmdd.data.layouts import read_mvtec_loco
from dmdd.data.saturation import CONFIG_NAME, Saturation, defect_reader, read_channel, read_saturations

CONFIG = [
    {"defect_name": "missing", "pixel_value": 255, "saturation_threshold": 0.5, "relative_saturation": True},
    {"defect_name": "scratch", "pixel_value": 7, "saturation_threshold": 3, "relative_saturation": False},
]


@pytest.fixture
def category(tmp_path):
    """One normal image and one of each type; the logical one has two defects that overlap."""
    root = tmp_path / "mvtec_loco" / "pushpins"
    images = ("train/good/000", "test/good/000", "test/logical_anomalies/000", "test/structural_anomalies/000")
    for name in images:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / f"{name}.png"), np.zeros((6, 8, 3), np.uint8))
    missing, scratch = np.zeros((6, 8), np.uint8), np.zeros((6, 8), np.uint8)
    missing[0, :5], scratch[0, 3:8] = 255, 7
    for name, masks in (("logical_anomalies", [missing, scratch]), ("structural_anomalies", [scratch])):
        folder = root / "ground_truth" / name / "000"
        folder.mkdir(parents=True)
        for number, mask in enumerate(masks):
            cv2.imwrite(str(folder / f"{number:03}.png"), mask)
    (root / CONFIG_NAME).write_text(json.dumps(CONFIG))
    return read_mvtec_loco(root=root.parent, category="pushpins")


def test_defects_have_their_own_channels_and_areas(category):
    read = defect_reader(category.test)
    assert [sample.defect for sample in category.test] == ["good", "logical_anomalies", "structural_anomalies"]
    assert read(0) == ((6, 8), [])
    size, (missing, scratch) = read(1)
    assert size == (6, 8)
    assert (missing.mask.sum(), missing.saturation) == (5, 2)  # half of five, rounded down
    assert (scratch.mask.sum(), scratch.saturation) == (5, 3)
    assert np.flatnonzero(missing.mask & scratch.mask).tolist() == [3, 4]
    assert len(read(2).channels) == 1


@pytest.mark.parametrize(
    ("saturation", "pixels", "area"),
    [
        (Saturation(0.5, True), 5, 2),
        (Saturation(0.1, True), 5, 1),  # the authors' code would divide by 0
        (Saturation(2.0, True), 5, 5),
        (Saturation(3, False), 5, 3),
        (Saturation(300, False), 5, 5),
    ],
)
def test_areas_that_suffice(saturation, pixels, area):
    assert saturation.area(pixels) == area


def test_other_layouts_have_no_channels(category):
    (category.root / CONFIG_NAME).unlink()
    assert defect_reader(category.test) is None
    assert defect_reader(category.test[:1]) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot read .*defects_config.json: JSONDecodeError"),
        ('[{"pixel_value": 1}]', "KeyError 'saturation_threshold'"),
        (json.dumps([CONFIG[0] | {"saturation_threshold": 0}]), "the saturation of 255 is 0.0, it must be above 0"),
    ],
)
def test_broken_settings_are_refused(tmp_path, text, message):
    (tmp_path / CONFIG_NAME).write_text(text)
    with pytest.raises(UserError, match=message):
        read_saturations(tmp_path / CONFIG_NAME)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0, 0, 0], "is empty"),
        ([7, 255, 0], "holds several numbers"),
        ([9, 0, 9], r"holds 9, but defects_config.json knows \[7\]"),
    ],
)
def test_broken_channels_are_refused(tmp_path, row, message):
    cv2.imwrite(str(tmp_path / "000.png"), np.array([row], np.uint8))
    with pytest.raises(UserError, match=message):
        read_channel(tmp_path / "000.png", {7: Saturation(1, False)})


def test_a_folder_without_channels_is_refused(category):
    for file in (category.root / "ground_truth" / "structural_anomalies" / "000").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"no mask files in .*expected one image file per defect"):
        defect_reader(category.test)
