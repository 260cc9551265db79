"""The endpoint: what it answers, what it refuses, and how it holds up when many ask at once."""

import asyncio
import base64
import dataclasses
import io
import json
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import dmdd
from dmdd.core.errors import UserError
from dmdd.data.images import MAX_PIXELS
from dmdd.deploy.serve import limits as limits_module
from dmdd.deploy.serve.api import build_api
from dmdd.deploy.serve.limits import Limits, RateLimit, Refusal
from dmdd.deploy.serve.model import ServedModel, find_title, load_model
from dmdd.deploy.serve.page import add_page
from dmdd.deploy.serve.worker import Worker
from dmdd.models.detector import Detector
from patience import PATIENCE_S

PIXELS = np.random.default_rng(0).integers(0, 256, (70, 50, 3), np.uint8)


def encoded(pixels: np.ndarray = PIXELS, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def make_app(predictor, **changes):
    return build_api(ServedModel(predictor, title="a bracket"), Limits(**changes), hosts=None)[0]


@pytest.fixture(scope="module")
def client(served_inspector):
    return TestClient(make_app(served_inspector, upload_mb=1))


def asynchronous(app) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test")


def test_an_answer_is_what_the_inspector_says(client, served_inspector):
    expected = served_inspector(PIXELS)
    for request in (
        {"files": {"image": ("part.png", encoded())}},
        {"content": encoded(), "headers": {"Content-Type": "image/png"}},
        {"content": encoded(), "headers": {"Content-Type": "application/octet-stream"}},
        {"content": encoded()},
    ):
        answer = client.post("/predict", **request)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert found.pop("time_ms") > 0
        assert found == {
            "score": expected.score,
            "raw_score": expected.score,  # of a model older than the scale for people
            "false_alarm_probability": None,
            "label": expected.label,
            "verdict": "anomalous",
            "image_threshold": 0.53125,
            "pixel_threshold": 0.01815,
            "width": 50,
            "height": 70,
            "model": "a bracket",
        }


def test_map_and_mask_come_as_pngs(client, served_inspector):
    expected = served_inspector(PIXELS)
    found = client.post("/predict?map=true&mask=true", content=encoded()).json()
    with Image.open(io.BytesIO(base64.b64decode(found["map"]))) as image:
        assert image.mode.startswith("I;16")
        assert np.abs(np.asarray(image) / 65535 - expected.map).max() <= 0.5 / 65535 + 1e-7
    with Image.open(io.BytesIO(base64.b64decode(found["mask"]))) as image:
        assert np.array_equal(np.asarray(image) == 255, expected.mask)
        assert set(np.unique(np.asarray(image))) == {0, 255}


def test_a_model_without_thresholds_answers_without_a_verdict(served_inspector):
    class Plain:
        detector = SimpleNamespace(calibration={}, category_calibrations={}, input_size=(64, 96))

        def __call__(self, image):
            return dataclasses.replace(served_inspector(image), label=None, mask=None)

    found = TestClient(make_app(Plain())).post("/predict?mask=true", content=encoded()).json()
    nothing = ("label", "verdict", "image_threshold", "pixel_threshold", "mask")
    assert [found[name] for name in nothing] == [None] * 5


def test_of_a_model_for_several_the_request_names_the_category(served_folder, tmp_path):
    folder = shutil.copytree(served_folder, tmp_path / "model")
    detector = Detector.load(folder)
    thresholds = {"front": (0.1, 0.01), "back": (0.9, 0.02)}
    for name, (image, pixel) in thresholds.items():
        own = {"image_threshold": image, "pixel_threshold": pixel, "source": name}
        detector.category_calibrations[name] = own
    detector.save(folder)
    model = load_model(folder, device="cpu")
    app, inspection = build_api(model, Limits(), hosts=None)
    add_page(app, inspection)
    with TestClient(app) as client:
        for query, category in (("", None), ("&category=front", "front"), ("&category=back", "back")):
            expected = dmdd.load(folder, device="cpu", category=category)(PIXELS)
            found = client.post(f"/predict?mask=true{query}", content=encoded()).json()
            assert (found["score"], found["label"]) == (pytest.approx(expected.score), expected.label)
            assert found["pixel_threshold"] == expected.pixel_threshold
            mask = Image.open(io.BytesIO(base64.b64decode(found["mask"])))
            assert (np.asarray(mask) > 0).tolist() == expected.mask.tolist()
            card = client.get(f"/model?{query[1:]}").json()
            assert card["categories"] == ["front", "back"]
            assert card["image_threshold"] == found["image_threshold"] == thresholds.get(category, (0.53125,))[0]
            assert client.post(f"/page/inspect?{query[1:]}", content=encoded()).status_code == 200
        labels = [client.post(f"/predict?category={name}", content=encoded()).json()["label"] for name in thresholds]
        assert labels == [True, False]
        for answer in (
            client.post("/predict?category=side", content=encoded()),
            client.get("/model?category=side"),
            client.post("/page/inspect?category=side", content=encoded()),
        ):
            assert (answer.status_code, answer.json()["error"]) == (
                422,
                "category=side: the model is for front, back",
            )


def test_a_model_for_one_category_takes_no_name_of_one(client):
    answer = client.post("/predict?category=side", content=encoded())
    assert (answer.status_code, answer.json()["error"]) == (422, "category=side: the model is for one; leave it out")
    assert client.get("/model").json()["categories"] == []


def test_health_model_and_schema(client):
    assert client.get("/health").json() == {"status": "ok", "waiting": 0, "places": 64}
    card = client.get("/model").json()
    assert (card["input_width"], card["input_height"], card["max_pixels"]) == (96, 64, MAX_PIXELS)
    assert (card["false_alarm_rate"], card["normal_images"]) == (0.125, 7)
    assert card["thresholds_from"] == "held-out <normal> images"
    schema = client.get("/openapi.json").json()
    assert set(schema["paths"]) == {"/predict", "/health", "/model"}
    assert set(schema["paths"]["/predict"]["post"]["responses"]) >= {"200", "413", "415", "422", "429", "503"}
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404


def test_title_and_fingerprint_of_a_folder(served_folder, tmp_path):
    model = load_model(served_folder)
    assert model.title == "bracket"
    assert len(model.weights_sha256) == 64
    assert load_model(served_folder, title="mine").title == "mine"
    (tmp_path / "result.json").write_text(json.dumps({"dataset": "demo", "category": "plate"}))
    assert find_title(tmp_path / "model") == "demo / plate"
    (tmp_path / "result.json").write_text("{")
    assert find_title(tmp_path / "model") == tmp_path.name


def test_a_model_can_be_served_in_tiles(served_folder):
    image = np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8)
    tiled = load_model(served_folder, tile=True, tile_px=80, overlap=0.5).predictor(image)
    expected = dmdd.load(served_folder, tile=True, tile_px=80, overlap=0.5)(image)
    assert tiled.score == expected.score
    assert np.array_equal(tiled.map, expected.map)
    assert not np.allclose(tiled.map, load_model(served_folder).predictor(image).map)


def test_fifty_at_once_get_the_answers_they_would_get_alone(served_inspector):
    images = [np.random.default_rng(i).integers(0, 256, (40 + i, 60, 3), np.uint8) for i in range(50)]
    expected = [served_inspector(image).score for image in images]
    assert len(set(expected)) == 50

    async def ask() -> list[httpx.Response]:
        async with asynchronous(make_app(served_inspector)) as client:
            return await asyncio.gather(*(client.post("/predict", content=encoded(image)) for image in images))

    answers = asyncio.run(ask())
    assert [answer.status_code for answer in answers] == [200] * 50
    assert [answer.json()["score"] for answer in answers] == expected
    assert [answer.json()["height"] for answer in answers] == [40 + i for i in range(50)]


class Slow:
    """An predictor that waits for a sign."""

    def __init__(self, predictor):
        self.detector, self.predictor, self.go = predictor.detector, predictor, threading.Event()

    def __call__(self, image):
        assert self.go.wait(PATIENCE_S)
        return self.predictor(image)


def test_beyond_the_queue_503_says_when_to_come_again_and_health_still_answers(served_inspector):
    slow = Slow(served_inspector)

    async def ask():
        async with asynchronous(make_app(slow, queue=3)) as client:
            tasks = [asyncio.create_task(client.post("/predict", content=encoded())) for _ in range(3)]
            while (health := (await client.get("/health")).json())["waiting"] < 3:
                await asyncio.sleep(0.01)
            refused = await client.post("/predict", content=encoded())
            slow.go.set()
            done = [answer.status_code for answer in await asyncio.gather(*tasks)]
            return health, refused, done, (await client.get("/health")).json()["waiting"]

    health, refused, done, left = asyncio.run(ask())
    assert health["places"] == 3
    assert (refused.status_code, refused.json()) == (503, {"error": "busy: 3 requests are waiting already"})
    assert int(refused.headers["Retry-After"]) >= 1
    assert (done, left) == ([200] * 3, 0)


def test_a_request_that_takes_too_long_is_given_up(served_inspector):
    slow = Slow(served_inspector)

    async def ask():
        async with asynchronous(make_app(slow, timeout_s=1)) as client:
            answer = await client.post("/predict", content=encoded())
            slow.go.set()

            async def trickle():
                yield b"\x89PNG"
                await asyncio.sleep(20)

            return answer, await client.post("/predict", content=trickle())

    late, stuck = asyncio.run(ask())
    assert (late.status_code, late.json()) == (503, {"error": "no answer in 1 s"})
    assert late.headers["Retry-After"] == "1"
    assert (stuck.status_code, stuck.json()) == (408, {"error": "the image did not arrive in 1 s"})


def test_a_client_that_goes_away_frees_its_place(served_inspector):
    app, inspection = build_api(ServedModel(served_inspector, title="x"), Limits(), hosts=None)
    sent = []

    async def gone():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "headers": []}
    asyncio.run(app(scope, gone, send))
    assert sent[0]["status"] == 400
    assert json.loads(sent[1]["body"]) == {"error": "the client went away before the image had arrived"}
    assert inspection.worker.taken == 0


def test_a_client_beyond_its_rate_gets_429(served_inspector):
    client = TestClient(make_app(served_inspector, requests_per_minute=2))
    answers = [client.post("/predict", content=encoded()) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert "more than 2 images in a minute" in answers[2].json()["error"]
    assert 1 <= int(answers[2].headers["Retry-After"]) <= 30


def test_the_rate_fills_evenly_and_clients_are_forgotten_one_by_one(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(limits_module, "MAX_CLIENTS", 2)
    rate = RateLimit(6)
    for _ in range(6):
        rate.check("a")
    with pytest.raises(Refusal, match="more than 6 images in a minute from a"):
        rate.check("a")
    now[0] += 10  # a sixth of a minute: one more
    rate.check("a")
    with pytest.raises(Refusal):
        rate.check("a")
    rate.check("b")
    rate.check("c")
    rate.check("a")  # forgotten, so let through
    for _ in range(1000):
        RateLimit(0).check("a")


def test_work_that_was_given_up_is_not_begun():
    worker, begun, go = Worker(4), [], threading.Event()

    async def ask():
        first = asyncio.create_task(worker.run(lambda: go.wait(PATIENCE_S)))
        second = asyncio.create_task(worker.run(lambda: begun.append(1)))
        await asyncio.sleep(0.05)
        second.cancel()
        await asyncio.sleep(0)
        go.set()
        await first

    asyncio.run(ask())
    worker.close()
    assert begun == []


def test_a_defect_of_ours_is_one_line_outside_and_a_traceback_inside(served_inspector):
    class Broken:
        detector = served_inspector.detector

        def __call__(self, image):
            raise RuntimeError("secret detail")

    app = make_app(Broken())
    answer = TestClient(app, raise_server_exceptions=False).post("/predict", content=encoded())
    assert (answer.status_code, answer.json()) == (500, {"error": "internal error; the server's log has the details"})
    with pytest.raises(RuntimeError, match="secret detail"):
        TestClient(app).post("/predict", content=encoded())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"upload_mb": 0}, "upload_mb=0: give a positive whole number"),
        ({"queue": 1.5}, "queue=1.5: give a positive whole number"),
        ({"timeout_s": 0}, "timeout_s=0: give a number of seconds above 0"),
        ({"timeout_s": float("inf")}, "timeout_s=inf: give a number of seconds above 0"),
        ({"requests_per_minute": -1}, "requests_per_minute=-1: give a whole number, 0 for no limit"),
    ],
)
def test_limits_out_of_range(changes, message):
    with pytest.raises(UserError, match=message):
        Limits(**changes)


def test_documentation_names_every_field_and_limit():
    text = (Path(__file__).resolve().parents[3] / "docs/serve.md").read_text()
    for name in ("score", "label", "verdict", "time_ms", "weights_sha256", *Limits().__dict__):
        assert f"`{name}`" in text, name
