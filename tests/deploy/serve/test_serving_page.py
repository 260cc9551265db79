"""The page in a real browser, and what lies behind it."""

import base64
import csv
import io
import threading
from urllib.parse import unquote, urlsplit

import cv2
import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from dmdd.core.masks import find_mask
from dmdd.deploy.serve.api import Inspected, build_api
from dmdd.deploy.serve.gate import SECURITY_HEADERS
from dmdd.deploy.serve.limits import Limits
from dmdd.deploy.serve.model import ServedModel
from dmdd.deploy.serve.page import add_page, make_answer
from dmdd.deploy.serve.server import make_server
from dmdd.inference.predictor import Prediction
from dmdd.serve import open_port
from patience import PATIENCE_S


def test_pictures_are_small_enough_to_show_and_in_the_right_colours():
    large = np.zeros((1500, 3000, 3), np.uint8)
    large[..., 0] = 200
    heat = np.zeros((1500, 3000), np.float32)
    heat[:750] = 0.25
    found = Inspected(large, Prediction(map=heat, score=0.1, label=False, mask=None), 1.0)
    shown = make_answer(found)
    with Image.open(io.BytesIO(base64.b64decode(shown.photo))) as photo:
        assert photo.size == (1024, 512)
        assert np.abs(np.asarray(photo).astype(int) - [200, 0, 0]).max() <= 3
    assert (shown.map_height, shown.map_width, shown.height, shown.width) == (256, 512, 1500, 3000)
    values = np.frombuffer(base64.b64decode(shown.map), "<u2").reshape(256, 512)
    assert np.array_equal(np.unique(values), [0, 16384])  # 0.25 * 65535, rounded
    assert (values[:128] == 16384).all()


@pytest.fixture(scope="module")
def served(served_inspector):
    """A running server; gives its address and the names of the images that went through the network."""
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
    thread.join(PATIENCE_S)
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
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    yield page
    outside = {urlsplit(url).hostname for url in requests if urlsplit(url).scheme not in ("data", "blob")}
    page.close()
    assert outside == {"127.0.0.1"}
    # The browser itself notes refused uploads there; that is how the test below knows what it shows.
    assert [text for text in complaints if "responded with a status of 415" not in text] == []


def wait_for_rows(page, count: int) -> None:
    from playwright.sync_api import expect

    expect(page.locator("tbody tr")).to_have_count(count)  # the page's policy forbids scripts from outside


def verdicts(page) -> list[str]:
    return page.locator(".verdict").all_inner_texts()


def read_csv(href: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(base64.b64decode(unquote(href.partition("base64,")[2])).decode())))


def test_drop_images_move_the_sliders_and_take_the_scores_along(opened, served, pictures):
    from playwright.sync_api import expect

    page, (_, calls) = opened, served
    assert "demo / bracket" in page.inner_text(".head")
    assert not page.is_visible("#categories")  # the model is for one
    assert "96 x 64 px" in page.inner_text(".head")
    assert "12.5 %" in page.inner_text(".head")
    before = len(calls)
    page.set_input_files(".drop input", list(pictures))
    wait_for_rows(page, 2)
    scores = list(pictures.values())
    assert page.locator(".score b").all_inner_texts() == [f"{score:.4f}" for score in scores]
    assert page.locator(".name b").all_inner_texts() == [file.name for file in pictures]
    assert verdicts(page) == ["normal", "anomalous"]
    assert len(calls) == before + 2
    for image in page.locator("img").all():
        assert image.evaluate("image => image.complete && image.naturalWidth > 0")

    page.fill("#image-threshold", "0.6")
    page.press("#image-threshold", "Enter")
    page.wait_for_selector(".summary .moved")
    assert verdicts(page) == ["normal", "normal"]
    outlines = page.locator("path.fill").evaluate_all("all => all.map(p => p.getAttribute('d'))")
    page.fill("#pixel-threshold", "0.01")
    page.press("#pixel-threshold", "Enter")
    expect(page.locator(".score small").first).to_contain_text("100.0 %")
    moved = page.locator("path.fill").evaluate_all("all => all.map(p => p.getAttribute('d'))")
    assert outlines != moved
    assert len(calls) == before + 2  # the network has not run again

    href = page.get_attribute(".csv", "href")
    rows = read_csv(href)
    assert [float(row["score"]) for row in rows] == pytest.approx(scores, abs=1e-8)
    assert {row["image_threshold"] for row in rows} == {"0.6"}
    with page.expect_download() as download:
        page.click(".csv")
    assert download.value.suggested_filename == "scores.csv"

    page.get_by_role("button", name="Model's thresholds").click()
    page.wait_for_selector(".summary .moved", state="detached")
    page.get_by_role("button", name="Remove all images").click()
    page.wait_for_selector(".empty")


def test_what_the_endpoint_is_sent_is_listed(opened, served, pictures):
    from playwright.sync_api import expect

    page, (address, _) = opened, served
    for name, file in zip(("<b>1", "second"), pictures, strict=True):
        answer = httpx.post(f"{address}/predict", params={"name": name}, content=file.read_bytes(), timeout=PATIENCE_S)
        assert answer.status_code == 200
    expect(page.locator("#newest b").first).to_have_text("second")
    assert page.locator("#newest b").all_inner_texts()[:2] == ["second", "<b>1"]
    assert page.locator("#newest li").first.get_attribute("class") == "bad"
    assert page.locator("#newest img").first.evaluate("image => image.complete && image.naturalWidth > 0")


def test_what_is_no_image_is_told_beside_the_others(opened, pictures, tmp_path):
    page = opened
    bad = tmp_path / "<script>notes.txt"
    bad.write_text("no picture")
    page.set_input_files(".drop input", [next(iter(pictures)), bad])
    wait_for_rows(page, 1)
    page.wait_for_selector(".status .problem")
    assert page.inner_text(".status .problem").startswith("<script>notes.txt: not an image that can be read")


def test_only_so_many_images_at_once(opened, tmp_path):
    from playwright.sync_api import expect

    page = opened
    files = []
    for number in range(5):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(np.full((32, 32, 3), 40 * number, np.uint8)).save(files[-1])
    page.set_input_files(".drop input", files)
    page.wait_for_selector(".status .problem")
    assert "only 3 images at a time" in page.inner_text(".status .problem")
    wait_for_rows(page, 3)
    page.set_input_files(".drop input", files[4:])
    expect(page.locator("tbody")).to_contain_text("4.png")
    assert page.locator(".name b").all_inner_texts() == ["1.png", "2.png", "4.png"]


def test_narrow_page_fits_its_window(opened, pictures):
    page = opened
    page.set_viewport_size({"width": 420, "height": 900})
    page.set_input_files(".drop input", list(pictures))
    wait_for_rows(page, 2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
    small, picture = page.locator("figure").nth(1).bounding_box(), page.locator("figure").nth(1)
    picture.click()
    large = picture.bounding_box()
    assert large["width"] > 2 * small["width"] * 0.95
    assert min(large["x"], large["y"]) >= 0
    assert (large["x"] + large["width"] <= 420, large["y"] + large["height"] <= 900) == (True, True)


def heat_map() -> np.ndarray:
    heat = np.zeros((300, 200), np.float32)
    heat[10:40, 20:60] = 0.9  # 30 x 40
    heat[200:210, 100:110] = 0.6  # 10 x 10
    heat[210:212, 110:112] = 0.6  # touches it at a corner
    heat[20:30, 30:40] = 0.1  # a hole of 10 x 10
    return heat


def test_regions_area_and_csv_of_a_known_map(opened, tmp_path):
    """8-connected regions, the share of the area, and a name that a spreadsheet would run as a formula."""
    page = opened
    photo = np.zeros((300, 200, 3), np.uint8)
    answer = make_answer(Inspected(photo, Prediction(map=heat_map(), score=0.7, label=True, mask=None), 12.0))
    assert (answer.raw_score, answer.false_alarm_probability) == (None, None)
    page.route("**/page/inspect", lambda route: route.fulfill(json=answer.model_dump()))
    page.fill("#pixel-threshold", "0.5")
    page.press("#pixel-threshold", "Enter")
    file = tmp_path / '=1+1,"b".png'
    Image.fromarray(photo).save(file)
    page.set_input_files(".drop input", [file])
    wait_for_rows(page, 1)
    area = (30 * 40 - 100 + 100 + 4) / (300 * 200)
    assert page.inner_text(".score small") == f"2 regions, {100 * area:.1f} % of the area"
    (row,) = read_csv(page.get_attribute(".csv", "href"))
    assert row == {
        "file": '\'=1+1,"b".png',
        "score": "0.7",
        "verdict": "anomalous",
        "image_threshold": "0.53125",
        "pixel_threshold": "0.5",
        "area_percent": f"{100 * area:.3f}",
        "regions": "2",
        "width": "200",
        "height": "300",
        "model": "demo / bracket",
        "weights_sha256": "0123456789abcdef",
        "raw_score": "",
        "false_alarm_probability": "",
    }
    assert len(page.get_attribute("path.fill", "d").split("M")) - 1 == 30 + 10 + 10 + 2  # two runs a row at the hole


def test_the_page_takes_off_what_blur_adds_as_the_mask_does(opened, tmp_path):
    page, heat = opened, np.random.default_rng(0).random((30, 40), np.float32) ** 3
    photo, mask = np.zeros((60, 80, 3), np.uint8), find_mask(heat, 0.5, spot_area_px=3)
    assert 0 < mask.sum() < (heat >= 0.5).sum()
    seen = Prediction(map=cv2.resize(heat, (80, 60)), score=0.7, label=True, mask=None, spot_area_px=12)
    answer = make_answer(Inspected(photo, seen, 12.0)).model_dump()
    assert answer["spot_area"] == 12
    small = base64.b64encode(np.rint(heat * 65535).astype("<u2").tobytes()).decode()
    answer |= {"map": small, "map_width": 40, "map_height": 30, "spot_area": 3}
    page.route("**/page/inspect", lambda route: route.fulfill(json=answer))
    page.fill("#pixel-threshold", "0.5")
    page.press("#pixel-threshold", "Enter")
    Image.fromarray(photo).save(tmp_path / "a.png")
    page.set_input_files(".drop input", [tmp_path / "a.png"])
    wait_for_rows(page, 1)
    assert page.inner_text(".score small").endswith(f", {100 * mask.mean():.1f} % of the area")


def test_a_model_without_thresholds_says_so(served, browser):
    address, _ = served
    page = browser.new_page()
    card = httpx.get(f"{address}/model", timeout=PATIENCE_S).json()
    missing = dict.fromkeys(("image_threshold", "pixel_threshold", "false_alarm_rate"))
    page.route("**/model", lambda route: route.fulfill(json=card | missing | {"model": "<b>x</b>"}))
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    assert "no calibrated thresholds" in page.inner_text("#origin")
    assert "states no rate" in page.inner_text("#facts")
    assert "<b>x</b>" in page.inner_text("#facts")  # text, not markup
    page.close()


def test_the_page_judges_by_the_chosen_category(served, browser, tmp_path):
    from playwright.sync_api import expect

    address, asked = served[0], []
    card = httpx.get(f"{address}/model", timeout=PATIENCE_S).json() | {"categories": ["front", "<b>back"]}
    photo = np.zeros((60, 80, 3), np.uint8)
    prediction = Prediction(map=np.zeros((60, 80), np.float32), score=0.7, label=True, mask=None)
    answer = make_answer(Inspected(photo, prediction, 12.0)).model_dump()

    def inspect(route):
        asked.append(route.request.url.removeprefix(address))
        route.fulfill(json=answer)

    def tell(route):
        route.fulfill(json=card | {"image_threshold": 0.9 if "category=" in route.request.url else 0.4})

    page = browser.new_page()
    page.route("**/model*", tell)
    page.route("**/page/inspect*", inspect)
    page.goto(address)
    page.wait_for_selector("body[data-calibrate]")
    Image.fromarray(photo).save(tmp_path / "a.png")
    page.set_input_files("#drop input", [tmp_path / "a.png"])
    wait_for_rows(page, 1)
    assert verdicts(page) == ["anomalous"]
    page.select_option("#category", "<b>back")
    wait_for_rows(page, 0)  # they were judged by other thresholds
    expect(page.locator("#image-threshold")).to_have_value("0.9000")
    page.set_input_files("#drop input", [tmp_path / "a.png"])
    wait_for_rows(page, 1)
    assert verdicts(page) == ["normal"]
    assert asked == ["/page/inspect", "/page/inspect?category=%3Cb%3Eback"]
    page.close()


def test_other_hosts_and_web_sites_are_refused(served):
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
        answer = httpx.get(f"{served[0]}/health", headers=headers, timeout=PATIENCE_S)
        assert answer.status_code == 403
        assert set(answer.json()) == {"error"}
    for path in ("/health", "/", "/page.js", "/nothing"):
        answer = httpx.get(served[0] + path, headers={"Origin": served[0]}, timeout=PATIENCE_S)
        assert {name: answer.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS


def test_the_page_and_its_files_need_nothing_else(served):
    for path, kind in (
        ("/", "text/html"),
        ("/page.js", "javascript"),
        ("/live.js", "javascript"),
        ("/page.css", "text/css"),
    ):
        answer = httpx.get(served[0] + path, timeout=PATIENCE_S)
        assert answer.status_code == 200
        assert kind in answer.headers["Content-Type"]
        assert "http://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in answer.text
    assert httpx.post(f"{served[0]}/page/inspect", content=b"text", timeout=PATIENCE_S).status_code == 415
    assert httpx.get(f"{served[0]}/page/inspect", timeout=PATIENCE_S).status_code == 405


def test_web_sockets_are_closed(served_inspector):
    from starlette.websockets import WebSocketDisconnect

    app, _ = build_api(ServedModel(served_inspector, title="x"), Limits(), hosts=None)
    with pytest.raises(WebSocketDisconnect), TestClient(app).websocket_connect("/predict"):
        pass
