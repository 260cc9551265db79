"""Are two looks better than one? A model of tiles and one of whole images, and their maps and scores joined.

    python benchmarks/joined.py FOLDER --tiles runs/tiles/model --whole runs/whole/model [--every N]

FOLDER is a category in MVTec AD's layout whose images have one size. Maps and masks are compared at that size. Each
model's maps are divided by the 0.999 quantile of normal images' maps, its scores by the median of their scores; for
these ``train/good`` images are taken that the model was not trained on. ``--every 10`` looks at every tenth image: a
trial.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from dmdd.data.images import read_image, read_mask
from dmdd.metrics import AUPRO, PixelAUROC, image_metrics
from dmdd.models.blocks import upsample
from dmdd.models.detector import Detector
from dmdd.models.tiling import look

JOINS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "geometric mean": lambda first, second: np.sqrt(first * second),
    "mean": lambda first, second: (first + second) / 2,
    "larger": np.maximum,
}


class Look(NamedTuple):
    """What a model says: maps ``(N, H, W)``, and scores ``(N,)`` by how those of tiles are reduced."""

    maps: np.ndarray
    scores: dict[str, np.ndarray]


def see(detector: Detector, files: Sequence[Path]) -> Look:
    """Look at images as the model was trained to."""
    maps, largest, means = [], [], []
    for file in files:
        pixels = torch.from_numpy(read_image(file).copy()).permute(2, 0, 1)[None]
        with torch.inference_mode():
            seen = look(detector, pixels, only=(detector.anomaly_map, detector.score_map), tiling=detector.tiling)
            whole = upsample(seen.maps[detector.anomaly_map], (pixels.shape[2], pixels.shape[3]))
        maps.append(whole[0, 0].half().numpy())
        largest.append(float(seen.tile_scores.max()))
        means.append(float(seen.tile_scores.mean()))
    return Look(np.stack(maps), {"largest": np.array(largest), "mean": np.array(means)})


def against_normal(found: Look, normal: Look) -> Look:
    """Divide maps and scores by what normal images have."""
    scores = {name: values / np.median(normal.scores[name]) for name, values in found.scores.items()}
    return Look(found.maps / np.quantile(normal.maps.astype(np.float32), 0.999), scores)


def show(title: str, maps: np.ndarray, masks: np.ndarray, scores: np.ndarray) -> None:
    """Print a row of figures in percent."""
    pixels, whole = (PixelAUROC(), AUPRO(0.3), AUPRO(0.05)), image_metrics()
    top = float(maps.max())
    for values, mask in zip(maps, masks, strict=True):
        # The root spreads small values over more of a histogram's cells; the order is the same.
        value = torch.from_numpy(np.sqrt(values.astype(np.float32) / top))[None, None]
        for metric in pixels:
            metric.update(value, torch.from_numpy(mask)[None, None])
    whole.update(torch.from_numpy(scores / scores.max()), torch.from_numpy(masks.any((1, 2))).long())
    figures = [float(metric.compute()) for metric in pixels] + [float(whole.compute()["image_auroc"])]
    print(f"| {title} | " + " | ".join(f"{100 * figure:.2f}" for figure in figures) + " |", flush=True)


def main() -> None:
    """Look with both models and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiles", type=Path, required=True, help="model folder of a run with data.tile_px=")
    parser.add_argument("--whole", type=Path, required=True, help="model folder of a run on whole images")
    parser.add_argument("--every", type=int, default=1, help="look at every so many images only")
    options = parser.parse_args()
    test = sorted(options.folder.glob("test/*/*"))[:: options.every]
    size = read_image(test[0]).shape[:2]
    places = [options.folder / "ground_truth" / file.parent.name / f"{file.stem}_mask.png" for file in test]
    masks = np.stack([read_mask(p, size=size) if p.is_file() else np.zeros(size, bool) for p in places])
    found = {}
    print("| | pixel AUROC | AUPRO@0.3 | AUPRO@0.05 | image AUROC |\n|---|---|---|---|---|")
    for name in ("whole", "tiles"):
        folder: Path = getattr(options, name)
        detector = Detector.load(folder)
        known = {Path(line).name for line in (folder.parent / "trained_on.txt").read_text().splitlines()}
        normal = [file for file in sorted(options.folder.glob("train/good/*")) if file.name not in known]
        found[name] = against_normal(see(detector, test), see(detector, normal))
        show(name, found[name].maps, masks, found[name].scores["largest"])
    tiles, whole = found["tiles"], found["whole"]
    show("tiles, mean of their scores", tiles.maps, masks, tiles.scores["mean"])
    for name, join in JOINS.items():
        scores = join(tiles.scores["largest"], whole.scores["largest"])
        show(f"joined, {name}", join(tiles.maps, whole.maps), masks, scores)


if __name__ == "__main__":
    main()
