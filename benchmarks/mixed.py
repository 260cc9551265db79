"""What do bad images among the good ones do? Test anomalies are mixed into training and taken out of the test.

    python benchmarks/mixed.py FOLDER [--shares 0 0.02 0.05 0.1 0.2] [--work DIR] [--output FILE] -- recipe=cpu ...

FOLDER is a category in MVTec AD's layout; what follows ``--`` are settings of ``dmdd.train``. For every share one model
is trained on a copy of the folder. The intruders of a smaller share are among those of a larger one, and all of them
are missing from every test, so that the figures of all rows are of the same images. ``named`` is the share of the
intruders among as many images as there are, the strangest named first.
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

MARK = "mixed_in_"
FIGURES = ("image_auroc", "aupro_30", "pixel_auroc")


def choose_intruders(anomalous: Sequence[Path], good: int, share: float, *, seed: int) -> list[Path]:
    """Draw the images that are mixed in.

    Args:
        anomalous: Test images to draw from.
        good: Number of good training images.
        share: Of the training folder that intruders are to be, in [0, 1).
        seed: Of the draw; a smaller share draws the first of a larger one's.

    Returns:
        The images, rounded up.

    Raises:
        ValueError: There are too few.
    """
    count = math.ceil(share * good / (1 - share))
    if count >= len(anomalous):
        raise ValueError(
            f"a share of {share:g} takes {count} of {len(anomalous)} anomalous images; none is left to test"
        )
    return [anomalous[place] for place in np.random.default_rng(seed).permutation(len(anomalous))[:count]]


def mix(source: Path, target: Path, *, intruders: Sequence[Path], missing: Sequence[Path]) -> None:
    """Copy a category with intruders among its training images.

    Args:
        source: The category's folder.
        target: Where to; must not exist.
        intruders: Test images that are copied to ``train/good``.
        missing: Test images that are left out of the test, with their masks.
    """
    gone = {file.relative_to(source / "test").with_suffix("").as_posix() for file in missing}

    def leave(folder: str, names: list[str]) -> list[str]:
        place = Path(folder).relative_to(source).parts
        if len(place) != 2 or place[0] not in ("test", "ground_truth"):
            return []
        return [name for name in names if f"{place[1]}/{Path(name).stem.removesuffix('_mask')}" in gone]

    shutil.copytree(source, target, ignore=leave)
    for file in intruders:
        shutil.copy(file, target / "train" / "good" / f"{MARK}{file.parent.name}_{file.name}")


def read_row(result: dict[str, Any], *, share: float, count: int) -> dict[str, Any]:
    """Read what a run says.

    Args:
        result: Its ``result.json``.
        share: Mixed in.
        count: Intruders.

    Returns:
        Figures, decisions, and the share of intruders that are named among the first ``count``.
    """
    types = result["test"]["types"]
    bad = [row for name, row in types.items() if name != "good"]
    first = [entry["file"] for entry in result["suspicious"][:count]]
    named = sum(MARK in name for name in first)
    return {
        "share": share,
        "intruders": count,
        **{name: result["test"]["metrics"].get(name, math.nan) for name in FIGURES},
        "found": sum(r["images"] * r["images_found"] for r in bad) / sum(r["images"] for r in bad),
        "rejected": types["good"]["images_found"],
        "named": named / count if count else math.nan,
        "named_in_all": len(result["suspicious"]),
        "held_out_intruders": sum(MARK in e["file"] for e in result["suspicious"] if e["held_out"]),
    }


def main() -> None:
    """Train one model a share, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shares", type=float, nargs="+", default=(0, 0.02, 0.05, 0.1, 0.2))
    parser.add_argument("--seed", type=int, default=0, help="of the draw of intruders")
    parser.add_argument(
        "--work", type=Path, help="folder of the runs and their images, kept; a temporary one if left out"
    )
    parser.add_argument("--output", type=Path, help="JSON file")
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options, settings = parser.parse_args(sys.argv[1:end]), sys.argv[end + 1 :]
    good = len(list((options.folder / "train" / "good").iterdir()))
    anomalous = sorted(f for f in (options.folder / "test").glob("*/*") if f.parent.name != "good")
    drawn = {share: choose_intruders(anomalous, good, share, seed=options.seed) for share in options.shares}
    missing, rows = drawn[max(options.shares)], []
    heads = ("mixed in", "image AUROC", "AUPRO", "pixel AUROC", "found", "good rejected", "intruders named first")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        for share, intruders in drawn.items():
            root = work / f"mixed_{share:g}"
            mix(options.folder, root / options.folder.name, intruders=intruders, missing=missing)
            run = work / f"run_{share:g}"
            command = [sys.executable, "-m", "dmdd.train", "dataset=mvtec_ad", "dataset.name=mixed"]
            command += [f"dataset.layout.root={root}", f"category={options.folder.name}", f"run_dir={run.resolve()}"]
            subprocess.run([*command, *settings], check=True, stdout=subprocess.DEVNULL)
            row = read_row(json.loads((run / "result.json").read_text()), share=share, count=len(intruders))
            rows.append(row)
            shown = [f"{100 * row[name]:.1f}" for name in (*FIGURES, "found", "rejected")]
            named = f"{100 * row['named']:.0f} %" if intruders else ""
            print(f"| {100 * share:g} % ({len(intruders)}) | {' | '.join(shown)} | {named} |", flush=True)
    if options.output:
        options.output.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
