"""What detector.json may say of the calibration."""

import pytest

from dmdd.core.errors import UserError
from dmdd.models.description import check_description

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
