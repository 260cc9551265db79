"""``python -m dmdd.report`` as a user runs it."""

import re
import subprocess
import sys

import pytest
import report_trees as trees

from dmdd.report.__main__ import main


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    for seed in (0, 1):
        trees.write_details(trees.write_run(tmp_path / f"runs/demo/plate/{seed}", trees.result(seed=seed)))
    return tmp_path / "runs"


def test_everything_is_written_and_told(runs, capsys):
    assert main(["runs"]) == 0
    names = ["report.html", "runs.csv", "table.csv", "table.md", "table.tex"]
    assert sorted(file.name for file in (runs / "report").iterdir()) == names
    out = capsys.readouterr().out
    assert "90.00 ± 0.00" in out
    for name in names:
        assert f"runs/report/{name}  " in out
    assert main(["runs"]) == 0  # its own output is no run


def test_ctrl_c_is_one_line(runs, monkeypatch, capsys):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr("dmdd.report.__main__._report", interrupted)
    assert main(["runs"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_formats_and_metrics_are_chosen(runs, capsys):
    assert main(["runs", "--format", "csv", "output=out", "--metrics", "image_auroc", "--maps"]) == 0
    assert sorted(file.name for file in (runs.parent / "out").iterdir()) == ["runs.csv", "table.csv"]
    assert "pixel_auroc" not in (runs.parent / "out/table.csv").read_text()
    assert main(["runs", "format=terminal", "output=none"]) == 0
    assert not (runs.parent / "none").exists()


def test_damaged_and_unfinished_runs_are_named_with_exit_code_3(runs, capsys):
    trees.write_run(runs / "bad")
    (runs / "bad/result.json").write_text("{")
    trees.write_run(runs / "begun")
    (runs / "begun/result.json").unlink()
    assert main(["runs"]) == 3
    out = capsys.readouterr().out
    assert "not used: runs/bad/result.json: damaged: no JSON" in out
    assert "unfinished: runs/begun, nothing logged" in out
    for name in ("report.html", "table.md"):
        text = (runs / "report" / name).read_text()
        assert "runs/bad/result.json" in text
        assert "runs/begun" in text
    assert main(["runs", "--format", "csv"]) == 3
    assert "not used: runs/bad/result.json" in capsys.readouterr().out


def test_a_damaged_file_beside_a_result_is_named_in_every_format(runs, capsys):
    (runs / "demo/plate/0/curves.json").write_text("{")
    assert main(["runs"]) == 3
    assert "curves.json: damaged" in capsys.readouterr().out
    assert "curves.json: damaged" in (runs / "report/table.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no folder nowhere"),
        (["runs/demo/plate/0/images"], "no finished run below runs/demo/plate/0/images"),
        (["runs", "--metrics", "dice"], "no run has 'dice'; there are aupro_30, image_auroc, pixel_auroc"),
        (["runs", "--output", "runs/demo/plate/0/result.json"], "result.json is a file; give a folder"),
        (["runs", "--output", "runs/demo/plate/0/result.json/x"], "cannot write .*: Not a directory"),
    ],
)
def test_bad_input_is_one_line(runs, capsys, arguments, message):
    before = sorted(runs.parent.rglob("*"))
    assert main(arguments) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert re.search(f"^error: .*{message}", errors[0]), errors
    assert sorted(runs.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: FOLDER"),
        (["runs", "--format", "pdf"], "'pdf'; choose from terminal,markdown,csv,latex,html"),
        (["runs", "--pictures", "many"], "'many' is no whole number from 0"),
    ],
)
def test_a_wrong_option_ends_with_exit_code_2(runs, capsys, arguments, message):
    with pytest.raises(SystemExit) as leave:
        main(arguments)
    assert leave.value.code == 2
    assert message in capsys.readouterr().err


def test_only_unfinished_runs_are_told_before_the_error(runs, capsys):
    trees.write_run(runs / "new/begun")
    (runs / "new/begun/result.json").unlink()
    assert main(["runs/new"]) == 2
    captured = capsys.readouterr()
    assert "unfinished: runs/new/begun" in captured.out
    assert "no finished run below runs/new" in captured.err


def test_the_report_needs_no_torch():
    code = (
        "import sys; from dmdd.report.__main__ import main; import dmdd.report.page, dmdd.report.gallery;"
        "assert 'torch' not in sys.modules and 'hydra' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
