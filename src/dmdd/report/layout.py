"""The table as rows of text, the same for the terminal, Markdown and LaTeX; each escapes and decorates by itself."""

from collections.abc import Iterator
from dataclasses import dataclass

from dmdd.report.benchmarks import METRIC_TITLES
from dmdd.report.rows import Cell, ResultTable, Row

LEGEND = (
    "Percent. ± is the sample standard deviation over seeds, in a mean row over those that every category has; "
    "without it there are fewer than two. "
    "[ ] is the 95 % interval over the choice of test images, averaged over the seeds; it says nothing about seeds. "
    "In a mean row it is that of the mean over these categories. "
    "( ) are certified bounds of the value itself, shown where they differ from it at two decimals."
)
CLAIM_NOTE = (
    "Claims are quoted from the paper (arXiv 2408.03888), nothing here reproduces them; "
    "which definition of PRO it uses is not established."
)


@dataclass(frozen=True)
class CellText:
    """A figure in parts, in percent.

    Args:
        value: Two decimals; ``-`` where unknown.
        deviation: Two decimals, or empty.
        bounds: As ``low, high``, or empty where they round to the value.
        interval: As ``low, high``, or empty.
    """

    value: str
    deviation: str = ""
    bounds: str = ""
    interval: str = ""


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Args:
        row: What it shows.
        labels: Texts of the label columns.
        cells: One a metric.
        seeds: Text of the last column.
    """

    row: Row
    labels: tuple[str, ...]
    cells: tuple[CellText, ...]
    seeds: str


def metric_title(metric: str) -> str:
    """Give a metric's name as papers write it, or as ``result.json`` does."""
    return METRIC_TITLES.get(metric, metric)


def label_titles(table: ResultTable) -> tuple[str, ...]:
    """Name the label columns; those that would say the same in each row are left out."""
    titles = ["dataset", "category"]
    titles += ["configuration"] if table.has_configurations else []
    titles += ["map"] if table.has_maps else []
    return tuple(titles)


def lines(table: ResultTable) -> Iterator[Line]:
    """Lay out every row.

    Args:
        table: The table.

    Yields:
        Lines in order: categories, means, differences, claims, evaluations.
    """
    for row in table.lines:
        labels = [row.dataset, row.title]
        labels += [row.configuration] if table.has_configurations else []
        labels += ["" if row.kind == "claim" else row.map_name or "detector"] if table.has_maps else []
        cells = tuple(cell_text(row.cells.get(metric), signed=row.kind == "difference") for metric in table.metrics)
        yield Line(row, tuple(labels), cells, seeds_text(row))


def seeds_text(row: Row) -> str:
    """Say how many seeds a row's figures are of: ``3``, ``1 to 3`` where columns differ, ``-`` for none."""
    if row.kind in ("claim", "evaluation"):
        return "-"
    counts = sorted({cell.seeds for cell in row.cells.values()}) or [0 if row.kind == "difference" else len(row.seeds)]
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def cell_text(cell: Cell | None, *, signed: bool = False) -> CellText:
    """Write a figure in percent.

    Args:
        cell: The figure; None where unknown.
        signed: Write a plus before what is not negative.

    Returns:
        Its parts.
    """
    if cell is None:
        return CellText("-")
    value = f"{round(100 * cell.mean, 2) + 0.0:+.2f}" if signed else percent(cell.mean)
    ends = tuple(percent(end) for end in cell.bounds or ())
    return CellText(
        value,
        "" if cell.deviation is None else percent(cell.deviation),
        "" if all(end == value for end in ends) else ", ".join(ends),
        "" if cell.interval is None else ", ".join(percent(end) for end in cell.interval),
    )


def percent(share: float) -> str:
    """Write a share of 1 as percent with two decimals."""
    return f"{100 * share:.2f}"
