"""Run folders made by hand: what dmdd.train and dmdd.evaluate leave, with figures of our choice."""

import copy
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PROTOCOL = {"selection": "none on test data", "masks_and_maps": "compared at the input size"}
CONFIG: dict[str, Any] = {
    "dataset": {"name": "demo", "layout": {"_target_": "read", "root": "data/demo", "category": "plate"}},
    "teacher": {"backbone": "resnet18", "weights": None, "random_weights": False},
    "logger": {"csv": {"save_dir": "/somewhere/run"}},
    "trainer": {"devices": 1, "precision": "auto"},
    "image_size": [128, 128],
    "distillation": {"steps": 6},
    "category": "plate",
    "data_dir": "data",
    "name": "now",
    "run_dir": "/somewhere/run",
    "seed": 0,
}
# Two normal and three anomalous images: threshold 0.5 passes the first, alarms at the second, misses the fourth.
SCORES = [
    ("test/good/000.png", "good", 0, 0.1),
    ("test/good/001.png", "good", 0, 0.7),
    ("test/dent/000.png", "dent", 1, 0.9),
    ("test/dent/001.png", "dent", 1, 0.3),
    ("test/scratch/000.png", "scratch", 1, 0.8),
]


def result(
    *,
    dataset: str = "demo",
    category: str = "plate",
    seed: int = 0,
    metrics: dict[str, float] | None = None,
    overrides: tuple[str, ...] = (),
    **entries: Any,
) -> dict[str, Any]:
    """A result.json; `entries` replace or add."""
    figures = {"pixel_auroc": 0.9, "aupro_30": 0.8, "image_auroc": 0.7} if metrics is None else metrics
    made = {
        "dataset": dataset,
        "category": category,
        "seed": seed,
        "test": {
            "metrics": figures,
            "types": {"dent": {"images": 2, "images_found": 0.5}, "good": {"images": 2, "images_found": 0.5}},
            "type_intervals_95": {"dent": {"images_found": [0.125, 0.875]}},
        },
        "calibration": {"image_threshold": 0.5, "pixel_threshold": 0.4},
        "teacher": {"backbone": "resnet18", "weights": "resnet18.bin", "sha256": "ab" * 32},
        "protocol": PROTOCOL,
        "wall_time_s": {"total": 60.0},
        "device": "a processor",
        "precision": {"training": "32-true", "evaluation": "32-true"},
        "commit": "c" * 40,
        "versions": {"dmdd": "0.1.0"},
        "command": ["python", "-m", "dmdd.train", f"dataset={dataset}", f"category={category}", *overrides],
    }
    return made | entries


def config(**changes: Any) -> dict[str, Any]:
    """A config.yaml; dotted names with `__` for the dot replace values."""
    made = copy.deepcopy(CONFIG)
    for name, value in changes.items():
        *parents, last = name.split("__")
        node = made
        for parent in parents:
            node = node[parent]
        node[last] = value
    return made


def write_run(folder: Path, made: dict[str, Any] | None = None, settings: dict[str, Any] | None = None) -> Path:
    """Write result.json and config.yaml (JSON is YAML)."""
    folder.mkdir(parents=True, exist_ok=True)
    made = result() if made is None else made
    (folder / "result.json").write_text(json.dumps(made))
    if "model" not in made:
        settings = config(seed=made["seed"], category=made["category"]) if settings is None else settings
        (folder / "config.yaml").write_text(json.dumps(settings))
    return folder


def write_details(folder: Path) -> Path:
    """Write scores.csv, curves.json, metrics.csv and images/ beside a result."""
    with (folder / "scores.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "defect", "label", "score"), *SCORES])
    points = np.linspace(0, 1, 200)
    curves = {
        name: {"x": points.tolist(), "y": (points**0.2).tolist()} for name in ("image_roc", "pixel_roc", "pro")
    } | {"pixel_pr": {"x": points.tolist(), "y": (1 - points / 2).tolist()}}
    (folder / "curves.json").write_text(json.dumps(curves))
    lines = ["distillation/aim,distillation/loss,distillation/ngm,segmentation/loss,step"]
    lines += [f"{2 / (s + 1)},{3 / (s + 1)},{1 / (s + 1)},,{s}" for s in range(10)]
    lines += [f",,,{0.1 / (s + 1)},{s}" for s in range(5)]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    (folder / "images").mkdir(exist_ok=True)
    for place, (file, defect, _, score) in enumerate(sorted(SCORES, key=lambda s: -s[3])):
        pixels = np.full((32 + 22, 4 * 32, 3), round(255 * score), np.uint8)
        Image.fromarray(pixels).save(folder / f"images/{place:02d}_{defect}_{Path(file).stem}.png")
    return folder
