"""What a thousand finished runs cost: the table of a sweep, looking for the run to resume, the report and its page.

    python benchmarks/many_runs.py runs/mvtec_ad/screw/mine --count 1000 --output many_runs.json

A finished run is the pattern: it is copied under other categories, seeds and settings, its figures a little changed.
Seconds of the clock stand beside those of the processor, which a machine that others use does not stretch.
The page is opened in a headless Chromium, if there is one.
"""

import argparse
import contextlib
import io
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CATEGORIES, VALUES = 10, ("0.5", "1.0")  # the rest are seeds


def copy_runs(pattern: Path, folder: Path, count: int) -> None:
    """Copy a run, with the figures of each copy a little changed."""
    result = json.loads((pattern / "result.json").read_text(encoding="utf-8"))
    config = (pattern / "config.yaml").read_text(encoding="utf-8")
    generator = random.Random(0)
    for number in range(count):
        category, value = f"part_{number % CATEGORIES:02}", VALUES[number // CATEGORIES % len(VALUES)]
        seed = number // (CATEGORIES * len(VALUES))
        own = folder / result["dataset"] / category / f"{value}_{seed:03}"
        (own / "images").mkdir(parents=True)
        for picture in (pattern / "images").glob("*.png"):
            os.link(picture, own / "images" / picture.name)
        for name in ("scores.csv", "curves.json", "metrics.csv"):
            shutil.copy(pattern / name, own / name)
        metrics = {n: min(1.0, v * generator.uniform(0.97, 1.01)) for n, v in result["test"]["metrics"].items()}
        command = [*result["command"], f"category={category}", f"seed={seed}", f"distillation.ngm_weight={value}"]
        changed = {"category": category, "seed": seed, "command": command, "resumed": False}
        changed["test"] = result["test"] | {"metrics": metrics, "bounds": {}}
        (own / "result.json").write_text(json.dumps(result | changed), encoding="utf-8")
        text = re.sub(r"(?m)^seed: .*$", f"seed: {seed}", config)
        text = re.sub(r"(?m)^category: .*$", f"category: {category}", text)
        text = re.sub(r"(?m)^  ngm_weight: .*$", f"  ngm_weight: {value}", text)
        (own / "config.yaml").write_text(text, encoding="utf-8")


@contextlib.contextmanager
def timed(into: dict[str, Any], name: str) -> Iterator[None]:
    """Note seconds of the clock and of this process."""
    began, cpu = time.perf_counter(), time.process_time()
    yield
    into[f"{name}_s"] = round(time.perf_counter() - began, 2)
    into[f"{name}_cpu_s"] = round(time.process_time() - cpu, 2)
    print(name, into[f"{name}_s"], into[f"{name}_cpu_s"], file=sys.stderr, flush=True)


def measure(folder: Path, output: Path, dataset: str) -> dict[str, Any]:
    """Measure what Python does."""
    from dmdd.config.schema import TrainSettings
    from dmdd.experiment.resume import find_run
    from dmdd.report.__main__ import main as report
    from hydra_plugins.dmdd_category_sweeper import print_table

    took: dict[str, Any] = {}
    # The worst case: all runs are of one category and one seed, so that the settings of each are compared.
    flat = folder.parent / "flat"
    flat.mkdir()
    for number, file in enumerate(sorted(folder.rglob("config.yaml"))):
        (flat / f"{number:04}").mkdir()
        text = re.sub(r"(?m)^seed: .*$", "seed: 0", file.read_text(encoding="utf-8"))
        (flat / f"{number:04}" / "config.yaml").write_text(text, encoding="utf-8")
    settings = TrainSettings.compose("dataset=demo", "category=x", f"run_dir={flat / 'new'}", "name=new")
    with timed(took, "resume_scan"):
        find_run(settings)
    runs = [str(file.parent) for file in sorted(folder.rglob("result.json"))]
    with timed(took, "sweep_table"), contextlib.redirect_stdout(io.StringIO()):
        print_table(runs)
    with timed(took, "report"), contextlib.redirect_stdout(io.StringIO()):
        code = report([str(folder), "--output", str(output)])
    if code:
        raise SystemExit(f"the report gave {code}")
    took["page_mb"] = round((output / "report.html").stat().st_size / 1e6, 2)
    return {"runs": len(runs)} | took


def open_page(page: Path) -> dict[str, Any]:
    """Open the page in a browser and use it."""
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        return {}
    from playwright.sync_api import sync_playwright

    took: dict[str, Any] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        tab = browser.new_page()
        errors: list[str] = []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.set_default_timeout(300_000)
        with timed(took, "page_opens"):
            tab.goto(page.resolve().as_uri())
            tab.wait_for_selector("#table tbody tr")
        with timed(took, "page_sorts"):
            tab.locator("#table thead th button").nth(2).click()
            tab.evaluate("document.body.offsetHeight")
        with timed(took, "page_filters"):
            tab.fill("#table-filter", "part_03")
            tab.evaluate("document.body.offsetHeight")
        with timed(took, "page_shows_a_run"):
            count = tab.locator("#run-choice option").count()
            tab.select_option("#run-choice", index=count - 1)
            tab.evaluate("document.body.offsetHeight")
        heap = tab.evaluate("performance.memory ? performance.memory.usedJSHeapSize : 0")
        took["page_heap_mb"] = round(heap / 1e6, 1)
        took["page_elements"] = tab.evaluate("document.querySelectorAll('*').length")
        browser.close()
    if errors:
        raise SystemExit(f"the page met {errors}")
    # The browser is a process of its own: its processor time is not this one's.
    return {name: value for name, value in took.items() if not name.endswith("cpu_s")}


def main() -> int:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("run", type=Path, help="folder of a finished run with pictures")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="where the copies go while this runs; of the run's file system")
    parser.add_argument("--keep", type=Path, help="folder for the report")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        copy_runs(options.run, Path(temporary) / "runs", options.count)
        report = options.keep or Path(temporary) / "report"
        result = measure(Path(temporary) / "runs", report, "demo")
        result |= open_page(report / "report.html")
    print(json.dumps(result, indent=2))
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
