"""The HTML page: one file that asks nothing of any server. Texts reach it as JSON and are set as text by its script."""

import base64
import hashlib
import json
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from dmdd.report.collect import Found, Run, Unreadable
from dmdd.report.configurations import configuration_names
from dmdd.report.detail import histogram, read_curves, read_losses, read_scores
from dmdd.report.gallery import pictures, thumbnails
from dmdd.report.layout import CLAIM_NOTE, LEGEND, cell_text, metric_title, seeds_text
from dmdd.report.rows import ResultTable, Row

LEAST_SHARE = 60_000
"""Bytes for the pictures of a run, two to ten of them; with many runs some have pictures and the others none."""

SCRIPTS = ("dom.js", "chart.js", "table.js", "curves.js", "decision.js", "run.js", "gallery.js", "main.js")


def build_page(
    table: ResultTable,
    found: Found,
    warnings: Sequence[str],
    *,
    shown: Sequence[str],
    pictures_per_run: int,
    picture_bytes: int,
) -> str:
    """Write the page.

    Args:
        table: Rows with every metric.
        found: What was searched; gets an entry for every file beside a result that cannot be used.
        warnings: Sentences that stand above the table.
        shown: Metrics whose columns are there at first.
        pictures_per_run: At most.
        picture_bytes: Of all pictures together, shared evenly by the runs; by some of each row where they are many.

    Returns:
        The page.
    """
    trained = [run for run in found.runs if not run.is_evaluation]
    names = {id(run): name for run, name in zip(trained, _short_names(trained), strict=True)}
    places = {run.folder: place for place, run in enumerate(found.runs)}
    shares = _picture_shares(found.runs, [names.get(id(run), "") for run in found.runs], picture_bytes)
    entries = [
        _run(run, names.get(id(run), ""), count=pictures_per_run, max_bytes=share, unreadable=found.unreadable)
        for run, share in zip(found.runs, shares, strict=True)
    ]
    data = {
        "made": datetime.now().astimezone().isoformat(timespec="minutes"),
        "metrics": {metric: metric_title(metric) for metric in table.metrics},
        "shown": list(shown),
        "hasConfigurations": table.has_configurations,
        "hasMaps": table.has_maps,
        "rows": [_row(row, table.metrics, places) for row in table.lines],
        "runs": entries,
        "warnings": list(warnings),
        "notes": [LEGEND, *([CLAIM_NOTE] if table.claims else [])],
        "unfinished": [[str(run.folder), run.progress] for run in found.unfinished],
        "unreadable": [[str(bad.file), bad.reason] for bad in found.unreadable],
    }
    return _assemble(data)


def _short_names(runs: Sequence[Run]) -> list[str]:
    """Leave out of the configurations' names what all runs on a data set share: legends and lists have little room."""
    parts = [name.split() for name in configuration_names(runs)]
    shared: dict[str, set[str]] = {}
    for part, run in zip(parts, runs, strict=True):
        shared[run.dataset] = shared.get(run.dataset, set(part)) & set(part)
    short = [" ".join(p for p in part if p not in shared[run.dataset]) for part, run in zip(parts, runs, strict=True)]
    several = {run.dataset for run, name in zip(runs, short, strict=True) if name}
    return [name or ("default" if run.dataset in several else "") for run, name in zip(runs, short, strict=True)]


def _picture_shares(runs: Sequence[Run], names: Sequence[str], picture_bytes: int) -> list[int]:
    """Share the room for pictures among the runs; among so many that one gets none, by the first ones of each row."""
    counted: Counter[tuple[str, str, str]] = Counter()
    turns = []
    for run, name in zip(runs, names, strict=True):
        row = (run.dataset, run.category, name)
        turns.append(counted[row])
        counted[row] += 1
    chosen = sorted(range(len(runs)), key=turns.__getitem__)[: max(1, picture_bytes // LEAST_SHARE)]
    shares = dict.fromkeys(chosen, picture_bytes // max(1, len(chosen)))
    return [shares.get(place, 0) for place in range(len(runs))]


def _row(row: Row, metrics: Sequence[str], places: dict[Path, int]) -> dict[str, Any]:
    cells = {}
    for metric in metrics:
        if cell := row.cells.get(metric):
            text = cell_text(cell, signed=row.kind == "difference")
            cells[metric] = {"mean": cell.mean, "value": text.value, "deviation": text.deviation, "seeds": cell.seeds}
            cells[metric] |= {"bounds": list(cell.bounds or ()), "interval": text.interval, "boundsText": text.bounds}
    return {
        "kind": row.kind,
        "dataset": row.dataset,
        "category": row.title,
        "configuration": row.configuration,
        "map": None if row.kind == "claim" else row.map_name or "detector",
        "seeds": row.seeds,
        "seedsText": seeds_text(row),
        "cells": cells,
        "runs": [places[run.folder] for run in row.runs],
    }


def _run(run: Run, configuration: str, *, count: int, max_bytes: int, unreadable: list[Unreadable]) -> dict[str, Any]:
    result, test = run.result, run.result["test"]
    threshold = result.get("calibration", {}).get("image_threshold")
    scores = read_scores(run.folder, unreadable)
    if scores and scores[0].readable:
        threshold = 0.5
    shown = pictures(run.folder, scores, threshold=threshold, count=count, max_bytes=max_bytes, unreadable=unreadable)
    return {
        "folder": str(run.folder),
        "dataset": run.dataset,
        "category": run.category,
        "shortConfiguration": configuration,
        "seed": run.seed,
        "model": result.get("model"),
        "figures": test["metrics"],
        "types": test.get("types", {}),
        "typeIntervals": test.get("type_intervals_95", {}),
        "threshold": threshold,
        "histogram": histogram(scores, threshold),
        "scores": [[score.file, score.label, float(f"{score.score:.6g}")] for score in scores],
        "promise": result.get("calibration", {}).get("promise"),
        "suspicious": _suspicious(run, unreadable),
        "curves": read_curves(run.folder, unreadable),
        "losses": read_losses(run.folder, unreadable),
        "facts": _facts(run),
        "protocol": {str(topic): str(text) for topic, text in result.get("protocol", {}).items()},
        "command": command_text(run),
        "pictures": shown,
        "picturesThere": len(list((run.folder / "images").glob("*.png"))),
    }


def _suspicious(run: Run, unreadable: list[Unreadable]) -> list[list[Any]]:
    entries = run.result.get("suspicious", [])
    shown = thumbnails(run.folder, len(entries), unreadable)
    return [[str(e["file"]), e["strangeness"], picture] for e, picture in zip(entries, shown, strict=True)]


def command_text(run: Run) -> str:
    """Write a run's command for a shell.

    Args:
        run: A run or an evaluation.

    Returns:
        One line, quoted; without the search path that dmdd gives Hydra by itself.
    """
    return shlex.join(part for part in run.result.get("command", []) if not part.startswith("hydra.searchpath="))


def _facts(run: Run) -> list[list[str]]:
    """Everything else the result records, as pairs of texts."""
    result = run.result
    size = (run.config or {}).get("image_size")
    facts = {
        "commit": result.get("commit"),
        "teacher": _joined(result.get("teacher", {})),
        "image size": "x".join(map(str, size)) if isinstance(size, list) else size,
        "images": _joined(result.get("images", {})),
        "calibration": _joined(result.get("calibration", {})),
        "decisions at the threshold": _joined(result["test"].get("decisions", {})),
        "images left out": _joined({k: v for k, v in result["test"].get("left_out", {}).items() if v}),
        "device": result.get("device"),
        "devices": result.get("devices"),
        "precision": _joined(result.get("precision", {})),
        "time": ", ".join(f"{k} {v / 60:.1f} min" for k, v in result.get("wall_time_s", {}).items()),
        "versions": _joined(result.get("versions", {})),
    }
    return [[name, str(value)] for name, value in facts.items() if value not in (None, "")]


def _joined(entries: dict[str, Any]) -> str:
    plain = {name: value for name, value in entries.items() if not isinstance(value, dict | list)}
    values = ((name, f"{v:.6g}" if isinstance(v, float) else v) for name, v in plain.items())
    return ", ".join(f"{str(name).replace('_', ' ')} {value}" for name, value in values)


def _assemble(data: dict[str, Any]) -> str:
    folder = files("dmdd.report") / "assets"
    style = (folder / "style.css").read_text(encoding="utf-8")
    body = "\n".join((folder / name).read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{body}}})();\n'
    # In JSON "<" stands only inside texts: escaped, none of them can end the element or open a comment.
    content = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    content = content.encode(errors="replace").decode()  # a file name may hold bytes that are no text
    policy = f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    parts = {"POLICY": policy, "STYLE": style, "DATA": content, "SCRIPT": script}
    template = (folder / "page.html").read_text(encoding="utf-8")
    # In one pass, so that a text that looks like a mark stays what it is.
    page = re.sub(r"@@(POLICY|STYLE|DATA|SCRIPT)@@", lambda match: parts[match[1]], template)
    size = f"{len(page.encode()) / 1e6:.2f} MB"
    return page.replace("@@SIZE@@", size, 1)


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
