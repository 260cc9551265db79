"""One Markdown table of the peers' results and our runs."""

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

METRICS = ("pixel_auroc", "aupro_30", "image_auroc")
COLUMNS = (
    *("data", "method", "seeds", "pixel AUROC", "AUPRO@0.3", "image AUROC", "fit minutes", "training images/s"),
    *("images/s, batch 1", "images/s, batch 32", "peak GB fit / all", "what was run"),
)
Result = dict[str, Any]


def print_table(files: Sequence[Path], *, ours: Sequence[str]) -> None:
    """Print the table, then what makes its lines hard to compare."""
    results = [result for file in files for result in json.loads(file.read_text(encoding="utf-8"))]
    results += own_results(ours)
    good = [result for result in results if "error" not in result]
    print("Test splits, percent; mean ± sample standard deviation over the seeds.\n")
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS))
    for group in grouped(good):
        print("| " + " | ".join(line(group)) + " |")
    for note in notes(results):
        print(f"\n{note}")


def own_results(folders: Sequence[str]) -> list[Result]:
    """Bring our runs into the form of the peers' results."""
    if not folders:
        return []
    from dmdd.report.collect import collect
    from dmdd.report.configurations import configuration_names

    runs = [run for run in collect(list(folders)) if not run.is_evaluation]
    return [
        {
            "method": "dmdd",
            "dataset": run.dataset,
            "category": run.category,
            "seed": run.seed,
            "description": ", ".join(part for part in ("dmdd, its own result", name) if part),
            "metrics": run.figures(),
            "fit_s": sum(run.result["wall_time_s"].get(stage, 0) for stage in ("distillation", "segmentation")) or None,
            "teacher": run.result.get("teacher", {}),
            "images": run.result.get("images", {}),
            "device": run.result.get("device"),
            "versions": run.result.get("versions", {}),
        }
        for run, name in zip(runs, configuration_names(runs), strict=True)
    ]


def grouped(results: Sequence[Result]) -> list[list[Result]]:
    """Put together what differs by the seed only, best pixel AUROC first within a category."""
    groups: dict[tuple[Any, ...], list[Result]] = defaultdict(list)
    for result in results:
        teacher = result.get("teacher", {})
        kind = (result["description"], teacher.get("backbone"), teacher.get("sha256"), result.get("limit"))
        run = (json.dumps(result.get("budget")), result.get("batch_size"), result.get("device"), result.get("threads"))
        groups[(result["dataset"], result["category"], *kind, *run)].append(result)
    return sorted(groups.values(), key=lambda group: (*place(group[0]), -mean(group, METRICS[0])))


def place(result: Result) -> tuple[str, str]:
    return result["dataset"], result["category"]


def mean(group: Sequence[Result], metric: str) -> float:
    return statistics.fmean(result["metrics"].get(metric, 0) for result in group)


def line(group: Sequence[Result]) -> list[str]:
    """Lay out one line."""
    seeds = sorted({result["seed"] for result in group})
    minutes = [result["fit_s"] / 60 if result.get("fit_s") is not None else None for result in group]
    speeds = [[result.get("images_per_s", {}).get(size) for result in group] for size in ("1", "32")]
    memory = [average([r.get(key) for r in group], 1) for key in ("peak_memory_fit_gb", "peak_memory_gb")]
    return [
        " ".join(place(group[0])),
        group[0]["method"],
        ", ".join(map(str, seeds)) + (" (twice)" if len(group) > len(seeds) else ""),
        *(figure(group, metric) for metric in METRICS),
        average(minutes, 1),
        average([result.get("training_images_per_s") for result in group], 1),
        *(average(values, 1) for values in speeds),
        " / ".join(memory),
        what_was_run(group),
    ]


def figure(group: Sequence[Result], metric: str) -> str:
    """Give mean and spread in percent."""
    values = [100 * result["metrics"][metric] for result in group if metric in result["metrics"]]
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread}"


def average(values: Sequence[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.fmean(known):.{digits}f}" if known else "-"


def what_was_run(group: Sequence[Result]) -> str:
    """Describe method, teacher, training images and steps; a trial is marked as one."""
    first = group[0]
    parts = [first["description"]]
    if backbone := first.get("teacher", {}).get("backbone"):
        parts.append(f"teacher {backbone}")
    if trained := first.get("images", {}).get("trained_on"):
        parts.append(f"{trained} images")
    steps = sorted({result["steps"] for result in group if result.get("steps")})
    if steps:
        count = f"{steps[0]}" if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"
        parts.append(f"{count} steps of {first['batch_size']}")
    if first.get("limit"):
        parts.append(f"**trial on {first['limit']} images, not a result**")
    return ", ".join(parts)


def notes(results: Sequence[Result]) -> list[str]:
    """Say what failed, and where machines, versions or teachers differ."""
    found = [
        f"Failed: {result['method']} on {' '.join(place(result))}, seed {result['seed']}: {result['error']}"
        for result in results
        if "error" in result
    ]
    good = [result for result in results if "error" not in result]
    devices = sorted({f"{r['device']}, {r['threads']} threads" if "threads" in r else str(r["device"]) for r in good})
    found.append(
        f"Measured on: {'; '.join(devices)}." + (" Times compare on one machine only." if len(devices) > 1 else "")
    )
    packages = {(name, r.get("versions", {}).get(name)) for r in good for name in ("anomalib", "torch", "timm")}
    found.append(
        "Versions: " + ", ".join(f"{name} {number}" for name, number in sorted(p for p in packages if p[1])) + "."
    )
    sums: dict[str, set[str]] = defaultdict(set)
    for result in good:
        if "sha256" in result.get("teacher", {}):
            sums[result["teacher"]["backbone"]].add(result["teacher"]["sha256"])
    found += [f"**Different weights of {name}: {len(s)} checksums.**" for name, s in sums.items() if len(s) > 1]
    return found
