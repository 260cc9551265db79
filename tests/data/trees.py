"""Seeded generators of small trees in the published layouts, images of a few pixels."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 24


def write_image(path: Path, *, seed: int = 0, size: tuple[int, int] = (SIDE, SIDE)) -> Path:
    """Write a noise image; `size` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, size=(size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_mask(path: Path, *, box: tuple[int, int, int, int] = (4, 6, 10, 12), value: int = 255) -> Path:
    """Write a mask whose box (top, left, bottom, right) has the value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((SIDE, SIDE), dtype=np.uint8)
    top, left, bottom, right = box
    pixels[top:bottom, left:right] = value
    Image.fromarray(pixels).save(path)
    return path


def mvtec_category(root: Path, name: str = "screw", *, seed: int = 0) -> Path:
    """3 train, 2 test good, 2 scratch, 1 dent, with masks; `dent` masks lack the suffix; litter beside them."""
    folder = root / name
    for number in range(3):
        write_image(folder / "train" / "good" / f"{number:03d}.png", seed=seed + number)
    for number in range(2):
        write_image(folder / "test" / "good" / f"{number:03d}.png", seed=seed + 10 + number)
        write_image(folder / "test" / "scratch" / f"{number:03d}.png", seed=seed + 20 + number)
        write_mask(folder / "ground_truth" / "scratch" / f"{number:03d}_mask.png")
    write_image(folder / "test" / "dent" / "tiefe Delle ü.jpg", seed=seed + 30)
    write_mask(folder / "ground_truth" / "dent" / "tiefe Delle ü.png")
    for litter in ("license.txt", "train/good/Thumbs.db", "train/good/.DS_Store", "test/scratch/._000.png"):
        (folder / litter).write_bytes(b"litter")
    return folder


def btad_category(root: Path, name: str = "01") -> Path:
    """2 train, 1 ok, 2 ko as BMP; one mask BMP, one PNG, both under the image's own name."""
    folder = root / name
    write_image(folder / "train" / "ok" / "0000.bmp", seed=1)
    write_image(folder / "train" / "ok" / "0001.bmp", seed=2)
    write_image(folder / "test" / "ok" / "0000.bmp", seed=3)
    write_image(folder / "test" / "ko" / "0000.bmp", seed=4)
    write_image(folder / "test" / "ko" / "0001.bmp", seed=5)
    write_mask(folder / "ground_truth" / "ko" / "0000.bmp")
    write_mask(folder / "ground_truth" / "ko" / "0001.png")
    return folder


def loco_category(root: Path, name: str = "pushpins") -> Path:
    """1 train, 1 validation, 1 test good, 2 logical (one with two masks), 1 structural."""
    folder = root / name
    write_image(folder / "train" / "good" / "000.png", seed=1)
    write_image(folder / "validation" / "good" / "000.png", seed=2)
    write_image(folder / "test" / "good" / "000.png", seed=3)
    for kind, number in (("logical_anomalies", 0), ("logical_anomalies", 1), ("structural_anomalies", 0)):
        write_image(folder / "test" / kind / f"{number:03d}.png", seed=4 + number)
        write_mask(folder / "ground_truth" / kind / f"{number:03d}" / "000.png", box=(0, 0, 4, 4))
    write_mask(folder / "ground_truth" / "logical_anomalies" / "000" / "001.png", box=(10, 10, 12, 20))
    return folder


def visa_root(root: Path) -> Path:
    """Category candle: 2 train, 1 test normal, 2 anomalies; category pcb1: the same. Returns the split table."""
    rows = [["object", "split", "label", "image", "mask"]]
    for name in ("candle", "pcb1"):
        for number, split in enumerate(("train", "train", "test")):
            image = f"{name}/Data/Images/Normal/{number:04d}.JPG"
            write_image(root / image, seed=number)
            rows.append([name, split, "normal", image, ""])
        for number in range(2):
            image, mask = f"{name}/Data/Images/Anomaly/{number:03d}.JPG", f"{name}/Data/Masks/Anomaly/{number:03d}.png"
            write_image(root / image, seed=10 + number)
            write_mask(root / mask, value=1 + number)
            rows.append([name, "test", "anomaly", image, mask])
    return write_table(root / "split_csv" / "1cls.csv", rows)


def write_table(path: Path, rows: list[list[str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def folder_category(root: Path, name: str = "bracket", *, masks: bool = True) -> Path:
    """10 good in nested folders, 1 bad directly, 2 bad below a type, masks at the same places."""
    folder = root / name
    for number in range(10):
        write_image(folder / "good" / f"shift {number % 2}" / f"teil {number}.bmp", seed=number)
    for place, suffix in (("a.1.png", "_mask"), ("crack/b.tif", ""), ("crack/deep/c.webp", "_mask")):
        image = Path(place)
        write_image(folder / "bad" / image, seed=20)
        if masks:
            write_mask(folder / "masks" / image.with_name(f"{image.stem}{suffix}.png"))
    return folder
