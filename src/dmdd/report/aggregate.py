"""One table over many runs: means over seeds, means over categories, and the paper's claims beside them."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev

from dmdd.core.errors import UserError
from dmdd.report.benchmarks import BENCHMARKS, DEFAULT_METRICS
from dmdd.report.collect import Run
from dmdd.report.configurations import configuration_names
from dmdd.report.rows import Cell, ResultTable, Row


def choose_metrics(runs: Iterable[Run], wanted: Sequence[str] = ()) -> tuple[str, ...]:
    """Choose the columns.

    Args:
        runs: The runs.
        wanted: Names in ``result.json``, or ``all``; none for pixel AUROC, AUPRO@0.3 and image AUROC.

    Returns:
        Names of metrics.

    Raises:
        UserError: No run has a wanted one.
    """
    there = {name for run in runs for name in run.result["test"]["metrics"]}
    if list(wanted) == ["all"]:
        return (*(n for n in DEFAULT_METRICS if n in there), *sorted(there - set(DEFAULT_METRICS)))
    for name in wanted:
        if name not in there:
            raise UserError(f"--metrics: no run has '{name}'; there are {', '.join(sorted(there)) or 'none'}")
    return tuple(dict.fromkeys(wanted)) or DEFAULT_METRICS


def build_table(
    runs: Sequence[Run], *, metrics: Sequence[str] = DEFAULT_METRICS, maps: bool = False, against: str | None = None
) -> ResultTable:
    """Group runs that differ only by seed and average them.

    Args:
        runs: Runs and evaluations.
        metrics: Columns.
        maps: Also give a row to every map.
        against: Name of a configuration, to which the differences of all others are given; None for none.

    Returns:
        The table.

    Raises:
        UserError: There is no configuration of that name.
    """
    trained = [part for run in runs if not run.is_evaluation for part in run.parts]
    groups: dict[tuple[str, str, str], list[Run]] = defaultdict(list)
    for run, configuration in zip(trained, configuration_names(trained), strict=True):
        groups[run.dataset, run.category, configuration].append(run)
    rows = []
    for (dataset, category, configuration), members in sorted(groups.items(), key=_default_first):
        for map_name in _map_names(members) if maps else [None]:
            cells = _cells(metrics, lambda metric, m=members, n=map_name: seed_cell(m, metric, n))  # type: ignore[misc]
            rows.append(Row("category", dataset, category, configuration, map_name, cells, tuple(members)))
    return ResultTable(
        metrics=tuple(metrics),
        rows=tuple(rows),
        means=tuple(_mean_rows(rows, metrics)),
        claims=tuple(_claims({row.dataset for row in rows}, metrics)),
        evaluations=tuple(_evaluations([p for run in runs if run.is_evaluation for p in run.parts], metrics, maps)),
        differences=() if against is None else tuple(_difference_rows(rows, metrics, against)),
    )


def _default_first(item: tuple[tuple[str, str, str], list[Run]]) -> tuple[str, str, bool, str]:
    (dataset, category, configuration), _ = item
    return dataset, category, configuration != "default", configuration


def _map_names(runs: Sequence[Run]) -> list[str | None]:
    return [None, *dict.fromkeys(name for run in runs for name in run.result["test"].get("maps", {}))]


def _cells(metrics: Iterable[str], make: Callable[[str], Cell | None]) -> dict[str, Cell]:
    return {metric: cell for metric in metrics if (cell := make(metric)) is not None}


def seed_cell(runs: Sequence[Run], metric: str, map_name: str | None = None) -> Cell | None:
    """Average one metric over the seeds; runs that repeat a seed are averaged first, they are no new evidence.

    Args:
        runs: Runs that differ only by seed, or one evaluation.
        metric: Its name.
        map_name: Whose; None for the detector's own.

    Returns:
        The figure, or None where no run has it.
    """
    having = [run for run in runs if metric in run.figures(map_name)]
    if not having:
        return None
    values = _by_seed(having, lambda run: run.figures(map_name)[metric])
    bounds = interval = None
    if map_name is None:
        if any(metric in run.result["test"].get("bounds", {}) for run in having):
            bounds = _mean_pair(having, "bounds", metric, exact=True)
        if all(metric in run.result["test"].get("intervals_95", {}) for run in having):
            interval = _mean_pair(having, "intervals_95", metric)
    return Cell(fmean(values), stdev(values) if len(values) > 1 else None, len(values), bounds, interval)


def _by_seed(runs: Sequence[Run], value: Callable[[Run], float]) -> list[float]:
    seeds: dict[int | None, list[float]] = defaultdict(list)
    for run in runs:
        seeds[run.seed].append(value(run))
    return [fmean(values) for values in seeds.values()]


def _mean_pair(runs: Sequence[Run], entry: str, metric: str, *, exact: bool = False) -> tuple[float, float]:
    """Average lower and upper ends; a metric without bounds is exact: its ends are its value."""

    def end(run: Run, end_index: int) -> float:
        pair = run.result["test"].get(entry, {}).get(metric)
        return run.figures()[metric] if exact and pair is None else pair[end_index]

    lower, upper = (fmean(_by_seed(runs, lambda run, p=end_index: end(run, p))) for end_index in (0, 1))  # type: ignore[misc]
    return lower, upper


def _mean_rows(rows: Sequence[Row], metrics: Sequence[str]) -> list[Row]:
    groups: dict[tuple[str, str, str | None], list[Row]] = defaultdict(list)
    for row in rows:
        if _is_of_a_mean(row):
            groups[row.dataset, row.configuration, row.map_name].append(row)
    means = []
    for (dataset, configuration, map_name), members in groups.items():
        if len(members) > 1:
            cells = _cells(metrics, lambda metric, m=members: _mean_cell(m, metric))  # type: ignore[misc]
            runs = tuple(run for row in members for run in row.runs)
            note = _coverage(dataset, len(members))
            means.append(Row("mean", dataset, "", configuration, map_name, cells, runs, note))
    return means


def _is_of_a_mean(row: Row) -> bool:
    benchmark = BENCHMARKS.get(row.dataset)
    pooled = any(run.is_pooled for run in row.runs)
    return not pooled and (benchmark is None or row.category in benchmark.categories)


def _coverage(dataset: str, count: int) -> str:
    if dataset not in BENCHMARKS:
        return f"mean of {count} categories"
    whole = len(BENCHMARKS[dataset].categories)
    return f"mean of all {whole} categories" if count == whole else f"PARTIAL mean of {count} of {whole} categories"


def _mean_cell(rows: Sequence[Row], metric: str) -> Cell | None:
    """Average the categories' means; deviation and number of seeds are those of the seeds that every category has.

    Their intervals are joined by square-and-add (Newcombe 1998): no test image is in two categories.
    """
    if not all(metric in row.cells for row in rows):
        return None
    cells = [row.cells[metric] for row in rows]
    bounds = None
    if any(cell.bounds for cell in cells):
        pairs = [cell.bounds or (cell.mean, cell.mean) for cell in cells]
        bounds = fmean(lower for lower, _ in pairs), fmean(upper for _, upper in pairs)
    mean = fmean(cell.mean for cell in cells)
    by_category = [_values_of_seeds(row, metric) for row in rows]
    common = set.intersection(*(set(values) for values in by_category))
    by_seed = [fmean(values[seed] for values in by_category) for seed in common]
    deviation = stdev(by_seed) if len(by_seed) > 1 else None
    return Cell(mean, deviation, len(common), bounds, _interval_of_mean(mean, cells))


def _interval_of_mean(mean: float, cells: Sequence[Cell]) -> tuple[float, float] | None:
    known = [(cell.mean, *cell.interval) for cell in cells if cell.interval is not None]
    if len(known) < len(cells):
        return None
    below = math.hypot(*(value - lower for value, lower, _ in known)) / len(cells)
    above = math.hypot(*(upper - value for value, _, upper in known)) / len(cells)
    return max(0.0, mean - below), min(1.0, mean + above)


def _values_of_seeds(row: Row, metric: str) -> dict[int | None, float]:
    having = [run for run in row.runs if metric in run.figures(row.map_name)]
    seeds = dict.fromkeys(run.seed for run in having)
    return {seed: fmean(r.figures(row.map_name)[metric] for r in having if r.seed == seed) for seed in seeds}


def _difference_rows(rows: Sequence[Row], metrics: Sequence[str], against: str) -> list[Row]:
    """Subtract a configuration from the others seed by seed: equal seeds see equal pairs, so that much cancels."""
    names = list(dict.fromkeys(row.configuration for row in rows))
    if against not in names or len(names) < 2:
        raise UserError(
            f"--against: no configurations to tell from '{against}'; there are {', '.join(names) or 'none'}"
        )
    bases = {(row.dataset, row.category, row.map_name): row for row in rows if row.configuration == against}
    pairs = [
        (row, bases[row.dataset, row.category, row.map_name])
        for row in rows
        if row.configuration != against and (row.dataset, row.category, row.map_name) in bases
    ]
    found, groups = [], defaultdict(list)
    for row, base in pairs:
        cells = _cells(metrics, lambda metric, pair=(row, base): _difference_cell([pair], metric))  # type: ignore[misc]
        note = f"minus {against}"
        found.append(
            Row("difference", row.dataset, row.category, row.configuration, row.map_name, cells, row.runs, note)
        )
        if _is_of_a_mean(row):
            groups[row.dataset, row.configuration, row.map_name].append((row, base))
    for (dataset, configuration, map_name), members in groups.items():
        if len(members) > 1:
            cells = _cells(metrics, lambda metric, m=members: _difference_cell(m, metric))  # type: ignore[misc]
            runs = tuple(run for row, _ in members for run in row.runs)
            note = f"mean of {len(members)} categories minus {against}"
            found.append(Row("difference", dataset, "", configuration, map_name, cells, runs, note))
    return found


def _difference_cell(pairs: Sequence[tuple[Row, Row]], metric: str) -> Cell | None:
    values = [(_values_of_seeds(row, metric), _values_of_seeds(base, metric)) for row, base in pairs]
    common = set.intersection(*(set(own) & set(base) for own, base in values))
    if not common:
        return None
    by_seed = [fmean(own[seed] - base[seed] for own, base in values) for seed in common]
    return Cell(fmean(by_seed), stdev(by_seed) if len(by_seed) > 1 else None, len(by_seed))


def _claims(datasets: set[str], metrics: Sequence[str]) -> list[Row]:
    return [
        Row(
            "claim",
            dataset,
            "",
            "",
            None,
            {m: Cell(BENCHMARKS[dataset].claims[m]) for m in metrics if m in BENCHMARKS[dataset].claims},
            note=f"the paper's CLAIM, mean of all {len(BENCHMARKS[dataset].categories)}, not reproduced here",
        )
        for dataset in sorted(datasets & set(BENCHMARKS))
        if BENCHMARKS[dataset].claims
    ]


def _evaluations(runs: Sequence[Run], metrics: Sequence[str], maps: bool) -> list[Row]:
    rows = []
    for run in sorted(runs, key=lambda run: (run.dataset, run.category, str(run.folder))):
        for map_name in _map_names([run]) if maps else [None]:
            cells = _cells(metrics, lambda metric, r=run, n=map_name: seed_cell([r], metric, n))  # type: ignore[misc]
            model = "/".join(Path(run.result["model"]).parts[-2:])  # the recorded path is absolute
            note = f"evaluation of {model}"
            rows.append(Row("evaluation", run.dataset, run.category, "", map_name, cells, (run,), note))
    return rows
