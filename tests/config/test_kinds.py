"""Which values of a setting are of the wrong kind, and what is said of them."""

import pytest

from dmdd.config.kinds import check_kinds
from dmdd.core.errors import UserError

USUAL = {
    "steps": 10,
    "rate": 0.1,
    "wait_s": 5,
    "on": True,
    "name": "a",
    "either": None,
    "image_size": [256, 256],
    "weights": [],
    "student": {"_target_": "dmdd.models.Student", "body": "reverse", "widths": [1, 2, 3]},
    "data": {"workers": 0},
    "callbacks": {"progress": {"_target_": "x"}},
    "trainer": {"devices": 1},
}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": "ten"}, "steps=ten: give a whole number"),
        ({"steps": 1.5}, "steps=1.5: give a whole number"),
        ({"steps": True}, "steps=True: give a whole number"),
        ({"rate": "fast"}, "rate=fast: give a number"),
        ({"rate": float("nan")}, "rate=nan: give a finite number"),
        ({"on": 1}, "on=1: give true or false"),
        ({"name": ["a"]}, r"name=\['a'\]: give a text"),
        ({"image_size": 256}, r"image_size=256: give height and width, as in image_size=\[256,256\]"),
        ({"weights": 3}, r"weights=3: give a list, as in weights=\[\.\.\.\]"),
        ({"student": "wide"}, "student=wide: give its settings one by one, as in student.SETTING=VALUE"),
        (
            {"student": {"body": "reverse", "widths": 4}},
            r"student.widths=4: give a list, as in student.widths=\[1,2,3\]",
        ),
        ({"data": None}, "data=None: give its settings one by one"),
        ({"data": {}}, "data.workers is missing: it is needed"),
        ({"data": {"workers": "two"}}, "data.workers=two: give a whole number"),
        ({"either": {"deep": float("inf")}}, "either.deep=inf: give a finite number"),
    ],
)
def test_another_kind_is_refused(changed, message):
    with pytest.raises(UserError, match=f"^{message}"):
        check_kinds(USUAL | changed, USUAL)


def test_nothing_needed_may_be_taken_away():
    with pytest.raises(UserError, match=r"^rate is missing: it is needed, leave it in$"):
        check_kinds({name: value for name, value in USUAL.items() if name != "rate"}, USUAL)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"rate": 1, "wait_s": 0.5, "image_size": [64], "weights": ["a", 2]},  # lists are checked by what they are of
        {"steps": "${other}", "on": "${oc.env:ON}"},  # resolved later
        {"either": "text"},
        {"either": {"deep": [1]}},
        {"student": None},
        {"student": {"_target_": "mine", "depth": 3}},  # another target has other settings
        {"callbacks": {}},
        {"callbacks": {"progress": None, "mine": {"_target_": "y", "n": 1}}},
        {"trainer": {"devices": "all", "strategy": ["ddp"]}},  # Lightning checks its own
        {"more": 1},
    ],
)
def test_other_values_pass(changed):
    check_kinds(USUAL | changed, USUAL)
