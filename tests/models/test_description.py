"""What detector.json may say of the calibration."""

import pytest
import torch

from dmdd.core.errors import UserError
from dmdd.models.description import check_description, check_tensors, check_widths

TABLE = {"scores": [0.3, 0.4], "rates": [0.5, 0.01]}


def test_a_whole_calibration_is_taken():
    calibration = {
        "image_threshold": 0.4,
        "image_false_alarm_interval": [0.001, 0.03],
        "promised": False,
        "promise": "1 % ...",
        "typical_score": 0.3,
        "typical_peak": 1.0,
        "spread": 0.1,
        "anomalous_found": 0.0,
        "smallest_area_px": 0,
        "spot_area_px": 201,
        "false_alarm_table": TABLE,
    }
    check_description({"calibration": calibration, "former_calibrations": [{}]})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("typical_score", 1, "calibration.typical_score=1: a number in its range is wanted"),
        ("typical_peak", "high", "calibration.typical_peak=high: a number in its range"),
        ("spread", 0, "calibration.spread=0: a number in its range"),
        ("anomalous_found", 1.1, "calibration.anomalous_found=1.1: a number in its range"),
        ("smallest_area_px", -1, "calibration.smallest_area_px=-1: a whole number of pixels is wanted"),
        ("spot_area_px", -1, "calibration.spot_area_px=-1: a number in its range"),
        ("promise", 7, "calibration.promise=7: a text is wanted"),
        ("false_alarm_table", [], r"calibration.false_alarm_table=\[\]: ascending scores and as many rates above 0"),
        ("false_alarm_table", TABLE | {"scores": [0.4, 0.3]}, "ascending scores"),
        ("false_alarm_table", TABLE | {"rates": [0.5]}, "ascending scores"),
        ("false_alarm_table", TABLE | {"rates": [0.5, 0]}, "ascending scores"),
        ("false_alarm_table", TABLE | {"rates": [0.5, "a"]}, "ascending scores"),
    ],
)
def test_what_cannot_be_used_is_named(name, value, message):
    with pytest.raises(UserError, match=message):
        check_description({"calibration": {name: value}})


def test_former_calibrations_are_a_list():
    with pytest.raises(UserError, match="former_calibrations=1: a list of objects is wanted"):
        check_description({"former_calibrations": 1})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"teacher": 3}, "teacher=3: an object is wanted"),
        ({"category_calibrations": {"lid": 1}}, "category_calibrations={'lid': 1}: an object of objects is wanted"),
        ({"category_calibrations": {"lid": {"spread": 0}}}, "calibration.spread=0: a number in its range"),
        ({"category_calibrations": {"lid": {"thresh": 0}}}, "category_calibrations.lid=thresh: there are image_thres"),
        ({"image_kinds": 0}, "image_kinds=\\[0\\]: 1 whole number is wanted, from 1 to 1024"),
        ({"calibration": []}, r"calibration=\[\]: an object is wanted"),
        ({"tilling": {}}, r"tilling={}: there are format_version, teacher, .* only"),
        ({"calibration": {"thresh": 0.5}}, r"calibration.thresh=0.5: there are image_threshold, .* only"),
        ({"teacher": {"backbone": 18}}, "teacher.backbone=18: the name of a timm model is wanted"),
        ({"teacher": {"folded": "yes"}}, "teacher.folded=yes: true or false is wanted"),
        ({"teacher": {"mean": [0, 0]}}, r"teacher.mean=\[0, 0\]: three numbers are wanted"),
        ({"teacher": {"std": [1, 1, 0]}}, r"teacher.std=\[1, 1, 0\]: three numbers are wanted, of std above 0"),
        ({"student": {"widths": [8, 8]}}, r"student.widths=\[8, 8\]: 3 whole numbers are wanted, from 1 to 8192"),
        ({"segmentation": {"width": 0}}, r"segmentation.width=\[0\]: 1 whole number is wanted, from 1 to 8192"),
        ({"segmentation": {"dilations": []}}, r"segmentation.dilations=\[\]: whole numbers are wanted"),
        ({"input_size": [64, True]}, r"input_size=\[64, True\]: 2 whole numbers are wanted"),
        ({"sigma_px": float("nan")}, "sigma_px=nan: a finite number is wanted"),
        ({"score_map": None}, "score_map=None: the name of a map is wanted"),
        ({"score_function": 1}, "score_function=1: the name of a function is wanted"),
        ({"whitened": 1}, "whitened=1: true or false is wanted"),
        ({"tiling": {"tile_px": [64, 64], "overlap": 1}}, "tiling.overlap=1: a number from 0 to"),
        ({"region": [0, 64]}, r"region=\[0, 64\]: 2 whole numbers are wanted"),
        ({"normal_levels": []}, r"normal_levels=\[\]: an object is wanted"),
        ({"normal_levels": {"fused": [0.5, 0.4]}}, r"normal_levels.fused=\[0.5, 0.4\]: two numbers above 0"),
        ({"calibration": {"image_false_alarm_rate": 2}}, "image_false_alarm_rate=2: a number from 0 to 1 is wanted"),
        ({"calibration": {"normal_images": 1.5}}, "calibration.normal_images=1.5: a whole number is wanted"),
    ],
)
def test_an_entry_that_cannot_be_is_named(spec, message):
    with pytest.raises(UserError, match=message):
        check_description(spec)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (torch.zeros(2, dtype=torch.float16), "damaged: a is torch.float16, not torch.float32"),
        (torch.tensor([1.0, torch.inf]), "damaged: a holds values that are no numbers"),
    ],
)
def test_weights_of_another_type_or_without_a_value_are_damaged(found, message):
    check_tensors({"b": found}, {"a": torch.zeros(2)})  # other names are told when they are loaded
    with pytest.raises(UserError, match=message):
        check_tensors({"a": found}, {"a": torch.zeros(2)})


def test_a_width_that_no_tensor_has_is_refused_before_it_takes_memory():
    state = {"a": torch.zeros(8, 3)}
    check_widths({"student": {"widths": [8, 8, 8]}, "segmentation": {"width": 3}}, state)
    with pytest.raises(UserError, match="no tensor of it has the width 4096"):
        check_widths({"student": {"widths": [8, 8, 4096]}}, state)
