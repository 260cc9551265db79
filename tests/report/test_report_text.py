"""The table as text: the same figures in every form, and names that look like markup stay names."""

import csv
import html
import io
import json
import re
from pathlib import Path

import pytest
import report_trees as trees
from markdown_it import MarkdownIt
from rich.console import Console

from dmdd.report import summary_table
from dmdd.report.aggregate import build_table
from dmdd.report.collect import Found, Run, Unfinished, Unreadable
from dmdd.report.layout import cell_text
from dmdd.report.rows import Cell
from dmdd.report.tabular import runs_csv, table_csv
from dmdd.report.terminal import render
from dmdd.report.text import latex, latex_escape, markdown, markdown_escape

NASTY = "<script>|[red]_x_&\\"


def drawn(table) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(table)
    return console.file.getvalue()


def runs(category: str = "metal_plate") -> list[Run]:
    entries = {"dataset": "mpdd", "category": category}
    return [
        Run(Path("a"), trees.result(**entries, metrics={"pixel_auroc": 0.98123, "image_auroc": 1 / 3}), trees.config()),
        Run(Path("b"), trees.result(**entries, seed=1, metrics={"pixel_auroc": 0.99}), trees.config()),
    ]


def test_a_cell_in_percent():
    text = cell_text(Cell(0.98344, 0.00126, 3, (0.98339, 0.9836), (0.97, 0.99)))
    assert (text.value, text.deviation, text.bounds, text.interval) == ("98.34", "0.13", "98.34, 98.36", "97.00, 99.00")
    assert cell_text(Cell(0.98344, bounds=(0.983436, 0.983444))).bounds == ""
    assert cell_text(None).value == "-"


def test_the_terminal_table_shows_names_as_they_are():
    text = drawn(render(build_table(runs(NASTY))))
    assert NASTY in text
    assert "98.56 ± 0.62" in text
    assert "98.96" in text  # the claim


def test_long_configurations_get_numbers_in_the_terminal():
    long = trees.result(seed=0, overrides=("teacher=resnet18", "pairs=self", "distillation.aim=l1"))
    other = Run(Path("c"), long, trees.config(distillation__steps=9))
    text = drawn(render(build_table([Run(Path("a"), trees.result(), trees.config()), other])))
    assert "(2) teacher=resnet18 pairs=self distillation.aim=l1" in text


def test_summary_of_a_sweep_is_categories_by_metrics():
    results = [trees.result(category=c, seed=s, metrics={"pixel_auroc": v}) for c, s, v in SWEEP]
    text = drawn(summary_table(results))
    lines = [line for line in text.splitlines() if "demo/" in line]
    assert ["demo/cap" in lines[0], "demo/plate" in lines[1]] == [True, True]
    assert "91.00 ± 1.41" in lines[0]
    assert "80.00" in lines[1]
    assert "mean of 2 categories" in text


def test_a_long_name_breaks_after_its_data_set():
    text = drawn(summary_table([trees.result(category="printed_paper")]))
    assert [line for line in text.splitlines() if "demo/ " in line and "printed" not in line]
    assert "│ printed_paper " in text


SWEEP = [("cap", 0, 0.90), ("plate", 0, 0.80), ("cap", 1, 0.92)]


def test_markdown_is_one_table_and_says_what_is_missing():
    found = Found(
        runs(), [Unfinished(Path("un_done"), "nothing logged")], [Unreadable(Path("x/result.json"), "damaged")]
    )
    text = markdown(build_table(runs(NASTY)), found, ["Rows mix 2 <b>."])
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.replace("\\|", "").count("|") == 7 for line in rows)
    assert "| mpdd | &lt;script>\\|\\[red\\]\\_x\\_&amp;\\\\ | 98.56 ± 0.62 | - | 33.33 | 1 to 2 |" in rows
    for part in ("- Rows mix 2 &lt;b>.", "- un_done: nothing logged", "- x/result.json: damaged", "CLAIM"):
        assert part in text


def test_markdown_escapes_render_as_the_text_they_came_from():
    for text in (NASTY, "**b** `c` ~~d~~ <i> &lt; metal_plate _x_", "a\nb"):
        rendered = MarkdownIt("gfm-like", {"linkify": False}).render(markdown_escape(text))
        assert html.unescape(re.sub("<.*?>", "", rendered)).strip() == " ".join(text.split())


def test_latex_has_its_rules_and_escapes():
    text = latex(build_table(runs("a_b&c%")))
    assert r"mpdd & a\_b\&c\% & $98.56 \pm 0.62$ & - & 33.33 & 1 to 2 \\" in text
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{tabular}{llrrrr}"):
        assert rule in text
    assert latex_escape("\\{}~^#$") == r"\textbackslash{}\{\}\textasciitilde{}\textasciicircum{}\#\$"


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "plain"])
def test_no_text_of_a_result_becomes_a_formula_in_a_spreadsheet(name):
    text = runs_csv([Run(Path("r"), trees.result(category=name))])
    (row,) = csv.DictReader(io.StringIO(text))
    assert row["category"] == (name if name == "plain" else f"'{name}")


def test_runs_csv_holds_every_figure_at_full_precision():
    made = trees.result(metrics={"pixel_auroc": 1 / 3}, command=["python", "-m", "dmdd.train", "a b"])
    made["test"] |= {"bounds": {"pixel_auroc": [0.1, 0.2]}, "maps": {"both": {"image_auroc": 2 / 3}}}
    evaluation = trees.result(model="m", category='x,"y"')
    del evaluation["seed"]
    text = runs_csv([Run(Path("r"), made, trees.config()), Run(Path("e"), evaluation)])
    first, second = csv.DictReader(io.StringIO(text))
    assert float(first["pixel_auroc"]) == 1 / 3
    assert float(first["map/both/image_auroc"]) == 2 / 3
    assert (first["pixel_auroc_lower"], first["pixel_auroc_low95"], first["image_size"]) == ("0.1", "", "128x128")
    assert (first["kind"], first["seed"], first["command"]) == ("run", "0", "python -m dmdd.train 'a b'")
    assert (second["kind"], second["seed"], second["category"]) == ("evaluation", "", 'x,"y"')


def test_table_csv_holds_the_rows():
    rows = list(csv.DictReader(io.StringIO(table_csv(build_table(runs())))))
    assert [(row["kind"], row["category"], row["seeds"]) for row in rows] == [
        ("category", "metal_plate", "0 1"),
        ("claim", "", ""),
    ]
    assert float(rows[0]["pixel_auroc"]) == pytest.approx(0.985615, abs=1e-12)
    assert rows[0]["aupro_30"] == ""
    assert json.loads(rows[1]["pixel_auroc"]) == 0.9896
