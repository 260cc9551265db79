"""Seeded generators of small trees in the published layouts, images of a few pixels."""

import csv
import json
from collections.abc import Callable
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


def mvtec_ad_2_category(root: Path, name: str = "can") -> Path:
    """2 train, 1 validation, 1 test good, 2 bad with masks, 1 private image without a label."""
    folder = root / name
    for place in (
        "train/good/000",
        "train/good/001",
        "validation/good/000",
        "test_public/good/000",
        "test_private/000",
    ):
        write_image(folder / f"{place}_regular.png", seed=len(place))
    for number in range(2):
        write_image(folder / "test_public" / "bad" / f"{number:03d}_regular.png", seed=20 + number)
        write_mask(folder / "test_public" / "ground_truth" / "bad" / f"{number:03d}_regular_mask.png")
    return folder


def mvtec_3d_category(root: Path, name: str = "bagel") -> Path:
    """2 train, 1 validation, 1 good, 1 crack, 1 hole with masks; masks of good images mark nothing."""
    folder = root / name
    for place in ("train/good/rgb/000", "train/good/rgb/001", "validation/good/rgb/000", "test/good/rgb/000"):
        write_image(folder / f"{place}.png", seed=len(place))
    write_mask(folder / "test" / "good" / "gt" / "000.png", value=0)
    for defect in ("crack", "hole"):
        write_image(folder / "test" / defect / "rgb" / "000.png", seed=len(defect))
        write_mask(folder / "test" / defect / "gt" / "000.png")
        (folder / "test" / defect / "xyz").mkdir()
        (folder / "test" / defect / "xyz" / "000.tiff").write_bytes(b"points")
    return folder


def real_iad_category(root: Path, name: str = "audiojack", *, size: str = "512") -> Path:
    """Two views of each part: 2 images to train on, 2 normal ones and 2 anomalous to test. Returns the table."""
    folder, rows = root / f"realiad_{size}" / name, {"train": [], "test": []}
    for part, place, kind in (("train", "OK/S0001", "OK"), ("test", "OK/S0002", "OK"), ("test", "NG/BX/S0003", "BX")):
        for view in (1, 2):
            image = f"{place}/{name}_{place[-4:]}_{kind}_C{view}_2023.jpg"
            mask = image.replace(".jpg", ".png") if kind != "OK" else None
            write_image(folder / image, seed=len(place) + view)
            if mask:
                write_mask(folder / mask)
            rows[part].append({"category": name, "anomaly_class": kind, "image_path": image, "mask_path": mask})
    table = root / "realiad_jsons" / "realiad_jsons" / f"{name}.json"
    table.parent.mkdir(parents=True, exist_ok=True)
    meta = {"normal_class": "OK", "prefix": f"{name}/", "pre_transform": None}
    table.write_text(json.dumps({"meta": meta, **rows}), encoding="utf-8")
    return table


def dagm_category(root: Path, name: str = "Class1") -> Path:
    """3 normal and 1 anomalous image in Train, 1 and 2 in Test."""
    folder = root / name
    for part, count, anomalous in (("Train", 4, (2,)), ("Test", 3, (1, 3))):
        for number in range(1, count + 1):
            write_image(folder / part / f"{number:04d}.PNG", seed=number)
        for number in anomalous:
            write_mask(folder / part / "Label" / f"{number:04d}_label.PNG")
        (folder / part / "Label" / "Labels.txt").write_text("1\n")
    return folder


def kolektor_sdd_root(root: Path) -> Path:
    """6 commutators of 2 images, whose second one has a defect in the first two."""
    for item in range(1, 7):
        for number in range(2):
            write_image(root / f"kos{item:02d}" / f"Part{number}.jpg", seed=10 * item + number)
            marked = 255 if number == 1 and item <= 2 else 0
            write_mask(root / f"kos{item:02d}" / f"Part{number}_label.bmp", value=marked)
    return root


def kolektor_sdd2_root(root: Path) -> Path:
    """2 normal and 1 anomalous image in train, 1 of each in test."""
    for part, marks in (("train", (0, 0, 255)), ("test", (0, 255))):
        for number, value in enumerate(marks):
            write_image(root / part / f"{10000 + number}.png", seed=number)
            write_mask(root / part / f"{10000 + number}_GT.png", value=value)
    return root


def bsdata_root(root: Path) -> Path:
    """5 normal images, 1 with two outlines of pitting."""
    for number in range(6):
        write_image(root / "data" / f"01_{number}_crop_2.jpg", seed=number)
    shapes = [
        {"label": "pitting", "points": [[x, 2], [x + 3, 2], [x + 3, 5], [x, 5]], "shape_type": "polygon"}
        for x in (2, 12)
    ]
    label = root / "label" / "01_3_crop_2.json"
    label.parent.mkdir(parents=True)
    label.write_text(json.dumps({"shapes": shapes, "imageHeight": SIDE, "imageWidth": SIDE}), encoding="utf-8")
    return root


def aitex_root(root: Path) -> Path:
    """Fabric 03: 5 normal strips, 2 with defects; fabric 04: 3 normal ones."""
    for number in range(5):
        write_image(root / "NODefect_images" / "2608691-202020u" / f"{number:04d}_000_03.png", seed=number)
    for number in (7, 8, 9):
        write_image(root / "NODefect_images" / "2311694-1930c7u" / f"{number:04d}_000_04.png", seed=number)
    for name in ("0010_002_03", "0011_019_03"):
        write_image(root / "Defect_images" / f"{name}.png", seed=11)
        write_mask(root / "Mask_images" / f"{name}_mask.png")
    return root


PUBLISHED: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "mvtec_ad": ("screw", mvtec_category),
    "mpdd": ("screw", mvtec_category),
    "visa": ("candle", visa_root),
    "btad": ("01", btad_category),
    "mvtec_loco": ("pushpins", loco_category),
    "folder": ("bracket", folder_category),
    "mvtec_layout": ("screw", mvtec_category),
    "mvtec_ad_2": ("can", mvtec_ad_2_category),
    "mvtec_3d": ("bagel", mvtec_3d_category),
    "real_iad": ("audiojack", real_iad_category),
    "kolektor_sdd": ("commutator", kolektor_sdd_root),
    "kolektor_sdd2": ("surface", kolektor_sdd2_root),
    "dagm": ("Class1", dagm_category),
    "bsdata": ("ball_screw", bsdata_root),
    "aitex": ("03", aitex_root),
}
"""A category of each data set, and what writes it below the data set's folder."""
