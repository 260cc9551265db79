import os
import re
import shutil
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from absl import logging as absl_logging

from patience import PATIENCE_S

REPOSITORY = Path(__file__).resolve().parents[1]

# TensorBoard and ONNX Runtime bring absl, whose handler keeps the stream that stderr is when it is imported; Hydra
# closes all handlers when it sets up logging, and absl's would close pytest's captured stream with it.
absl_logging.get_absl_handler().python_handler.stream = sys.__stderr__

# No example fails because a machine is busy.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

# Networks and images are tiny here: on busy machines a second thread waits more than it works.
torch.set_num_threads(1)


STARTS = re.compile(
    r"\bsubprocess\b|\bPopen\b|\bmultiprocessing\b|\bmain\(|\bTrainer\(|\bdmdd\.fit\(|quiet_trainer|\bexec\("
    r"|from processes import|\bbrowser\b|num_workers=[1-9]"
)
"""What the source of a test file says where its tests start a process, a command or a training."""


@cache
def kind_of(file: Path) -> str:
    """Tell the marker of a test file: ``unit`` if its tests start nothing, else ``integration``."""
    starts = STARTS.search(file.read_text(encoding="utf-8")) or "fuzz" in file.parts
    return "integration" if starts else "unit"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no integration tests where only the quick ones run: it takes longer than many of these."""
    quick = config.option.markexpr == "unit"
    return True if quick and collection_path.name.startswith("test_") and kind_of(collection_path) != "unit" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests; the quick files come last, so that no process waits for the other's long one at the end."""
    for item in items:
        item.add_marker(kind_of(item.path))
    items.sort(key=lambda item: kind_of(item.path) == "unit")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with mvtec_ad/screw, mpdd/metal_plate and dtd/images."""
    folder = Path(os.environ.get("DMDD_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set DMDD_DATA to the folder that holds mvtec_ad/ and mpdd/")
    return folder


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory) -> Path:
    """A data folder that holds a small demo data set."""
    from dmdd.data.demo.generate import generate_demo

    root = tmp_path_factory.mktemp("data")
    generate_demo(root, size=128, train=12, test_good=4, per_defect=2)
    return root


@pytest.fixture(scope="session")
def demo_category(demo_root):
    from dmdd.data.layouts import read_mvtec_ad

    return read_mvtec_ad(root=demo_root / "demo", category="plate", dataset="demo")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium of the system, driven by Playwright; not for longer, its event loop would stop asyncio's."""
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("no Chromium on this machine; pages are tested in one")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=1000 * PATIENCE_S)
    with sync_playwright() as playwright:
        # No sandbox: containers often run as root, where Chromium refuses its own; only our pages are opened.
        chromium = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        new_page = chromium.new_page

        def patient_page(**settings: Any) -> Any:
            page = new_page(**settings)
            page.set_default_timeout(1000 * PATIENCE_S)
            return page

        chromium.new_page = patient_page
        yield chromium
        chromium.close()
