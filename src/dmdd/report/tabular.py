"""Results for other programs: one CSV line a run, and one a row of the table."""

import csv
import io
import shlex
from collections.abc import Sequence
from typing import Any

from dmdd.report.collect import Run
from dmdd.report.configurations import configuration_names
from dmdd.report.rows import Cell, ResultTable


def runs_csv(runs: Sequence[Run]) -> str:
    """Write everything that is known of each run, at full precision, in [0, 1].

    Args:
        runs: Runs and evaluations.

    Returns:
        CSV; what a run has not is empty. ``M``, ``M_lower``, ``M_upper`` are a metric and its certified bounds,
        ``M_low95``, ``M_high95`` its interval, ``map/N/M`` a map's metrics, ``calibration/K`` and ``wall_time_s/K``.
    """
    trained = [run for run in runs if not run.is_evaluation]
    names = {id(run): name for run, name in zip(trained, configuration_names(trained), strict=True)}
    records = [_head(run, names.get(id(run), "")) | _figures(run) | _facts(run) for run in runs]
    columns = list(dict.fromkeys(column for record in records for column in record))
    return _csv(columns, [[record.get(column) for column in columns] for record in records])


def _head(run: Run, configuration: str) -> dict[str, Any]:
    return {
        "folder": str(run.folder),
        "kind": "evaluation" if run.is_evaluation else "run",
        "dataset": run.dataset,
        "category": run.category,
        "configuration": configuration,
        "seed": run.seed,
        "model": run.result.get("model"),
    }


def _figures(run: Run) -> dict[str, Any]:
    test = run.result["test"]
    record: dict[str, Any] = {}
    for metric, value in test["metrics"].items():
        record[metric] = value
        for entry, ends in (("bounds", ("lower", "upper")), ("intervals_95", ("low95", "high95"))):
            pair = test.get(entry, {}).get(metric, (None, None))
            record |= {f"{metric}_{end}": value for end, value in zip(ends, pair, strict=True)}
    for name, figures in test.get("maps", {}).items():
        record |= {f"map/{name}/{metric}": value for metric, value in figures.items()}
    return record


def _facts(run: Run) -> dict[str, Any]:
    result = run.result
    record = {f"{e}/{k}": v for e in ("calibration", "images", "wall_time_s") for k, v in result.get(e, {}).items()}
    record |= {f"{e}/{k}": v for e in ("teacher", "precision", "versions") for k, v in result.get(e, {}).items()}
    size = (run.config or {}).get("image_size")
    record["image_size"] = "x".join(str(side) for side in size) if isinstance(size, list) else size
    record |= {name: result.get(name) for name in ("device", "devices", "commit")}
    return record | {"command": shlex.join(result.get("command", []))}


def table_csv(table: ResultTable) -> str:
    """Write the rows of the table at full precision, in [0, 1].

    Args:
        table: The table.

    Returns:
        CSV with ``kind`` (category, mean, difference, claim, evaluation) as first column; ``M``, ``M_deviation``,
        ``M_seeds``, ``M_lower``, ``M_upper``, ``M_low95``, ``M_high95`` by metric.
    """
    parts = ("", "_deviation", "_seeds", "_lower", "_upper", "_low95", "_high95")
    head = ["kind", "dataset", "category", "note", "configuration", "map", "runs", "seeds"]
    columns = [*head, *(f"{metric}{part}" for metric in table.metrics for part in parts)]
    records = []
    for row in table.lines:
        map_name = None if row.kind == "claim" else row.map_name or "detector"
        record: list[Any] = [row.kind, row.dataset, row.category, row.note, row.configuration, map_name]
        record += [len(row.runs), " ".join(map(str, row.seeds))]
        for metric in table.metrics:
            record += _cell_values(row.cells.get(metric))
        records.append(record)
    return _csv(columns, records)


def _cell_values(cell: Cell | None) -> list[Any]:
    if cell is None:
        return [None] * 7
    return [cell.mean, cell.deviation, cell.seeds, *(cell.bounds or (None, None)), *(cell.interval or (None, None))]


def _csv(columns: list[str], records: list[list[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")  # floats are written so that they read back the same
    writer.writerow(columns)
    writer.writerows([[_harmless(value) for value in record] for record in records])
    return text.getvalue()


def _harmless(value: Any) -> Any:
    """Keep a spreadsheet from taking a text for a formula: a name in somebody's result file would run in it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
