"""The page in a real browser, and what lies behind it."""

import base64
import csv
import io
import json
import threading
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from dmdd.deploy.serve.api import Inspected, build_api
from dmdd.deploy.serve.board import Board, make_finding, outline
from dmdd.deploy.serve.gate import SECURITY_HEADERS
from dmdd.deploy.serve.limits import Limits
from dmdd.deploy.serve.markup import header, scores_csv, table
from dmdd.deploy.serve.model import ServedModel
from dmdd.inference.predictor import Prediction
from dmdd.serve import open_port

# Gradio's queue asks pandas for an option that pandas is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated")

PIXELS = np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8)


def heat_map() -> np.ndarray:
    heat = np.zeros((300, 200), np.float32)
    heat[10:40, 20:60] = 0.9  # 30 x 40
    heat[200:210, 100:110] = 0.6  # 10 x 10
    heat[20:30, 30:40] = 0.1  # a hole of 10 x 10
    return heat


def finding(name: str = "part.png", score: float = 0.7):
    inspected = Inspected(PIXELS, Prediction(map=heat_map(), score=score, label=True, mask=None), 12.0)
    return make_finding(name, inspected, middle=0.5)


@pytest.fixture(scope="module")
def model(served_inspector) -> ServedModel:
    return ServedModel(served_inspector, title="<b>bracket</b>", weights_sha256="0123456789abcdef")


def test_outline_counts_regions_and_their_share():
    path, regions, share = outline(finding(), 0.5)
    assert regions == 2
    assert share == pytest.approx((30 * 40 - 100 + 100) / (300 * 200))
    assert path.count("M") == path.count("Z") == 3  # two regions and a hole
    assert outline(finding(), 0.8)[1:] == (1, pytest.approx(1100 / 60000))
    assert outline(finding(), 0.95) == ("", 0, 0.0)


def test_pictures_are_small_enough_to_show_and_in_the_right_colours():
    large = np.zeros((1500, 3000, 3), np.uint8)
    large[..., 0] = 200
    found = Inspected(large, Prediction(map=np.zeros((1500, 3000), np.float32), score=0.1, label=False, mask=None), 1.0)
    shown = make_finding("x", found, middle=0.5)
    with Image.open(io.BytesIO(shown.photo)) as photo:
        assert photo.size == (1024, 512)
        assert np.abs(np.asarray(photo).astype(int) - [200, 0, 0]).max() <= 3
    assert shown.map.shape == (256, 512)
    assert shown.size == (1500, 3000)


def test_board_keeps_what_fits_and_forgets_what_it_is_told_to():
    one = finding()
    board = Board(2 * one.memory_bytes)
    keys = [board.add(one) for _ in range(3)]
    assert [board.get(key) is None for key in keys] == [True, False, False]
    board.forget([keys[1], "unknown"])
    assert [board.get(key) is None for key in keys] == [True, True, False]
    assert len(set(keys)) == 3
    small = Board(1)
    assert small.get(small.add(one)) is one


def test_names_of_files_are_text_and_never_markup(model):
    name = "<img src=x onerror=alert(1)>{{value}}${value}.png"
    html = table([finding(name)], ["k"], model, (0.5, 0.5))
    assert "<img src=x" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html
    assert "<b>bracket</b>" not in header(model)
    assert "held-out &lt;normal&gt; images (7 normal images)" in header(model)


def test_table_judges_by_the_sliders_and_says_so(model):
    findings = [finding(score=0.7), None, finding("b.png", score=0.53125)]
    html = table(findings, ["a", "b", "c"], model, (0.53125, 0.01815))
    assert "<b>2</b> anomalous" in html
    assert "not by the model" not in html
    assert "no longer in memory" in html
    moved = table(findings, ["a", "b", "c"], model, (0.6, 0.01815))
    assert "<b>1</b> anomalous" in moved
    assert "by the sliders, not by the model's thresholds" in moved
    assert "No images yet" in table([], [], model, (0.5, 0.5))


def test_csv_states_score_verdict_and_by_what(model):
    rows = list(csv.DictReader(io.StringIO(scores_csv([finding('a,"b".png')], model, (0.75, 0.5)))))
    assert len(rows) == 1
    assert rows[0] == {
        "file": 'a,"b".png',
        "score": "0.7",
        "verdict": "normal",
        "image_threshold": "0.75",
        "pixel_threshold": "0.5",
        "area_percent": "2.000",
        "regions": "2",
        "width": "200",
        "height": "300",
        "model": "<b>bracket</b>",
        "weights_sha256": "0123456789abcdef",
    }


def test_a_model_without_thresholds_says_so(served_inspector):
    model = ServedModel(served_inspector, title="x")
    model.image_threshold = model.pixel_threshold = model.false_alarm_rate = None
    assert "no calibrated thresholds" in header(model)
    assert "states no rate" in header(model)
    assert "half of the map's range" in table([finding()], ["k"], model, (0.5, 0.5))


@pytest.fixture(scope="module")
def served(served_inspector):
    """A running server; gives its address and the names of the images that went through the network."""
    from dmdd.deploy.serve.page import add_page
    from dmdd.deploy.serve.server import make_server

    calls = []

    class Counted:
        detector = served_inspector.detector

        def __call__(self, image):
            calls.append(image.shape)
            return served_inspector(image)

    app, inspection = build_api(
        ServedModel(Counted(), title="demo / bracket", weights_sha256="0123456789abcdef"),
        Limits(page_images=3, upload_mb=2),
        hosts=["127.0.0.1"],
    )
    add_page(app, inspection)
    listener, _ = open_port("127.0.0.1", 0)
    server = make_server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", calls
    server.handle_exit(2, None)
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture
def pictures(tmp_path, served_inspector):
    """Two images on either side of the image threshold, and their scores."""
    flat = np.full((64, 96, 3), 128, np.uint8)
    noise = np.random.default_rng(1).integers(0, 256, (90, 120, 3), np.uint8)
    files = {tmp_path / "flat plate.png": flat, tmp_path / "<i>noise.png": noise}
    for file, pixels in files.items():
        Image.fromarray(pixels).save(file)
    return {file: served_inspector(pixels).score for file, pixels in files.items()}


@pytest.fixture
def opened(served, browser):
    """The page in a browser, with every request and every complaint noted; the browser last, it runs an event loop."""
    address, _ = served
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(20_000)
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address)
    page.wait_for_selector(".dmdd-drop")
    yield page
    outside = {urlsplit(url).hostname for url in requests if urlsplit(url).scheme not in ("data", "blob")}
    page.close()
    assert outside == {"127.0.0.1"}
    # The browser itself notes refused uploads there; that is how the test below knows what it shows.
    assert [text for text in complaints if "responded with a status of 415" not in text] == []


def wait_for_rows(page, count: int) -> None:
    page.wait_for_function(f"document.querySelectorAll('.dmdd-table tbody tr').length === {count}")


def verdicts(page) -> list[str]:
    return page.locator(".dmdd-table .verdict").all_inner_texts()


def test_drop_images_move_the_sliders_and_take_the_scores_along(opened, served, pictures):
    page, (_, calls) = opened, served
    assert "demo / bracket" in page.inner_text(".dmdd-head")
    assert "96 x 64 px" in page.inner_text(".dmdd-head")
    assert "12.5 %" in page.inner_text(".dmdd-head")
    before = len(calls)
    page.set_input_files(".dmdd-drop input", list(pictures))
    wait_for_rows(page, 2)
    scores = list(pictures.values())
    assert page.locator(".dmdd-table .score b").all_inner_texts() == [f"{score:.4f}" for score in scores]
    assert page.locator(".dmdd-table .name b").all_inner_texts() == [file.name for file in pictures]
    assert verdicts(page) == ["normal", "anomalous"]
    assert len(calls) == before + 2
    for image in page.locator(".dmdd-table img").all():
        assert image.evaluate("image => image.complete && image.naturalWidth > 0")

    page.fill("#image-threshold input[type=number]", "0.6")
    page.press("#image-threshold input[type=number]", "Enter")
    page.wait_for_selector(".dmdd-summary .moved")
    assert verdicts(page) == ["normal", "normal"]
    outlines = page.locator(".dmdd-table path.fill").evaluate_all("all => all.map(p => p.getAttribute('d'))")
    page.fill("#pixel-threshold input[type=number]", "0.01")
    page.press("#pixel-threshold input[type=number]", "Enter")
    page.wait_for_function("document.querySelector('.dmdd-table .score small').innerText.includes('100.0 %')")
    moved = page.locator(".dmdd-table path.fill").evaluate_all("all => all.map(p => p.getAttribute('d'))")
    assert outlines != moved
    assert len(calls) == before + 2  # the network has not run again

    href = page.get_attribute(".dmdd-csv", "href")
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(href.partition("base64,")[2]).decode())))
    assert [float(row["score"]) for row in rows] == pytest.approx(scores, abs=1e-8)
    assert {row["image_threshold"] for row in rows} == {"0.6"}
    with page.expect_download() as download:
        page.click(".dmdd-csv")
    assert download.value.suggested_filename == "scores.csv"

    page.get_by_role("button", name="Model's thresholds").click()
    page.wait_for_selector(".dmdd-summary .moved", state="detached")
    page.get_by_role("button", name="Remove all images").click()
    page.wait_for_selector(".dmdd-empty")


def test_what_is_no_image_is_told_beside_the_others(opened, pictures, tmp_path):
    page = opened
    bad = tmp_path / "<script>notes.txt"
    bad.write_text("no picture")
    page.set_input_files(".dmdd-drop input", [next(iter(pictures)), bad])
    wait_for_rows(page, 1)
    page.wait_for_selector(".dmdd-status .problem")
    assert page.inner_text(".dmdd-status .problem").startswith("<script>notes.txt: not an image that can be read")


def test_only_so_many_images_at_once(opened, tmp_path):
    page = opened
    files = []
    for number in range(5):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(np.full((32, 32, 3), 40 * number, np.uint8)).save(files[-1])
    page.set_input_files(".dmdd-drop input", files)
    page.wait_for_selector(".dmdd-status .problem")
    assert "only 3 images at a time" in page.inner_text(".dmdd-status .problem")
    wait_for_rows(page, 3)
    page.set_input_files(".dmdd-drop input", files[4:])
    page.wait_for_function("document.querySelector('.dmdd-table tbody').innerText.includes('4.png')")
    assert page.locator(".dmdd-table .name b").all_inner_texts() == ["1.png", "2.png", "4.png"]


def test_narrow_page_fits_its_window(opened, pictures):
    page = opened
    page.set_viewport_size({"width": 420, "height": 900})
    page.set_input_files(".dmdd-drop input", list(pictures))
    wait_for_rows(page, 2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
    small, picture = page.locator("figure").nth(1).bounding_box(), page.locator("figure").nth(1)
    picture.click()
    large = picture.bounding_box()
    assert large["width"] > 2 * small["width"] * 0.95
    assert min(large["x"], large["y"]) >= 0
    assert (large["x"] + large["width"] <= 420, large["y"] + large["height"] <= 900) == (True, True)


CLOSED = [
    "/page/gradio_api/upload",
    "/page/gradio_api/file=/etc/passwd",
    "/page/gradio_api/file=https://example.com/",
    "/page/gradio_api/file/etc/passwd",
    "/page/gradio_api/proxy=https://example.com/",
    "/page/gradio_api/info",
    "/page/gradio_api/openapi.json",
    "/page/gradio_api/run/add",
    "/page/gradio_api/call/add",
    "/page/gradio_api/vibe-code",
    "/page/gradio_api/runs",
    "/page/config",
    "/page/docs",
    "/page/monitoring",
]


@pytest.mark.parametrize("path", CLOSED)
def test_gradios_other_routes_do_not_exist(served, path):
    for method in ("GET", "POST"):
        answer = httpx.request(method, served[0] + path)
        assert (answer.status_code, answer.json()) == (404, {"error": "no such page"})


@pytest.mark.parametrize("folder", ["static", "assets"])
def test_gradios_own_files_end_at_their_folder(served, folder):
    for path in ("..%2f..%2f..%2f..%2fetc%2fpasswd", "%2fetc%2fpasswd", "%2e%2e/%2e%2e/package.json"):
        assert httpx.get(f"{served[0]}/page/{folder}/{path}").status_code in (403, 404)


FILE = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
EVENTS = [
    {"data": [FILE, 0.5, 0.5]},
    {"data": [[FILE], 0.5, 0.5]},
    {"data": [{"path": "https://example.com/x"}, 0.5, 0.5]},
    {"data": [None, "0.5", 0.5]},
    {"data": [None, 0.5]},
    {"data": [None, 0.5, 2]},
    {"data": {}},
    {},
    [],
    7,
]


@pytest.mark.parametrize("event", EVENTS, ids=str)
def test_events_with_other_inputs_than_the_pages_are_refused(served, event):
    body = event | {"fn_index": 0, "session_hash": "abc"} if isinstance(event, dict) and event else event
    answer = httpx.post(f"{served[0]}/page/gradio_api/queue/join", json=body)
    assert (answer.status_code, answer.json()) == (422, {"error": "not an event of this page"})


def test_events_that_are_too_long_or_no_json(served):
    address = f"{served[0]}/page/gradio_api/queue/join"
    assert httpx.post(address, content=b"{").status_code == 422
    assert httpx.post(address, content=b"[" * 50_000).status_code == 422
    assert httpx.post(address, content=json.dumps({"data": [None] * 100_000})).status_code == 413


def test_other_hosts_and_web_sites_are_refused(served):
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
        answer = httpx.get(f"{served[0]}/health", headers=headers)
        assert answer.status_code == 403
        assert set(answer.json()) == {"error"}
    for path in ("/health", "/page/", "/nothing"):
        answer = httpx.get(served[0] + path, headers={"Origin": served[0]})
        assert {name: answer.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
    assert httpx.get(served[0]).headers["Location"] == "/page/"


def test_pictures_need_their_key(served):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG")
    key = httpx.post(f"{served[0]}/findings?name=x", content=buffer.getvalue()).json()["key"]
    for kind in ("photo", "heat"):
        answer = httpx.get(f"{served[0]}/findings/{key}/{kind}.jpg")
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/jpeg")
    assert httpx.get(f"{served[0]}/findings/{key}/map.jpg").status_code == 404
    assert httpx.get(f"{served[0]}/findings/other/photo.jpg").status_code == 404
    assert httpx.post(f"{served[0]}/findings?name=x", content=b"text").status_code == 415


def test_web_sockets_are_closed(served_inspector):
    from starlette.websockets import WebSocketDisconnect

    app, _ = build_api(ServedModel(served_inspector, title="x"), Limits(), hosts=None)
    with pytest.raises(WebSocketDisconnect), TestClient(app).websocket_connect("/predict"):
        pass
