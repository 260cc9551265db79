"""What is aligning worth? A set whose parts lie still, a shifted and turned copy of it, and that copy aligned again.

    python -m dmdd.data demo --output demo_data
    python benchmarks/alignment.py demo_data/demo/plate [--shift 0.1] [--turn 10] [--work DIR] -- recipe=cpu ...

FOLDER is a category in MVTec AD's layout; what follows ``--`` are settings of ``dmdd.train``. Three models are trained
with them. Each image of the copy is moved by up to ``--shift`` of its sides and turned by up to ``--turn`` degrees,
evenly drawn; what comes into view is its mirrored border. The reference is the first training image of FOLDER, which
lies as it should.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from dmdd.data.images import read_image, read_mask, write_mask

FIGURES = ("pixel_auroc", "aupro_30", "image_auroc")


def move(source: Path, target: Path, *, shift: float, turn: float, seed: int) -> None:
    """Copy a category, each image with its mask shifted and turned by its own amount.

    Args:
        source: The category's folder.
        target: Where to; must not exist.
        shift: Largest shift, as a share of the image's sides.
        turn: Largest turn, degrees.
        seed: Of the draw.
    """
    random = np.random.default_rng(seed)
    for file in sorted([*source.glob("train/*/*"), *source.glob("test/*/*")]):
        pixels = read_image(file)
        height, width = pixels.shape[:2]
        transform = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), random.uniform(-turn, turn), 1.0)
        transform[:, 2] += random.uniform(-shift, shift, 2) * (width, height)
        moved = cv2.warpAffine(pixels, transform, (width, height), borderMode=cv2.BORDER_REFLECT_101)
        place = (target / file.relative_to(source)).with_suffix(".png")
        place.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place), moved[..., ::-1])
        mask = source / "ground_truth" / file.parent.name / f"{file.stem}_mask.png"
        if mask.is_file():
            marked = read_mask(mask, size=(height, width)).astype(np.uint8)
            own = target / mask.relative_to(source)
            own.parent.mkdir(parents=True, exist_ok=True)
            write_mask(own, cv2.warpAffine(marked, transform, (width, height), flags=cv2.INTER_NEAREST) > 0)


def main() -> None:
    """Make the copies, train one model on each and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shift", type=float, default=0.1)
    parser.add_argument("--turn", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--work", type=Path, help="folder of copies and runs, kept; a temporary one if left out")
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options, settings = parser.parse_args(sys.argv[1:end]), sys.argv[end + 1 :]
    name = options.folder.name
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or Path(temporary)).resolve()
        move(options.folder, work / "moved" / name, shift=options.shift, turn=options.turn, seed=options.seed)
        first = min((options.folder / "train" / "good").iterdir()).resolve()
        aligned = ["align", "--data-dir", work / "moved", "--category", name, "--reference", first]
        command = [sys.executable, "-m", "dmdd.data", *aligned, "--dataset", "mvtec_layout"]
        left = subprocess.run([*command, "--output", work / "aligned"], check=False, capture_output=True, text=True)
        print(left.stdout + left.stderr, flush=True)
        print("| | pixel AUROC | AUPRO | image AUROC | tested |\n|---|---|---|---|---|", flush=True)
        for title, root in (
            ("as it lies", options.folder.resolve().parent),
            ("shifted and turned", work / "moved"),
            ("aligned again", work / "aligned"),
        ):
            run = work / f"run {title}".replace(" ", "_")
            train = [sys.executable, "-m", "dmdd.train", "dataset=mvtec_layout", f"data_dir={root}", f"category={name}"]
            subprocess.run([*train, f"run_dir={run}", *settings], check=True, stdout=subprocess.DEVNULL)
            result = json.loads((run / "result.json").read_text(encoding="utf-8"))
            figures = [f"{100 * result['test']['metrics'][figure]:.2f}" for figure in FIGURES]
            print(f"| {title} | {' | '.join(figures)} | {result['images']['tested']} |", flush=True)


if __name__ == "__main__":
    main()
