"""Train one configuration on a list of categories and seeds, and set it against the best peer of each.

    python benchmarks/suite.py --data-dir data --sets mvtec_ad/screw mpdd/metal_plate --seeds 0,1,2 \\
        recipe=cpu teacher=efficientnet_lite0
    python benchmarks/suite.py --sets more/printed_paper@128 more/ball_screw --root more=data/more --name short \\
        recipe=cpu teacher=efficientnet_lite0 distillation.steps=500 segmentation_training.steps=170

What follows the options are settings of ``python -m dmdd.train``, the same for every member. A set is
DATASET/CATEGORY; ``--root NAME=FOLDER`` says where a data set lies that has no file in ``conf/dataset`` but MVTec AD's
layout, ``@SIDE`` that its images go in with another side than the recipe's. Runs lie in
RUNS/NAME/DATASET/CATEGORY/seedN; the same command again goes on where it was stopped and skips what is finished.
``--table`` trains nothing and prints what there is.

The peers' figures are read from experiments/peers/*.json (benchmarks/peers/run.py writes such files). A gap is ours
less the best of all peers of that set, metric by metric, so the best in hindsight.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
METRICS = ("pixel_auroc", "aupro_30", "image_auroc")
TITLES = ("set", "seeds", "pixel AUROC", "AUPRO@0.3", "image AUROC", "gap to best peer", "found / false alarms")


@dataclass(frozen=True)
class Member:
    """One category to train on.

    Args:
        dataset: Name of the data set.
        category: Name of the category.
        side_px: Height and width of the input; None for the recipe's.
        root: Folder of the data set's categories; None where ``conf/dataset`` knows it.
    """

    dataset: str
    category: str
    side_px: int | None = None
    root: Path | None = None

    def command(self, run_dir: Path, *, seed: int, data_dir: Path, settings: Sequence[str]) -> list[str]:
        """Give the command that trains it or goes on with it."""
        known = [f"dataset={self.dataset}"]
        if self.root is not None:
            known = ["dataset=mvtec_ad", f"dataset.name={self.dataset}", f"dataset.layout.root='{self.root}'"]
        if self.side_px is not None:
            known.append(f"image_size=[{self.side_px},{self.side_px}]")
        own = [f"category={self.category}", f"seed={seed}", f"data_dir='{data_dir}'", f"hydra.run.dir='{run_dir}'"]
        return [sys.executable, "-m", "dmdd.train", *known, *settings, *own, "resume=true"]


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    failed = 0
    for member in options.members:
        for seed in options.seeds:
            folder = run_folder(options.runs / options.name, member, seed)
            if options.table or (folder / "result.json").is_file():
                continue
            command = member.command(folder, seed=seed, data_dir=options.data_dir, settings=options.settings)
            failed += subprocess.run(command, check=False).returncode != 0
    print(table(options.runs / options.name, options.members, options.seeds, read_peers(options.peers)))
    return int(failed > 0)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", required=True, metavar="DATASET/CATEGORY[@SIDE]")
    parser.add_argument("--root", action="append", default=[], metavar="DATASET=FOLDER")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0])
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--runs", type=Path, default=Path("runs/suite"))
    parser.add_argument("--name", default="default", help="of the configuration; a folder in --runs")
    parser.add_argument("--peers", type=Path, default=REPOSITORY / "experiments" / "peers")
    parser.add_argument("--table", action="store_true", help="print the table of what there is, train nothing")
    options, settings = parser.parse_known_args(arguments)
    # `--sets a/b recipe=cpu`: argparse takes settings for sets, from which their = tells them apart.
    options.settings = [entry for entry in options.sets if "=" in entry] + settings
    for setting in options.settings:
        if setting.startswith("--") or "=" not in setting:
            parser.error(f"{setting} is neither an option nor a setting NAME=VALUE")
    roots = dict(entry.split("=", 1) for entry in options.root if "=" in entry)
    try:
        options.members = [member(entry, roots) for entry in options.sets if "=" not in entry]
    except ValueError as error:
        parser.error(str(error))
    options.runs, options.data_dir = options.runs.resolve(), options.data_dir.resolve()
    return options


def member(text: str, roots: dict[str, str]) -> Member:
    """Read DATASET/CATEGORY[@SIDE].

    Raises:
        ValueError: It is none.
    """
    name, _, side = text.partition("@")
    dataset, _, category = name.partition("/")
    if not dataset or not category or (side and not side.isdigit()):
        raise ValueError(f"--sets {text}: give DATASET/CATEGORY or DATASET/CATEGORY@SIDE")
    root = Path(roots[dataset]).resolve() if dataset in roots else None
    return Member(dataset, category, int(side) if side else None, root)


def run_folder(top: Path, member: Member, seed: int) -> Path:
    return top / member.dataset / member.category / f"seed{seed}"


def read_peers(folder: Path) -> dict[tuple[str, str], dict[str, tuple[float, str]]]:
    """Find the best peer of each set and metric.

    Args:
        folder: Of JSON files, each a list of results.

    Returns:
        By data set and category, by metric: the figure in [0, 1], averaged over the method's seeds, and the method.
    """
    found: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    for file in sorted(folder.glob("*.json")):
        for result in json.loads(file.read_text(encoding="utf-8")):
            if "metrics" in result and result["method"] != "dmdd":
                key = (result["dataset"], result["category"], result["method"])
                found.setdefault(key, []).append(result["metrics"])
    best: dict[tuple[str, str], dict[str, tuple[float, str]]] = {}
    for (dataset, category, method), metrics in found.items():
        for metric in METRICS:
            values = [figures[metric] for figures in metrics if metric in figures]
            if values:
                entries = best.setdefault((dataset, category), {})
                entries[metric] = max(entries.get(metric, (0.0, "")), (statistics.fmean(values), method))
    return best


def read_runs(top: Path, member: Member, seeds: Sequence[int]) -> list[dict[str, Any]]:
    files = [run_folder(top, member, seed) / "result.json" for seed in seeds]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]


def table(
    top: Path,
    members: Sequence[Member],
    seeds: Sequence[int],
    peers: dict[tuple[str, str], dict[str, tuple[float, str]]],
) -> str:
    """Lay out one Markdown line for each set, their means, and the worst gap to a peer.

    Args:
        top: Folder of the configuration's runs.
        members: The sets.
        seeds: The seeds.
        peers: As :func:`read_peers` gives them.

    Returns:
        The table, percent.
    """
    lines = ["| " + " | ".join(TITLES) + " |", "|" + "---|" * len(TITLES)]
    means: list[list[float]] = []
    gaps: list[tuple[float, str]] = []
    best: list[list[float]] = []
    for one in members:
        name, runs = f"{one.dataset}/{one.category}", read_runs(top, one, seeds)
        if not runs:
            lines.append(f"| {name} | 0 | - | - | - | - | - |")
            continue
        values = [[100 * run["test"]["metrics"][metric] for run in runs] for metric in METRICS]
        known = peers.get((one.dataset, one.category), {})
        own_gaps = []
        for metric, figures in zip(METRICS, values, strict=True):
            if metric in known:
                gap = statistics.fmean(figures) - 100 * known[metric][0]
                own_gaps.append(f"{gap:+.2f}")
                gaps.append((gap, f"{name}, {metric}, {known[metric][1]}"))
        means.append([statistics.fmean(figures) for figures in values])
        if len(own_gaps) == len(METRICS):
            best.append([mean - 100 * known[metric][0] for mean, metric in zip(means[-1], METRICS, strict=True)])
        cells = [name, str(len(runs)), *map(spread, values), " / ".join(own_gaps) or "-", threshold_quality(runs)]
        lines.append("| " + " | ".join(cells) + " |")
    if means:
        lines.append(
            "| mean | | " + " | ".join(f"{statistics.fmean(c):.2f}" for c in zip(*means, strict=True)) + " | | |"
        )
    if best:
        columns = (f"{statistics.fmean(column):+.2f}" for column in zip(*best, strict=True))
        lines.append(f"\nMean gap to the best peer in hindsight, {len(best)} sets: {' / '.join(columns)}.")
    if gaps:
        lines.append(f"Worst gap: {min(gaps)[0]:+.2f} ({min(gaps)[1]}).")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """Give the mean, and the sample standard deviation where there are several."""
    return f"{statistics.fmean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def threshold_quality(runs: Sequence[dict[str, Any]]) -> str:
    """Give the shares of anomalous and of normal images at or above the calibrated threshold."""
    found = {True: [0.0, 0.0], False: [0.0, 0.0]}
    for run in runs:
        for defect, row in run["test"].get("types", {}).items():
            if "images_found" in row:
                found[defect == "good"][0] += row["images"] * row["images_found"]
                found[defect == "good"][1] += row["images"]
    return " / ".join(f"{100 * count / total:.1f}" if total else "-" for count, total in (found[False], found[True]))


if __name__ == "__main__":
    sys.exit(main())
