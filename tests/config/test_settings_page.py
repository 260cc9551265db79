"""The page of all settings, and the pages of the notebooks, as `make docs` writes them."""

import importlib.util
import re
from pathlib import Path

import pytest

from dmdd.config.help import EXIT_CODES

DOCS = Path(__file__).resolve().parents[2] / "docs"
_spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
generate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate)


@pytest.fixture(scope="module")
def page() -> str:
    return generate.write_settings()


def test_every_command_has_its_settings_and_exit_codes(page):
    assert re.findall(r"^## dmdd (\w+)$", page, re.MULTILINE) == list(EXIT_CODES)
    for name in ("distillation.steps", "data.tile_px", "limits.upload_mb", "pairs.procedural", "rate"):
        assert re.search(rf"^\| `{re.escape(name)}` \| `.+` \| \S.*\|$", page, re.MULTILINE), name
    assert all(f"Exit codes: {codes}." in page for codes in EXIT_CODES.values())


def test_every_row_has_three_cells(page):
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len(rows) > 200
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4}


def test_a_notebook_becomes_a_page_with_its_code():
    page = generate.write_notebook(DOCS / "notebooks/3-export.ipynb")
    assert page.startswith("# Export and run\n")
    assert page.count("```python\n") == 4
    assert "[Download the notebook](3-export.ipynb){: download}" in page
