"""Settings that are unknown, of another type or out of range, and what is said of them."""

from dataclasses import dataclass
from typing import Literal, get_args

import pytest

from dmdd.config.check import find_field, plain_of, read, rule_of
from dmdd.config.schema import MapName, PredictSettings, Settings, Target, TrainSettings, setting
from dmdd.core.errors import MAX_OVERLAP, UserError
from dmdd.models.detector import MAP_NAMES
from dmdd.models.losses import AIM_FORMS


@dataclass(frozen=True, kw_only=True)
class Part:
    workers: int = setting("", least=0)
    share: float = setting("", least=0, below=1)


@dataclass(frozen=True, kw_only=True)
class Some(Settings):
    steps: int = setting("", least=1)
    rate: float = setting("", above=0, most=1)
    wait_s: float = setting("", unit="seconds", above=0)
    on: bool = setting("")
    name: str = setting("")
    model: str = setting("", missing="model=FOLDER")
    image_size: tuple[int, int] = setting("", least=1)
    batches: tuple[int, ...] = setting("", least=1)
    kind: Literal["a", "b"] = setting("")
    tile_px: int | tuple[int, ...] | None = setting("")
    student: Target = setting("")
    callbacks: dict[str, Target | None] = setting("")
    data: Part = setting("")
    limit_gb: float = setting("", default=4.0, least=0)


GOOD = {
    "steps": 10,
    "rate": 0.1,
    "wait_s": 5,
    "on": True,
    "name": "a",
    "model": "x",
    "image_size": [256, 256],
    "batches": [1, 2],
    "kind": "a",
    "tile_px": None,
    "student": {"_target_": "dmdd.models.Student", "widths": [1, 2, 3]},
    "callbacks": {"progress": {"_target_": "x"}, "none": None},
    "data": {"workers": 0, "share": 0.5},
}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": "ten"}, "steps=ten: give a positive whole number"),
        ({"steps": 1.5}, "steps=1.5: give a positive whole number"),
        ({"steps": True}, "steps=True: give a positive whole number"),
        ({"steps": 0}, "steps=0: give a positive whole number"),
        ({"rate": "fast"}, "rate=fast: give a number above 0 and up to 1"),
        ({"rate": 0}, "rate=0: give a number above 0 and up to 1"),
        ({"rate": float("nan")}, "rate=nan: give a finite number"),
        ({"wait_s": 0}, "wait_s=0: give a number of seconds above 0"),
        ({"wait_s": None}, "wait_s=None: give a number of seconds above 0"),
        ({"on": 1}, "on=1: give true or false"),
        ({"name": ["a"]}, r"name=\[a\]: give a string, in quotes: 'name=\"VALUE\"'"),
        ({"name": 2024}, "name=2024: give a string"),
        ({"model": None}, "model is missing: give model=FOLDER"),
        ({"model": ""}, "model is missing: give model=FOLDER"),
        ({"image_size": 256}, r"image_size=256: give height and width, as in image_size=\[256,256\]"),
        ({"image_size": [256]}, r"image_size=\[256\]: give height and width"),
        ({"image_size": [0, 256]}, r"image_size=\[0,256\]: give a positive whole number"),
        ({"batches": 3}, r"batches=3: give a list, as in batches=\[A,B\]"),
        ({"batches": [8, -1]}, r"batches=\[8,-1\]: give a positive whole number"),
        ({"kind": "c"}, "kind=c: choose one of a, b"),
        ({"tile_px": "big"}, "tile_px=big: give a whole number or a list"),
        ({"student": "wide"}, "student=wide: give its settings one by one, as in student.SETTING=VALUE"),
        ({"student": {"widths": 4}}, "student=.*: name its class: student._target_=PACKAGE.CLASS"),
        ({"callbacks": {"x": 3}}, "callbacks={'x': 3}: give its settings one by one"),
        ({"callbacks": [3]}, r"callbacks=\[3\]: give entries one by one"),
        ({"data": None}, "data=None: give its settings one by one, as in data.SETTING=VALUE"),
        ({"data": {"workers": 1}}, "data.share is missing: it is needed, leave it in"),
        ({"data": {"workers": "two", "share": 0}}, "data.workers=two: give a whole number from 0"),
        ({"data": {"workers": 1, "share": 1}}, "data.share=1: give a number from 0 and below 1"),
        ({"limit_gb": -1}, "limit_gb=-1: give a number from 0"),
        ({"stepz": 3}, r"unknown setting stepz; did you mean steps\?"),
        (
            {"data": {"workers": 0, "share": 0, "worker": 1}},
            r"unknown setting data.worker; did you mean data.workers\?",
        ),
        ({"quux": 3}, "unknown setting quux; --help lists them"),
    ],
)
def test_what_does_not_fit_is_refused(changed, message):
    with pytest.raises(UserError, match=f"^{message}"):
        read(Some, GOOD | changed)


def test_what_fits_is_typed():
    settings = read(Some, GOOD)
    assert (settings.wait_s, type(settings.wait_s)) == (5.0, float)
    assert settings.image_size == (256, 256)
    assert settings.limit_gb == 4
    assert settings.data == Part(workers=0, share=0.5)
    assert read(Some, GOOD | {"tile_px": [1, 2]}).tile_px == (1, 2)
    assert read(Some, GOOD | {"callbacks": None}).callbacks == {}


def test_plain_values_are_what_was_read():
    assert plain_of(read(Some, GOOD)) == GOOD
    assert plain_of(read(Some, GOOD | {"limit_gb": 2})) == GOOD | {"limit_gb": 2.0}


def test_a_setting_that_is_needed_may_not_be_taken_away():
    with pytest.raises(UserError, match=r"^rate is missing: it is needed, leave it in$"):
        read(Some, {name: value for name, value in GOOD.items() if name != "rate"})


def test_names_of_the_schema_are_those_of_the_code():
    assert get_args(MapName) == MAP_NAMES
    overlap, _, _ = find_field(PredictSettings, "overlap")
    assert rule_of(overlap).most == MAX_OVERLAP
    assert set(get_args(TrainSettings.compose().distillation.__annotations__["aim"])) == set(AIM_FORMS)
