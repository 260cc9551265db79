"""The table over all results, before it is text."""

from dataclasses import dataclass
from typing import Literal

from dmdd.report.collect import Run


@dataclass(frozen=True)
class Cell:
    """One figure of a row, in [0, 1].

    Args:
        mean: Over the seeds; over the categories' means in a mean row; in [-1, 1] in a difference row.
        deviation: Sample standard deviation over the seeds; None for one.
        seeds: How many seeds it is of; 0 for a claim.
        bounds: Certified interval of ``mean``; None where it is exact or unknown.
        interval: 95 % interval over the choice of test images, averaged over the seeds; None where unknown.
    """

    mean: float
    deviation: float | None = None
    seeds: int = 0
    bounds: tuple[float, float] | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        kind: ``category``, ``mean`` over categories, ``difference`` to another configuration, ``claim`` of the paper,
            or ``evaluation`` of a saved model.
        dataset: Name of the data set.
        category: Name of the category; empty where the line is about several.
        configuration: What differs from other configurations; empty if there is one only.
        map_name: Whose figures; None for the detector's own.
        cells: By metric; a metric that is not known is absent.
        runs: What it is made of.
        note: What the line is, if it is not simply a category.
    """

    kind: Literal["category", "mean", "difference", "claim", "evaluation"]
    dataset: str
    category: str
    configuration: str
    map_name: str | None
    cells: dict[str, Cell]
    runs: tuple[Run, ...] = ()
    note: str = ""

    @property
    def title(self) -> str:
        """Category and note as one text."""
        return ", ".join(part for part in (self.category, self.note) if part)

    @property
    def seeds(self) -> list[int]:
        """The seeds of its runs, each once."""
        return sorted({run.seed for run in self.runs if run.seed is not None})


@dataclass(frozen=True)
class ResultTable:
    """All lines.

    Args:
        metrics: Columns, by their names in ``result.json``.
        rows: One a data set, category, configuration and map.
        means: Over the categories of a data set.
        claims: The paper's.
        evaluations: One each; they measure models anew that may have a row already, so they are in no mean.
        differences: Of every other configuration to one, seed by seed.
    """

    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    means: tuple[Row, ...]
    claims: tuple[Row, ...]
    evaluations: tuple[Row, ...]
    differences: tuple[Row, ...] = ()

    @property
    def lines(self) -> tuple[Row, ...]:
        """Every line in the order of printing."""
        return (*self.rows, *self.means, *self.differences, *self.claims, *self.evaluations)

    @property
    def has_configurations(self) -> bool:
        """Whether rows differ by configuration."""
        return any(row.configuration for row in self.rows)

    @property
    def has_maps(self) -> bool:
        """Whether rows differ by map."""
        return any(row.map_name for row in self.lines)
