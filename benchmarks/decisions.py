"""What do trained models decide? Found anomalies and rejected good images at the calibrated threshold, run by run.

    python benchmarks/decisions.py RUN [RUN ...] [--again] [--output decisions.json]

RUN is a run folder, or a folder that holds some. Without ``--again`` the thresholds are the runs' own. With it every
model is calibrated again on its held-out images, by the rule of version 0.1 (the k-th largest of few scores) and by
today's, so that runs of both versions can be compared; that needs the training images. ``best`` is what the best
threshold finds that rejects no more good images.
"""

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def read_raw(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the raw scores of a run's test set.

    Args:
        folder: The run's.

    Returns:
        Labels and raw scores, ``(N,)`` each.
    """
    with (folder / "scores.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    raw = [float(row.get("raw_score") or row["score"]) for row in rows]
    return np.array([int(row["label"]) for row in rows]), np.array(raw)


def decide(labels: np.ndarray, scores: np.ndarray, calibration: dict[str, Any]) -> dict[str, Any]:
    """Count what a threshold decides.

    Args:
        labels: 0 normal, 1 anomalous.
        scores: Raw scores.
        calibration: Of the run.

    Returns:
        Shares: ``found`` of anomalous images, ``rejected`` of normal ones, ``best`` found by the best threshold that
        rejects no more, ``promised`` with ``low`` and ``high``, and whether ``rejected`` is compatible with that.
    """
    threshold = calibration["image_threshold"]
    normal, anomalous = np.sort(scores[labels == 0])[::-1], scores[labels == 1]
    rejected = int((normal >= threshold).sum())
    # Just above the first normal image that is not rejected.
    best = normal[rejected] if rejected < len(normal) else -np.inf
    low, high = calibration.get("image_false_alarm_interval", [0.0, 1.0])
    return {
        "held_out": calibration["normal_images"],
        "found": float((anomalous >= threshold).mean()),
        "rejected": rejected / len(normal),
        "normal": len(normal),
        "best": float((anomalous > best).mean()),
        "promised": calibration["image_false_alarm_rate"],
        "low": low,
        "high": high,
        # Of so few test images no share lies between 0 and 1 / N: one image more or less is no disagreement.
        "kept": bool(low <= (rejected + 1) / len(normal) and (rejected - 1) / len(normal) <= high),
    }


def calibrate_again(folder: Path) -> dict[str, dict[str, Any]]:
    """Set the image threshold of a run's model anew, by the former rule and by today's.

    Args:
        folder: The run's.

    Returns:
        Calibrations by rule.
    """
    from omegaconf import OmegaConf

    from dmdd.config.targets import build
    from dmdd.data.sampling import held_out
    from dmdd.metrics.calibration import calibrate_scores
    from dmdd.models.detector import Detector
    from dmdd.training.evaluation import by_baselines_of_others

    config: Any = OmegaConf.load(folder / "config.yaml")
    category = build(OmegaConf.to_container(config.dataset.layout), category=config.category)  # type: ignore[arg-type]
    detector = Detector.load(folder / "model")
    split = held_out(len(category.train), fraction=config.data.held_out_fraction, seed=config.seed)
    (training, _), (scores, levels) = (score(detector, [category.train[row].path for row in rows]) for rows in split)
    if detector.baseline_power and detector.score_map in detector.normal_baselines:
        scores = by_baselines_of_others(scores, levels.clamp(min=1e-6), detector.baseline_power)
    rate, descending = config.evaluation.false_alarm_rate, sorted(scores.tolist(), reverse=True)
    k = max(1, int(rate * (len(descending) + 1)))
    before = {
        "image_threshold": float(np.nextafter(np.float32(descending[k - 1]), np.float32(np.inf))),
        "image_false_alarm_rate": k / (len(descending) + 1),
        "normal_images": len(descending),
    }
    return {"before": before, "now": calibrate_scores(descending, rate=rate, training=training.tolist())}


def score(detector: Any, files: Sequence[Path]) -> Any:
    """Score images; returns raw scores and levels, ``(N,)`` float64 each."""
    import torch

    from dmdd.data.store import open_images

    name, scores, levels = detector.score_map, [], []
    with torch.no_grad():
        for batch in open_images(list(files), detector.input_size, find_parts=False)[:].split(16):
            raw = detector.raw_maps(batch, only=(name,))[name]
            scores.append(detector.image_score(name, raw))
            levels.append((detector.smooth(raw) if detector.score_smoothed else raw).mean((1, 2, 3)))
    return torch.cat(scores).double(), torch.cat(levels).double()


def find_runs(places: Sequence[Path]) -> list[Path]:
    """List the finished runs in folders."""
    return sorted(
        {file.parent for place in places for file in place.rglob("result.json") if "test" in file.read_text()}
    )


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--again", action="store_true", help="calibrate anew, by the former rule and by today's")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    rows = []
    heads = ("run", "rule", "held out", "found", "best", "good rejected", "promised", "90 % interval", "kept")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for folder in find_runs(options.runs):
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        labels, scores = read_raw(folder)
        rules = calibrate_again(folder) if options.again else {"the run's": result["calibration"]}
        for rule, calibration in rules.items():
            name = f"{result['category']} seed {result['seed']}"
            row = {"run": name, "rule": rule} | decide(labels, scores, calibration)
            rows.append(row)
            shares = [f"{100 * row[name]:.1f} %" for name in ("found", "best", "rejected", "promised")]
            interval = f"{100 * row['low']:.1f} to {100 * row['high']:.1f} %"
            cells = [row["run"], rule, str(row["held_out"]), *shares, interval, "yes" if row["kept"] else "no"]
            print("|", " | ".join(cells), "|", flush=True)
    if options.output:
        options.output.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
