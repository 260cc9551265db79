"""What a reader of the table must know before comparing its rows."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from dmdd.report.benchmarks import BENCHMARKS
from dmdd.report.collect import Run
from dmdd.report.rows import ResultTable


def warnings_of(runs: Sequence[Run], table: ResultTable) -> list[str]:
    """List what makes rows incomparable, or a mean another than it seems.

    Args:
        runs: All runs and evaluations.
        table: Made of them.

    Returns:
        One sentence each; none if all is well.
    """
    mixed = [warning for title, describe in _COMPARED.items() if (warning := _mixed(runs, title, describe))]
    uneven = [*_repeated_seeds(table), *_different_images(table), *_uneven_seeds(table), *_uneven_categories(table)]
    return [*mixed, *_dirty(runs), *uneven]


def _protocol(run: Run) -> str:
    parts = run.result.get("protocol", {})
    return "; ".join(f"{topic}: {text}" for topic, text in parts.items()) or "not recorded"


def _teacher(run: Run) -> str | None:
    teacher = run.result.get("teacher") or (run.result.get("training") or {}).get("teacher")
    if not teacher:
        return None if run.is_evaluation else "not recorded"  # an evaluation of a model outside its run
    weights = str(teacher.get("weights"))
    # The checksum of random weights follows the seed.
    checksum = "" if weights.startswith("random") else f", sha256 {str(teacher.get('sha256'))[:8]}"
    return f"{teacher.get('backbone')} ({weights}{checksum})"


def _image_size(run: Run) -> str | None:
    if run.config is None:
        return None
    size = run.config.get("image_size")
    return "x".join(str(side) for side in size) if isinstance(size, list) else str(size)


def _commit(run: Run) -> str:
    return str(run.result.get("commit") or "not recorded")


_COMPARED: dict[str, Callable[[Run], Any]] = {
    "protocols": _protocol,
    "training precisions": lambda run: run.result.get("precision", {}).get("training"),
    "evaluation precisions": lambda run: run.result.get("precision", {}).get("evaluation", "not recorded"),
    "commits": lambda run: _commit(run)[:12] + ("-dirty" if _commit(run).endswith("-dirty") else ""),
    "teachers": _teacher,
    "image sizes": _image_size,
}


def _mixed(runs: Sequence[Run], title: str, describe: Callable[[Run], Any]) -> str | None:
    counts = Counter(value for run in runs if (value := describe(run)) is not None)
    if len(counts) < 2:
        return None
    parts = [f"{value} ({count} run{'s' if count > 1 else ''})" for value, count in counts.most_common()]
    if title == "protocols":
        parts = _only_what_differs(counts)
    return f"Rows mix {len(counts)} {title}: {', '.join(parts)}."


def _only_what_differs(counts: Counter) -> list[str]:
    """Leave out of the protocols the topics that all share."""
    protocols = {text: text.split("; ") for text, _ in counts.most_common()}
    shared = set.intersection(*(set(topics) for topics in protocols.values()))
    shown = {text: "; ".join(t for t in topics if t not in shared) or "less" for text, topics in protocols.items()}
    return [f"{shown[text]} ({counts[text]} run{'s' if counts[text] > 1 else ''})" for text in protocols]


def _dirty(runs: Sequence[Run]) -> list[str]:
    count = sum(_commit(run).endswith("-dirty") for run in runs)
    if not count:
        return []
    return [f"{count} of {len(runs)} results come from a checkout with changes (-dirty): no commit has their code."]


def _repeated_seeds(table: ResultTable) -> list[str]:
    warnings = []
    for row in table.rows:
        extra = len(row.runs) - len(row.seeds)
        if extra and row.map_name is None:
            warnings.append(
                f"{_name(row)}: {extra} run{'s' if extra > 1 else ''} more than seeds; "
                "runs of one seed are averaged first and count as one."
            )
    return warnings


def _different_images(table: ResultTable) -> list[str]:
    """Name rows whose runs saw other files under the same names: two plants' parts of one category, say."""
    warnings = []
    for row in table.rows:
        seen = [run.result.get("images", {}) for run in row.runs]
        listings = {images["listing"] for images in seen if "listing" in images}
        counts = {
            (i["trained_on"] + i["held_out"], i["tested"])
            for i in seen
            if {"trained_on", "held_out", "tested"} <= set(i)
        }
        if row.map_name is None and max(len(listings), len(counts)) > 1:
            warnings.append(f"{_name(row)}: the runs are of different images, so their mean means little.")
    return warnings


def _uneven_seeds(table: ResultTable) -> list[str]:
    counts = sorted({len(row.seeds) for row in table.rows})
    return [f"Rows have different numbers of seeds: {counts[0]} to {counts[-1]}."] if len(counts) > 1 else []


def _uneven_categories(table: ResultTable) -> list[str]:
    """Means of one data set over different categories, and categories that are not the benchmark's."""
    warnings = []
    by_dataset: dict[str, set[frozenset[str]]] = defaultdict(set)
    strangers: dict[str, set[str]] = defaultdict(set)
    for row in table.means:
        by_dataset[row.dataset].add(frozenset(run.category for run in row.runs))
    for row in table.rows:
        benchmark = BENCHMARKS.get(row.dataset)
        if benchmark and row.category not in benchmark.categories:
            strangers[row.dataset].add(row.category)
    for dataset, sets in by_dataset.items():
        if len(sets) > 1:
            warnings.append(f"{dataset}: the means of its configurations are over different categories.")
    for dataset, names in strangers.items():
        pooled = {row.category for row in table.rows if any(run.is_pooled for run in row.runs)}
        reason = "pooled categories are in no mean" if names <= pooled else "not in the benchmark, and in no mean"
        warnings.append(f"{dataset}/{', '.join(sorted(names))}: {reason}.")
    return warnings


def _name(row: Any) -> str:
    return " ".join(part for part in (f"{row.dataset}/{row.category}", row.configuration) if part)
