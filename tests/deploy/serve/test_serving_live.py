"""The page's live list: images that were sent, and a folder that predict follows."""

import base64
import io
import json
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from dmdd.core.errors import UserError
from dmdd.deploy.serve import live
from dmdd.deploy.serve.api import build_api
from dmdd.deploy.serve.limits import Limits
from dmdd.deploy.serve.live import Newest, Tail, draw_small
from dmdd.deploy.serve.model import ServedModel
from dmdd.deploy.serve.page import Inspected, add_page
from dmdd.inference.folder.ledger import Ledger, Record
from dmdd.inference.prediction import Prediction

CALIBRATION = {"typical_score": 0.4, "spread": 0.1, "normal_images": 100, "image_threshold": 0.6}


class Scripted:
    """A predictor that knows the score of an image by its first pixel."""

    class detector:
        calibration = CALIBRATION
        category_calibrations: ClassVar = {}
        input_size = (64, 64)

    def __call__(self, pixels: np.ndarray) -> Prediction:
        score = float(pixels[0, 0, 0]) / 255
        heat = np.full(pixels.shape[:2], score, np.float32)
        return Prediction(heat, score, score >= 0.6, heat >= 0.6, raw_score=score)


def png(grey: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((300, 600, 3), grey, np.uint8)).save(file, "PNG")
    return file.getvalue()


def record(file: str, score: float | None, *, label: str | None = "normal", error: str | None = None) -> Record:
    return Record(file, score, label, 0.6, 600, 300, 1.0, error, 1, 1, "2026-01-31T12:00:00+00:00", score)


@pytest.fixture
def followed(tmp_path):
    """An output folder of predict, and the ledger that it appends to."""
    (tmp_path / "images").mkdir()
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "predict.json").write_text(json.dumps({"input": str(tmp_path / "images")}))
    with Ledger(tmp_path / "found") as ledger:
        yield tmp_path / "found", ledger


def test_images_that_were_sent_are_listed_newest_first():
    app, inspection = build_api(ServedModel(Scripted(), title="x"), Limits(live_images=2), hosts=None)
    add_page(app, inspection)
    with TestClient(app) as client:
        assert client.get("/page/live").json() == {"results": [], "most": 2, "drift": None}
        for name in ("?name=first", "", "?name=<b>third"):
            assert client.post(f"/predict{name}", content=png(51 if name else 204)).status_code == 200
        assert client.post("/page/inspect", content=png(51)).status_code == 200  # what is dropped is not kept
        found = client.get("/page/live").json()["results"]
        assert [(one["name"], one["score"], one["label"]) for one in found] == [
            ("<b>third", pytest.approx(0.2), False),
            ("image 2", pytest.approx(0.8), True),
        ]
        with Image.open(io.BytesIO(base64.b64decode(found[0]["picture"]))) as picture:
            assert picture.size == (192, 96)
        known = found[1]["number"]
        assert [one["name"] for one in client.get(f"/page/live?after={known}").json()["results"]] == ["<b>third"]
        assert client.get("/page/live?after=x").status_code == 422


def test_no_list_keeps_no_picture():
    app, inspection = build_api(ServedModel(Scripted(), title="x"), Limits(live_images=0), hosts=None)
    add_page(app, inspection)
    with TestClient(app) as client:
        client.post("/predict", content=png(51))
        assert client.get("/page/live").status_code == 404
        assert client.get("/model").json()["live_images"] == 0
    assert inspection.tell is None


def test_a_folder_that_predict_follows_is_listed(followed):
    folder, ledger = followed
    newest = Newest(ServedModel(Scripted(), title="x"), most=3, follow=folder)
    Image.open(io.BytesIO(png(90))).save(folder.parent / "images" / "a.png")
    ledger.append(record("a.png", 0.3))
    ledger.append(record("gone.png", 0.9, label="anomalous"))
    ledger.append(record("bad.png", None, label=None, error="the image is truncated"))
    first = newest.since(0).results
    assert [(one.name, one.label, one.error) for one in first] == [
        ("bad.png", None, "the image is truncated"),
        ("gone.png", True, None),
        ("a.png", False, None),
    ]
    assert [one.picture is None for one in first] == [True, True, False]
    ledger.append(record("later.png", 0.3))
    with (folder / "scores.jsonl").open("ab") as file:
        file.write(b'{"file": "half of a li')
    assert [one.name for one in newest.since(first[0].number).results] == ["later.png"]
    assert [one.name for one in newest.since(0).results] == ["later.png", "bad.png", "gone.png"]


def test_drift_is_told_of_what_looks_normal(followed):
    folder, ledger = followed
    newest = Newest(ServedModel(Scripted(), title="x"), most=3, follow=folder)
    for number in range(12):
        ledger.append(record(f"{number}.png", 0.5))
        ledger.append(record(f"bad{number}.png", 0.99, label="anomalous"))
    # logit 0.5 - logit 0.4 is 0.405: four spreads of 0.1
    assert newest.since(0).drift.startswith("the median of 12 normal-looking images is 4.1 spreads above")


def test_of_a_long_file_the_end_is_read(followed, monkeypatch):
    folder, ledger = followed
    for number in range(10):
        ledger.append(record(f"{number}.png", 0.3))
    line = (folder / "scores.jsonl").stat().st_size // 10
    monkeypatch.setattr(live, "TAIL_BYTES", 3 * line + line // 2)
    tail = Tail(folder)
    assert [one.file for one in tail.read()] == ["7.png", "8.png", "9.png"]
    ledger.append(record("x.png", 0.3))
    assert [one.file for one in tail.read()] == ["x.png"]
    (folder / "scores.jsonl").write_bytes(b"")  # overwrite=true
    assert tail.read() == []
    ledger.append(record("y.png", 0.3))
    assert [one.file for one in tail.read()] == ["y.png"]


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"is no output folder of dmdd predict .*; start predict first"):
        Tail(tmp_path)


def test_the_small_picture_shows_the_region():
    pixels = np.full((400, 400, 3), 100, np.uint8)
    heat = np.zeros((400, 400), np.float32)
    heat[100:300, 100:300] = 0.9
    text = draw_small(Inspected(pixels, Prediction(heat, 0.9, True, heat >= 0.5), 1.0), 0.5)
    with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
        shown = np.asarray(picture).astype(int)
    assert shown.shape == (192, 192, 3)
    assert shown[96, 96, 0] > shown[10, 10, 0] + 40  # the colours of the map
    assert shown[96, 48].min() > 150  # the white outline
