"""The table in the terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dmdd.report.aggregate import build_table
from dmdd.report.collect import Found, Run
from dmdd.report.layout import CLAIM_NOTE, LEGEND, CellText, Line, lines, metric_title
from dmdd.report.rows import ResultTable, Row

SHORT = 24  # letters of a configuration's name that stand in the table itself
_STYLES = {"category": "", "mean": "bold", "difference": "", "claim": "italic dim", "evaluation": "dim"}


def summary_table(results: Sequence[dict[str, Any]]) -> Table:
    """Lay out the results of a sweep: categories by metrics, averaged over seeds.

    Args:
        results: As in ``result.json``.

    Returns:
        A table to print with ``rich``.
    """
    return render(build_table([Run(Path(), result) for result in results]), title="test sets, percent")


def render(table: ResultTable, title: str | None = None) -> Table:
    """Lay out a table.

    Args:
        table: The table.
        title: Stands above it.

    Returns:
        A table to print with ``rich``.
    """
    keys = _configuration_keys(table)
    drawn = Table(title=title, caption=_caption(keys), caption_justify="left", caption_style="dim")
    drawn.add_column("data", overflow="fold", min_width=12)
    for metric in table.metrics:
        drawn.add_column(metric_title(metric), justify="right", overflow="fold")
    drawn.add_column("seeds", justify="right")
    previous: Line | None = None
    for line in lines(table):
        if previous and previous.row.kind != line.row.kind:
            drawn.add_section()
        cells = map(_cell, line.cells)
        drawn.add_row(_label(line.row, keys), *cells, line.seeds, style=_STYLES[line.row.kind])
        previous = line
    return drawn


def _label(row: Row, keys: dict[str, str]) -> Text:
    """Stack what names a row: figures have lines below them anyway, and 80 columns are few."""
    # Text, since a name from a file may hold what rich takes for markup.
    name = f"{row.dataset}/{row.title}" if row.category else f"{row.dataset}: {row.title}"
    # At 80 columns a longer name would be cut in the middle of a word.
    text = Text(name if len(name) <= 16 else name.replace("/", "/\n", 1) if row.category else name)
    for more in (keys.get(row.configuration, row.configuration), f"{row.map_name} map" if row.map_name else ""):
        if more:
            text.append(f"\n{more}", style="dim")
    return text


def _configuration_keys(table: ResultTable) -> dict[str, str]:
    """Give numbers to configurations whose names would leave no room for the figures."""
    names = list(dict.fromkeys(row.configuration for row in table.rows))
    if all(len(name) <= SHORT for name in names):
        return {}
    return {name: f"({number})" for number, name in enumerate(names, start=1)}


def _caption(keys: dict[str, str]) -> Text | None:
    return Text("\n".join(f"{key} {name}" for name, key in keys.items())) if keys else None


def _cell(cell: CellText) -> Text:
    text = Text(f"{cell.value} ± {cell.deviation}" if cell.deviation else cell.value)
    for extra in (f"({cell.bounds})" if cell.bounds else "", f"[{cell.interval}]" if cell.interval else ""):
        if extra:
            text.append(f"\n{extra}", style="dim")
    return text


def print_report(console: Console, table: ResultTable, found: Found, warnings: list[str]) -> None:
    """Print the table, the warnings and what could not be used.

    Args:
        console: Where to.
        table: The table.
        found: What was searched.
        warnings: Sentences.
    """
    console.print(render(table, title="results, percent"))
    console.print(Text(LEGEND, style="dim"))
    if table.claims:
        console.print(Text(CLAIM_NOTE, style="dim"))
    for warning in warnings:
        console.print(Text.assemble(("warning: ", "yellow"), warning))
    print_problems(console, found)


def print_problems(console: Console, found: Found) -> None:
    """Print the runs without result and the files that could not be used.

    Args:
        console: Where to.
        found: What was searched.
    """
    for run in found.unfinished:
        console.print(Text.assemble(("unfinished: ", "yellow"), f"{run.folder}, {run.progress}"), soft_wrap=True)
    for bad in found.unreadable:
        console.print(Text.assemble(("not used: ", "red"), f"{bad.file}: {bad.reason}"), soft_wrap=True)
