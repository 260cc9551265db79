"""The notebooks: their cells run one after the other, on a small demo data set and with recipe=smoke."""

import ast
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
QUICK = {
    'recipe = "demo"': 'recipe = "smoke"',
    "size = 320": "size = 128",
    # Half the layers, which is what translating it to ONNX takes its time from.
    '"teacher=efficientnet_lite0",': '"teacher=resnet18", "teacher.random_weights=true", "evaluation.resamples=0",',
}


def cells_of(file: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(file.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Run a cell; give what its last expression is, as a notebook shows it."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)


@pytest.fixture
def displayed(monkeypatch) -> list[Any]:
    """What the cells display, in place of IPython."""
    shown: list[Any] = []
    display = types.ModuleType("IPython.display")
    display.Image = Path
    display.display = shown.append
    package = types.ModuleType("IPython")
    package.version_info, package.get_ipython = (9, 0), lambda: None  # Matplotlib asks
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return shown


def test_the_notebooks_run_in_their_order(tmp_path, monkeypatch, displayed, capsys):
    monkeypatch.chdir(tmp_path)
    results = []
    for file in NOTEBOOKS:
        names: dict[str, Any] = {"__name__": file.stem}
        for cell in cells_of(file, "code"):
            source = "".join(cell["source"])
            for slow, quick in QUICK.items():
                source = source.replace(slow, quick)
            results.append(run_cell(source, names))
    pictures = [result._repr_png_() for result in results if hasattr(result, "_repr_png_")]
    assert len(pictures) == 4  # three predictions and the sheet of all maps
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert {"pairs.jpg", "training.png", "curves.png"} <= {file.name for file in displayed}
    assert all(file.is_file() for file in displayed)
    said = capsys.readouterr().out
    assert "0.5: found" in said
    assert "largest difference of the maps" in said


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_is_committed_without_outputs(file):
    cells = cells_of(file, "code")
    assert cells
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


def test_what_makes_the_notebooks_quick_is_in_them():
    source = "".join("".join(cell["source"]) for file in NOTEBOOKS for cell in cells_of(file, "code"))
    assert all(slow in source for slow in QUICK)
