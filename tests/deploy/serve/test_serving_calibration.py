"""The served page sets thresholds: what it shows, what it refuses, what it keeps."""

import json
import shutil
import threading

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from dmdd.config.schema import ServeSettings
from dmdd.deploy.serve.api import build_api
from dmdd.deploy.serve.calibrating import REQUEST_BYTES, add_calibration
from dmdd.deploy.serve.limits import Limits
from dmdd.deploy.serve.model import load_model
from dmdd.deploy.serve.page import add_page
from dmdd.deploy.serve.server import make_server
from dmdd.models.detector import Detector
from dmdd.serve import open_port, why_fixed
from patience import PATIENCE_S

GOOD = 0.40 + 0.01 * np.random.default_rng(0).standard_normal(40)


@pytest.fixture
def folder(served_folder, tmp_path):
    return shutil.copytree(served_folder, tmp_path / "model")


def open_app(folder, **more):
    model = load_model(folder, device="cpu", **more)
    app, inspection = build_api(model, Limits(), hosts=None)
    add_page(app, inspection)
    add_calibration(app, inspection)
    return app, model


def request(scores=GOOD, bad=(), **more):
    good, other = ([{"raw_score": float(s), "peak": 0.02} for s in part] for part in (scores, bad))
    return {"good": good, "bad": other, "rate": 0.1, **more}


def test_a_calibration_is_shown_then_kept(folder):
    app, model = open_app(folder)
    before = (folder / "detector.json").read_bytes()
    former = json.loads(before)["calibration"]
    with TestClient(app) as client:
        shown = client.post("/page/calibrate", json=request(bad=[0.9])).json()
        assert (folder / "detector.json").read_bytes() == before
        assert shown["before"]["threshold"] == former["image_threshold"]
        assert shown["before"]["good"] == pytest.approx(GOOD.tolist())  # of an older model: raw scores
        assert shown["now"]["threshold"] == 0.5
        assert 0 < sum(score >= 0.5 for score in shown["now"]["good"]) <= 10
        assert shown["now"]["bad"][0] > 0.9
        assert shown["promise"].startswith("40 good images: expect 10 % false alarms, between ")
        assert (shown["strange"], shown["kept"]) == ([], False)
        assert client.post("/page/calibrate", json=request(keep=True)).json()["kept"] is True
        card = client.get("/model").json()
    entries = json.loads((folder / "detector.json").read_text())
    assert entries["former_calibrations"] == [former]
    assert entries["calibration"]["source"] == "photographs of good parts dropped on the page"
    assert (card["image_threshold"], card["normal_images"], card["fixed"]) == (0.5, 40, None)
    # In force at once, and after the server starts again.
    cut = entries["calibration"]["image_threshold"]
    for predictor in (model.predictor, load_model(folder, device="cpu").predictor):
        assert [predictor.judge(cut).label, predictor.judge(cut - 1e-6).label] == [True, False]
        assert predictor.detector.former_calibrations == [former]


def test_of_a_model_for_several_one_category_is_set(folder):
    detector = Detector.load(folder)
    others = {"front": {"image_threshold": 0.3}, "back": {"image_threshold": 0.9}}
    detector.category_calibrations = dict(others)
    detector.save(folder)
    common = detector.calibration
    app, model = open_app(folder)
    with TestClient(app) as client:
        shown = client.post("/page/calibrate?category=front", json=request(keep=True)).json()
        assert (shown["before"]["threshold"], shown["kept"]) == (0.3, True)
        assert client.get("/model?category=front").json()["normal_images"] == 40
        assert client.get("/model").json()["normal_images"] == 7
        assert client.post("/page/calibrate?category=side", json=request()).status_code == 422
    entries = json.loads((folder / "detector.json").read_text())
    assert (entries["calibration"], entries["category_calibrations"]["back"]) == (common, others["back"])
    assert entries["former_calibrations"] == [others["front"] | {"category": "front"}]
    cut = entries["category_calibrations"]["front"]["image_threshold"]
    for served in (model, load_model(folder, device="cpu")):
        for category, threshold in (("front", cut), ("back", 0.9), (None, common["image_threshold"])):
            judge = served.of(category).predictor.judge
            assert [judge(threshold).label, judge(threshold - 1e-6).label] == [True, False]


def test_one_strange_photograph_is_named(folder):
    app, _ = open_app(folder)
    with TestClient(app) as client:
        shown = client.post("/page/calibrate", json=request([*GOOD[:20], 0.9])).json()
    assert shown["strange"] == [20]
    assert shown["now"]["good"][20] > 0.9


def test_scores_and_peaks_of_photographs(folder):
    app, model = open_app(folder)
    pixels = np.random.default_rng(1).integers(0, 256, (90, 120, 3), np.uint8)
    found = model.predictor(pixels)
    with TestClient(app) as client:
        file = folder.parent / "part.png"
        Image.fromarray(pixels).save(file)
        scored = client.post("/page/score", content=file.read_bytes()).json()
    assert scored == pytest.approx({"raw_score": found.raw_score, "peak": float(found.map.max())})


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (
            request(GOOD[:3], rate=0.01),
            422,
            r"1 % false alarms cannot be promised with so few good photographs \(3\): it",
        ),
        (request([]), 422, "good: List should have at least 1 item"),
        (request(rate=0), 422, "rate: Input should be greater than 0"),
        (request([1.5]), 422, "good.0.raw_score: Input should be less than or equal to 1"),
        ({"padding": "x" * REQUEST_BYTES}, 413, "the request is larger than 1 MB"),
    ],
)
def test_what_is_refused(folder, body, status, message):
    import re

    app, _ = open_app(folder)
    with TestClient(app) as client:
        answer = client.post("/page/calibrate", json=body)
    assert answer.status_code == status
    assert re.match(message, answer.json()["error"]), answer.json()


def test_thresholds_that_may_not_be_changed(folder, monkeypatch):
    app, model = open_app(folder, fixed="the server was started with calibrate=false")
    with TestClient(app) as client:
        assert client.post("/page/calibrate", json=request()).status_code == 200  # to look is free
        answer = client.post("/page/calibrate", json=request(keep=True))
    assert (answer.status_code, answer.json()["error"]) == (
        403,
        "thresholds cannot be changed here: the server was started with calibrate=false",
    )
    app, model = open_app(folder)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("dmdd.deploy.calibrate.subject.write_atomically", refuse)
    with TestClient(app) as client:
        answer = client.post("/page/calibrate", json=request(keep=True))
    assert (answer.status_code, answer.json()["error"]) == (
        500,
        "the model folder cannot be written: Permission denied",
    )
    assert model.predictor.scale is None  # nothing is in force that is not written


def test_who_may_change_thresholds():
    settings = ServeSettings.compose("model=x")
    assert why_fixed(settings, loopback=True) is None
    assert why_fixed(settings, loopback=False).startswith("other machines reach this server")
    assert why_fixed(ServeSettings.compose("model=x", "calibrate=true"), loopback=False) is None
    assert "calibrate=false" in why_fixed(ServeSettings.compose("model=x", "calibrate=false"), loopback=True)
    assert "with tile_px=," in why_fixed(ServeSettings.compose("model=x", "tile_px=64"), loopback=True)


def test_the_page_calibrates(folder, browser, tmp_path):
    app, _ = open_app(folder)
    listener, _ = open_port("127.0.0.1", 0)
    server = make_server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    page = browser.new_page()
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    try:
        scores = iter(GOOD.tolist())
        page.route("**/page/score", lambda route: route.fulfill(json={"raw_score": next(scores, 0.9), "peak": 0.02}))
        page.goto(f"http://127.0.0.1:{listener.getsockname()[1]}")
        page.wait_for_selector("body[data-calibrate]")
        page.click("details.calibrate summary")
        files = []
        for place in range(41):
            files.append(tmp_path / f"{place}.png")
            Image.fromarray(np.full((8, 8, 3), place, np.uint8)).save(files[-1])
        page.set_input_files("#good-parts input", files[:3])
        page.wait_for_selector("#calibration .problem")
        assert "1 % false alarms cannot be promised with so few" in page.inner_text("#calibration")
        page.fill("#rate", "10")
        page.set_input_files("#good-parts input", files[3:40])
        page.wait_for_selector("#keep")
        page.set_input_files("#bad-parts input", files[40:])
        page.wait_for_selector(".panel >> text=1 of 1 bad found")
        assert page.inner_text("#good-count") == "40 photographs"
        panels = page.locator(".panel").all_inner_texts()
        assert panels[0].startswith("Before: 0 of 40 good rejected, 1 of 1 bad found")
        assert panels[1].startswith("Now: ")
        page.click("#keep")
        page.wait_for_selector("#calibration .done")
        assert "40 normal images" in page.inner_text("#origin")
        assert page.input_value("#image-threshold") == "0.5000"
    finally:
        page.close()
        server.handle_exit(2, None)
        thread.join(PATIENCE_S)
    assert complaints == []
    assert len(json.loads((folder / "detector.json").read_text())["former_calibrations"]) == 1
