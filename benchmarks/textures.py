"""Textures without end from single photographs, with defects: what screws and plates cannot say about a recipe.

    python benchmarks/textures.py --photos data/dtd/images --output textures
    python -m dmdd.train dataset=mvtec_ad category=leather data_dir=textures teacher=efficientnet_lite0 recipe=cpu

Each category comes from one photograph of the Describable Textures Dataset (Cimpoi et al., CVPR 2014) by image quilting
(Efros and Freeman, SIGGRAPH 2001): pieces of the photograph are laid side by side, each chosen at random among those
that fit their neighbours, and cut along the line of least difference. So every image is new and all are of one
material. The defects are drawn, by none of the code that makes training pairs; they are more regular than real ones,
and figures on them are worth no more than a comparison. The same seed gives the same images.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]  # (H, W, 3) BGR in [0, 255]
Mask = NDArray[np.uint8]  # (H, W), 1 where the image was changed
Generator = np.random.Generator

SIDE = 320
MARGIN = 16
TOLERANCE = 0.15  # a piece may fit this much worse than the best


class Texture(NamedTuple):
    """A photograph of 320 px, side and overlap of the pieces it is cut into, how much of its height is used."""

    photo: str
    piece: int = 90
    overlap: int = 24
    height: int = 320


TEXTURES = {
    "leather": Texture("cracked/cracked_0095.jpg"),
    "tread": Texture("bumpy/bumpy_0129.jpg", piece=110, overlap=30),
    "weave": Texture("crosshatched/crosshatched_0098.jpg", height=200),  # below lies a label
    "wood": Texture("blotchy/blotchy_0077.jpg"),
}


def least_cut(difference: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mark what lies right of the top-down path of least difference through an overlap."""
    cost = difference.copy()
    for row in range(1, len(cost)):
        above = np.pad(cost[row - 1], 1, constant_values=1e18)
        cost[row] += np.minimum(np.minimum(above[:-2], above[1:-1]), above[2:])
    right = np.zeros_like(cost)
    column = int(cost[-1].argmin())
    for row in range(len(cost) - 1, -1, -1):
        right[row, column:] = 1
        if row:
            left = max(0, column - 1)
            column = left + int(cost[row - 1, left : column + 2].argmin())
    return right


def quilt(photo: Image, side: int, *, piece: int, overlap: int, rng: Generator) -> Image:
    """Lay pieces of a photograph side by side, row by row, until they cover `side` px each way."""
    step = piece - overlap
    count = int(np.ceil((side - overlap) / step))
    cover = np.zeros((count * step + overlap, count * step + overlap, 3), np.float32)
    for row in range(count):
        for column in range(count):
            place = cover[row * step : row * step + piece, column * step : column * step + piece]
            if row == column == 0:
                top, left = (int(rng.integers(0, length - piece + 1)) for length in photo.shape[:2])
                place[:] = photo[top : top + piece, left : left + piece]
                continue
            known = np.zeros((piece, piece, 3), np.float32)
            known[: overlap if row else 0] = 1
            known[:, : overlap if column else 0] = 1
            misfit = np.maximum(cv2.matchTemplate(photo, place, cv2.TM_SQDIFF, mask=known), 0)
            fitting = np.argwhere(misfit <= misfit.min() * (1 + TOLERANCE) + 1e-3)
            top, left = fitting[rng.integers(len(fitting))]
            new = photo[top : top + piece, left : left + piece]
            difference = ((place - new) ** 2).sum(2)
            take = np.ones((piece, piece), np.float32)
            if column:
                take[:, :overlap] *= least_cut(difference[:, :overlap])
            if row:
                take[:overlap] *= least_cut(difference[:overlap].T).T
            place[:] = np.where(take[..., None] > 0, new, place)
    return cover[:side, :side]


def draw_normal(photo: Image, texture: Texture, rng: Generator) -> Image:
    """Draw a new image of a texture, a little lighter or darker than the photograph."""
    image = quilt(photo, SIDE + 2 * MARGIN, piece=texture.piece, overlap=texture.overlap, rng=rng)
    top, left = rng.integers(0, 2 * MARGIN, 2)
    image = image[top : top + SIDE, left : left + SIDE] * rng.uniform(0.93, 1.07) + rng.normal(0, 1.5, (SIDE, SIDE, 3))
    return np.clip(image, 0, 255).astype(np.float32)


def soft(mask: Mask, sigma: float) -> Image:
    return cv2.GaussianBlur(mask.astype(np.float32), (0, 0), sigma)[..., None]


def blend(image: Image, other: Image | float, weight: Image) -> Image:
    return image * (1 - weight) + other * weight


def ragged(rng: Generator, radius: tuple[float, float]) -> Mask:
    """Draw a ragged ellipse somewhere."""
    mean = rng.uniform(*radius)
    y, x = rng.uniform(50, 270, 2)
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    waves = sum(rng.normal(0, 0.18) * np.cos(k * angle + rng.uniform(0, 6.28)) for k in (1, 2, 3, 4))
    aspect = rng.uniform(0.6, 1.6)
    distance = mean * (1 + waves)
    outline = np.stack([x + distance * np.cos(angle) * aspect, y + distance * np.sin(angle) / aspect], 1)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.fillPoly(mask, [outline.round().astype(np.int32)], (1,))
    return mask


def draw_cut(image: Image, rng: Generator, _: list[Path]) -> tuple[Image, Mask]:
    """A dark line, 2 to 4 px wide, with a bright lower edge."""
    y, x = rng.uniform(50, 270, 2)
    angle, length = rng.uniform(0, 6.28), rng.uniform(30, 90)
    along = np.linspace(-0.5, 0.5, 20)
    across = 4 * np.stack([np.sin(3 * along + y), np.cos(3 * along + x)], 1)
    line = np.array([x, y]) + length * along[:, None] * [np.cos(angle), np.sin(angle)] + across
    points, width = line.round().astype(np.int32), int(rng.integers(2, 5))
    dark, bright = np.zeros((2, SIDE, SIDE), np.uint8)
    cv2.polylines(dark, [points], False, (1,), width)
    cv2.polylines(bright, [points + np.array([1, width], np.int32)], False, (1,), 1)
    return image * (1 - 0.75 * soft(dark, 0.7)) + 50 * soft(bright, 0.7) * rng.uniform(0.3, 1), dark | bright


def draw_stain(image: Image, rng: Generator, _: list[Path]) -> tuple[Image, Mask]:
    """The texture tinted, darker or lighter, with soft edges."""
    mask = ragged(rng, (12, 32))
    weight = soft(mask, rng.uniform(2, 4))
    return blend(image, image * rng.uniform(0.55, 1.0, 3) * rng.choice([0.75, 1.3]), weight), mask


def draw_hole(image: Image, rng: Generator, _: list[Path]) -> tuple[Image, Mask]:
    """Nearly black."""
    mask = ragged(rng, (6, 14))
    return blend(image, rng.uniform(5, 40), soft(mask, 1)), mask


def draw_warp(image: Image, rng: Generator, _: list[Path]) -> tuple[Image, Mask]:
    """The texture twisted or bulged."""
    y, x = rng.uniform(50, 270, 2)
    radius = rng.uniform(20, 40)
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    distance = np.hypot(rows - y, columns - x) / radius
    fade = np.clip(1 - distance, 0, 1) ** 2
    if rng.random() < 0.5:
        angle = fade * rng.uniform(1.5, 3)
        from_x = x + (columns - x) * np.cos(angle) - (rows - y) * np.sin(angle)
        from_y = y + (columns - x) * np.sin(angle) + (rows - y) * np.cos(angle)
    else:
        pull = fade * rng.uniform(0.5, 0.8)
        from_x, from_y = columns - (columns - x) * pull, rows - (rows - y) * pull
    sampled = (from_x.astype(np.float32), from_y.astype(np.float32))
    changed = cv2.remap(image, *sampled, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    return changed, (distance < 0.8).astype(np.uint8)


def draw_foreign(image: Image, rng: Generator, photos: list[Path]) -> tuple[Image, Mask]:
    """A piece of another photograph of any kind, at most half transparent."""
    mask = ragged(rng, (8, 20))
    weight = soft(mask, 1.2)
    other = cv2.resize(read_photo(photos[int(rng.integers(0, len(photos)))]), (SIDE, SIDE))
    return blend(image, other, weight * rng.uniform(0.5, 1)), mask


def draw_worn(image: Image, rng: Generator, _: list[Path]) -> tuple[Image, Mask]:
    """The texture blurred."""
    mask = ragged(rng, (14, 30))
    return blend(image, cv2.GaussianBlur(image, (0, 0), rng.uniform(3, 6)), soft(mask, 3)), mask


DEFECTS: dict[str, Callable[[Image, Generator, list[Path]], tuple[Image, Mask]]] = {
    "cut": draw_cut,
    "stain": draw_stain,
    "hole": draw_hole,
    "warp": draw_warp,
    "foreign": draw_foreign,
    "worn": draw_worn,
}


def read_photo(path: Path) -> Image:
    image = cv2.imread(str(path))
    if image is None:
        raise SystemExit(f"{path} cannot be read: give --photos the images of the Describable Textures Dataset")
    return image.astype(np.float32)


def write(path: Path, image: NDArray[np.generic]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.clip(image, 0, 255).round().astype(np.uint8))


def make_category(root: Path, name: str, photos: Path, *, seed: int, train: int, good: int, per_defect: int) -> None:
    """Write a category in the layout of MVTec AD."""
    texture, others = TEXTURES[name], sorted(photos.glob("*/*.jpg"))
    photo = read_photo(photos / texture.photo)[: texture.height]
    rng = np.random.default_rng(sum(map(ord, name)) + seed)
    for split, count in (("train", train), ("test", good)):
        for number in range(count):
            write(root / name / split / "good" / f"{number:03}.png", draw_normal(photo, texture, rng))
    for defect, draw in DEFECTS.items():
        for number in range(per_defect):
            image, mask = draw(draw_normal(photo, texture, rng), rng, others)
            write(root / name / "test" / defect / f"{number:03}.png", image)
            write(root / name / "ground_truth" / defect / f"{number:03}_mask.png", mask * 255)


def main() -> None:
    """Read the command line and write the textures asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder images/ of the Describable Textures Dataset")
    parser.add_argument("--output", type=Path, required=True, help="a data folder; the images go below mvtec_ad/")
    parser.add_argument("--categories", nargs="+", choices=TEXTURES, default=list(TEXTURES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=120, help="normal images to train on")
    parser.add_argument("--good", type=int, default=30, help="normal images to test")
    parser.add_argument("--per-defect", type=int, default=10, help="images of each of six defects")
    args = parser.parse_args()
    for name in args.categories:
        counts = {"train": args.train, "good": args.good, "per_defect": args.per_defect}
        make_category(args.output / "mvtec_ad", name, args.photos, seed=args.seed, **counts)
        print(f"{name}: {args.output / 'mvtec_ad' / name}")


if __name__ == "__main__":
    main()
