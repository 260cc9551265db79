"""The page in a browser: what it shows, that it sorts and filters, that it asks nothing of any server."""

import re
from importlib.resources import files

import pytest
import report_trees as trees
import torch

from dmdd.experiment.pictures import SUSPICIOUS_PICTURES, write_thumbnail
from dmdd.report import collect
from dmdd.report.__main__ import main
from dmdd.report.page import SCRIPTS, command_text

SCRIPT_NAME = "<script>document.title='broken'</script>"
IMAGE_NAME = "<img/src=x/onerror=document.title='broken'>"  # a configuration's name keeps no spaces


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Three categories of which one has a hostile name, two configurations, an evaluation, an unfinished run."""
    root = tmp_path_factory.mktemp("report")
    figures = {"cap": 0.95, "plate": 0.80, SCRIPT_NAME: 0.91}
    for place, (category, value) in enumerate(figures.items()):
        made = trees.result(category=category, metrics={"pixel_auroc": value, "aupro_30": 1 - value, "pixel_ap": 0.5})
        made["suspicious"] = [{"file": "train/good/odd.png", "strangeness": 7.26, "held_out": False}]
        made["calibration"]["promise"] = "3 good images: expect 1 % false alarms"
        run = trees.write_run(root / f"runs/{place}", made)
        trees.write_details(run)
        write_thumbnail(run / SUSPICIOUS_PICTURES, 0, torch.full((3, 100, 320), 90, dtype=torch.uint8))
    other = trees.result(category="cap", metrics={"pixel_auroc": 0.99}, overrides=(f"pairs={IMAGE_NAME}",), seed=1)
    other["commit"] = "</script><script>"
    trees.write_run(root / "runs/other", other, trees.config(distillation__steps=9))
    evaluation = trees.result(category="cap", model=IMAGE_NAME)
    del evaluation["seed"]
    trees.write_run(root / "runs/evaluation", evaluation)
    trees.write_run(root / "runs/begun")
    (root / "runs/begun/result.json").unlink()
    assert main([str(root / "runs"), "--output", str(root / "out"), "--format", "html"]) == 0
    return root / "out/report.html"


@pytest.fixture
def page(browser, report):
    opened = browser.new_page(viewport={"width": 1600, "height": 900})
    asked: list[str] = []
    said: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.goto(report.as_uri())
    yield opened
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
    assert said == []
    assert opened.title() == "dmdd report"
    opened.close()


def column(page, title: str) -> list[str]:
    place = page.locator("#table thead button").all_inner_texts().index(title)
    return page.locator(f"#table tbody[data-kind=category] tr.row td:nth-child({place + 1})").all_inner_texts()


def values(page) -> list[float]:
    return [float(text.split()[0]) for text in column(page, "pixel AUROC")]


def test_the_table_sorts_by_any_column(page):
    assert column(page, "category") == [SCRIPT_NAME, "cap", "cap", "plate"]
    assert values(page) == [91.0, 95.0, 99.0, 80.0]
    button = page.locator("#table thead button", has_text="pixel AUROC")
    button.click()
    assert values(page) == [99.0, 95.0, 91.0, 80.0]
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    page.keyboard.press("Enter")  # the button keeps the focus
    assert values(page) == [80.0, 91.0, 95.0, 99.0]
    page.locator("#table thead button", has_text="AUPRO@0.3").click()
    assert column(page, "AUPRO@0.3")[-1] == "-"  # unknown ones last, both ways
    page.keyboard.press("Enter")
    assert column(page, "AUPRO@0.3")[-1] == "-"
    page.locator("#table thead button", has_text="category").click()
    assert column(page, "category") == [SCRIPT_NAME, "cap", "cap", "plate"]


def test_means_stay_below_and_say_what_they_are(page):
    mean = page.locator("tbody[data-kind=mean]").inner_text()
    assert "mean of 3 categories" in mean
    assert "88.67" in mean  # (95 + 80 + 91) / 3
    page.locator("#table thead button", has_text="pixel AUROC").click()
    assert page.locator("tbody[data-kind=mean]").inner_text() == mean


def test_rows_are_filtered_and_columns_added(page):
    page.fill("#table-filter", "PLATE")
    assert column(page, "category") == ["plate"]
    page.fill("#table-filter", "")
    page.click("summary")
    page.check("#columns label:has-text('pixel AP') input")
    assert column(page, "pixel AP") == ["50.00", "50.00", "-", "50.00"]


def test_a_row_opens_to_its_runs_with_their_commands(page):
    page.locator("tbody[data-kind=category] tr.row:has-text('plate') button").click()
    member = page.locator("tr.members")
    assert member.locator("code").inner_text() == "python -m dmdd.train dataset=demo category=plate"
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    member.locator("button", has_text="Copy").click()
    member.locator("button", has_text="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == "python -m dmdd.train dataset=demo category=plate"
    member.locator("a").click()
    assert "plate" in page.locator("#run-choice option:checked").inner_text()


def test_hostile_names_are_shown_as_text(page):
    assert page.locator("#table td", has_text=SCRIPT_NAME).first.is_visible()
    assert page.locator("img:not([src^=data])").count() == 0
    assert page.evaluate("document.scripts.length") == 2
    page.select_option("#run-choice", label=f"demo/cap · pairs={IMAGE_NAME} · seed 1")
    assert "</script><script>" in page.locator("#run-body").inner_text()


def test_the_gallery_filters(page):
    cards = page.locator("#gallery figure")
    assert cards.count() == 15
    page.select_option("#picture-show", "missed")
    assert [card.get_attribute("data-verdict") for card in cards.all()] == ["missed"] * 3
    page.select_option("#picture-show", "false alarm")
    assert [card.get_attribute("data-type") for card in cards.all()] == ["good"] * 3
    page.select_option("#picture-type", "dent")
    assert page.locator("#gallery").inner_text() == "No picture fits."
    page.select_option("#picture-show", "worst")
    page.select_option("#picture-run", index=1)
    assert [text.split()[1] for text in page.locator("#gallery figcaption").all_inner_texts()] == [
        "test/dent/001.png",
        "test/dent/000.png",
    ]
    page.select_option("#picture-show", "best")
    assert "test/dent/000.png" in page.locator("#gallery figcaption").first.inner_text()


def test_a_picture_opens_large_and_turns_by_key(page):
    page.locator("#gallery figure button").first.click()
    first = page.locator("#viewer-caption").inner_text()
    page.keyboard.press("ArrowLeft")  # nothing before the first
    assert page.locator("#viewer-caption").inner_text() == first
    page.keyboard.press("ArrowRight")
    assert page.locator("#viewer-caption").inner_text() != first
    page.keyboard.press("ArrowLeft")
    assert page.locator("#viewer-caption").inner_text() == first
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()


def test_curves_overlay_and_tell_their_values(page):
    lines = page.locator("#curve-chart polyline")
    lines.nth(2).wait_for(state="attached")
    assert lines.count() == 3
    page.locator("#curve-legend input").first.uncheck()
    assert lines.count() == 2
    page.select_option("#curve-kind", "pixel_pr")
    assert not page.locator("#curve-zoom").is_visible()
    page.locator("#curve-chart svg").focus()
    page.keyboard.press("ArrowRight")
    tip = page.locator("#curve-chart .tip")
    assert "recall 0.51" in tip.inner_text()
    assert tip.inner_text().count("0.745") == 2  # 1 - 0.51 / 2
    page.select_option("#curve-kind", "pixel_roc")
    page.select_option("#curve-zoom", "0.05")
    box = page.locator("#curve-chart svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50)
    assert re.search(r"false-positive rate 0\.02\d", tip.inner_text())


def test_a_run_shows_its_scores_types_losses_and_protocol(page):
    page.select_option("#run-choice", index=0)
    body = page.locator("#run-body")
    body.locator(".chart svg").nth(2).wait_for()  # the browser may be slower than the test
    assert body.locator(".chart svg").count() == 3
    assert body.locator("rect.normal").count() == 2
    assert body.locator("line.threshold").count() == 1
    for text in ("95.00", "none on test data", "a processor", "total 1.0 min", "dent", "[12.50, 87.50]"):
        assert text in body.inner_text()


def test_a_slider_moves_the_threshold_and_names_what_changes_sides(page):
    page.select_option("#run-choice", index=0)
    body = page.locator("#run-body")
    rows = body.locator("table.confusion tbody tr")
    rows.nth(1).wait_for()
    assert [row.split("\t") for row in rows.all_inner_texts()] == [
        ["normal", "1", "1", "50.0 %"],
        ["anomalous", "1", "2", "33.3 %"],
    ]
    body.locator("input.threshold-slider").evaluate(
        "slider => { slider.value = 0.2; slider.dispatchEvent(new Event('input')); }"
    )
    assert rows.nth(1).inner_text().split("\t") == ["anomalous", "0", "3", "0.0 %"]
    assert "now right test/dent/001.png, 0.3" in body.locator("ul.plain").first.inner_text()
    body.get_by_role("button", name="Calibrated threshold").click()
    assert rows.nth(1).inner_text().split("\t") == ["anomalous", "1", "2", "33.3 %"]


def test_odd_training_images_are_named(page):
    page.select_option("#run-choice", index=0)
    text = page.locator("#run-body").inner_text()
    assert "train/good/odd.png, 7.3" in text
    size = page.locator("ul.odd img").first.evaluate("image => [image.naturalWidth, image.naturalHeight]")
    assert size == [160, 50]  # of 320 x 100
    assert "3 good images: expect 1 % false alarms" in text


def test_the_rest_is_named(page):
    assert "nothing logged" in page.locator("#files").inner_text()
    assert "Rows mix 2 commits" in page.locator("#warnings").inner_text()
    assert re.search(r"one file of 0\.\d\d MB", page.locator("footer").inner_text())


@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window_in_either_scheme(page, width, scheme):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", colour)[:3])) > 380) == (scheme == "light")
    page.click("#theme")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"


def test_every_control_has_a_name(page):
    names = page.evaluate("""() => {
        const shown = [...document.querySelectorAll("button, select, input")].filter((one) => one.checkVisibility());
        return shown.map((one) => one.ariaLabel || one.textContent.trim() || one.labels?.[0]?.textContent.trim() || "");
    }""")
    assert names
    assert all(names)


def test_a_run_with_nothing_beside_it(browser, tmp_path):
    trees.write_run(tmp_path / "runs/a", trees.result(metrics={}, test={"metrics": {}}, command=[], calibration={}))
    assert main([str(tmp_path / "runs"), "--output", str(tmp_path / "out"), "--format", "html"]) == 0
    opened = browser.new_page()
    said: list[str] = []
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.goto((tmp_path / "out/report.html").as_uri())
    text = opened.inner_text("main")
    opened.close()
    assert said == []
    for part in ("No run has curves", "No run has pictures", "No metrics", "no command recorded"):
        assert part in text


def test_no_address_stands_in_the_page(report):
    addresses = set(re.findall(r"\w+://[^\s\"'`]+", report.read_text()))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, never fetched


def test_every_script_is_in_the_page_once():
    names = {file.name for file in (files("dmdd.report") / "assets").iterdir()}
    assert names == {*SCRIPTS, "page.html", "style.css"}


def test_a_command_is_quoted_and_without_the_search_path(tmp_path):
    command = ["python", "-m", "dmdd.train", "name=a b", "hydra.searchpath=['file:///x']"]
    trees.write_run(tmp_path, trees.result(command=command))
    assert command_text(collect([tmp_path])[0]) == "python -m dmdd.train 'name=a b'"


def test_differences_stand_below_with_their_sign(browser, tmp_path):
    for seed, (value, other) in enumerate([(0.90, 0.88), (0.91, 0.895)]):
        for name, figure, steps, overrides in (("a", value, 8, ()), ("b", other, 9, ("distillation.steps=9",))):
            made = trees.result(category="cap", metrics={"pixel_auroc": figure}, overrides=overrides, seed=seed)
            trees.write_run(tmp_path / f"runs/{name}{seed}", made, trees.config(distillation__steps=steps))
    given = [str(tmp_path / "runs"), "--output", str(tmp_path / "out"), "--format", "html", "--against", "default"]
    assert main(given) == 0
    page = browser.new_page()
    page.goto((tmp_path / "out/report.html").as_uri())
    rows = page.locator("#table tbody[data-kind=difference] tr")
    text = " ".join(rows.first.inner_text().split())
    assert rows.count() == 1
    assert "cap, minus default distillation.steps=9 -1.75 ± 0.35" in text
    assert text.endswith("2 seeds")
    assert page.locator("#table tbody[data-kind=difference] button").count() == 0
    page.close()
