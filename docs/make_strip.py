"""Draw the strip at the top of the README: input, ground truth, map and overlay of demo plates.

make demo
python docs/make_strip.py demo/run/model demo/data/demo/plate docs/images/strip.jpg
"""

import sys
from pathlib import Path

import cv2
import numpy as np

import dmdd
from dmdd.core.drawing import blend, colour_map, draw_contours
from dmdd.data.images import read_image, read_mask

TYPES = ("scratch", "dent", "stain", "missing_piece")
SIDE_PX, GAP_PX = 150, 6


def row(predictor: dmdd.Predictor, category: Path, defect: str) -> np.ndarray:
    """Draw the first test image of a defect type, four panels beside each other."""
    image = sorted((category / "test" / defect).glob("*.png"))[0]
    rgb = read_image(image)
    mask = read_mask(category / "ground_truth" / defect / f"{image.stem}_mask.png")
    prediction = predictor(image)
    colours = colour_map(prediction.map, middle=predictor.pixel_threshold or 0.5)
    overlay = blend(rgb, colours)
    draw_contours(overlay, prediction.mask, (255, 255, 255))
    draw_contours(overlay, mask, (0, 255, 0))
    panels = [rgb, np.repeat(mask[..., None] * np.uint8(255), 3, axis=2), colours, overlay]
    shown = [cv2.resize(panel, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA) for panel in panels]
    gap = np.full((SIDE_PX, GAP_PX, 3), 255, np.uint8)
    return np.concatenate([part for panel in shown for part in (panel, gap)][:-1], axis=1)


def main(model: str, category: str, output: str) -> None:
    """Draw two types in a line, two lines."""
    predictor = dmdd.load(model)
    rows = [row(predictor, Path(category), defect) for defect in TYPES]
    between = np.full((SIDE_PX, 4 * GAP_PX, 3), 255, np.uint8)
    lines = [np.concatenate([rows[place], between, rows[place + 1]], axis=1) for place in (0, 2)]
    gap = np.full((GAP_PX, lines[0].shape[1], 3), 255, np.uint8)
    picture = np.concatenate([lines[0], gap, lines[1]])
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    Path(output).write_bytes(cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes())


if __name__ == "__main__":
    main(*sys.argv[1:])
