"""The demo data set: drawn here, so that the whole project can be tried without a download or a licence."""

import json
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np

from dmdd.core.errors import UserError
from dmdd.data.demo.defects import DEFECTS, render_plate
from dmdd.data.demo.plate import draw_look

CATEGORY = "plate"
MARKER = "demo.json"
VERSION = 1
SIZE_RANGE_PX = (64, 1024)


def generate_demo(
    root: Path | str, *, seed: int = 0, size: int = 256, train: int = 48, test_good: int = 12, per_defect: int = 6
) -> Path:
    """Write the demo data set in the MVTec AD shape to `<root>/demo/plate`.

    Every image depends on (seed, split, number) alone, so the same call writes the same bytes, and a larger set
    begins with the smaller one. The folder appears when it is complete; an older demo there is replaced.

    Args:
        root: The data folder; made if it is missing.
        seed: Seed of everything drawn.
        size: Side of the images in pixels, 64..1024.
        train: Number of normal training images.
        test_good: Number of normal test images.
        per_defect: Number of test images of each of the four kinds of defect.

    Returns:
        The folder `<root>/demo`.

    Raises:
        UserError: A number out of range, or `<root>/demo` holds anything that is not an untouched demo data set.

    Source: ours.
    """
    _check_numbers(seed=seed, size=size, train=train, test_good=test_good, per_defect=per_defect)
    target = Path(root) / "demo"
    _refuse_foreign(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".demo-", dir=target.parent))
    except OSError as error:
        raise UserError(f"cannot write to {target.parent.absolute()}: {error.strerror}") from error
    try:
        staging.chmod(0o755)
        category = staging / CATEGORY
        _write_normals(category / "train" / "good", seed=seed, split=0, count=train, size=size)
        _write_normals(category / "test" / "good", seed=seed, split=1, count=test_good, size=size)
        for split, defect in enumerate(DEFECTS, start=2):
            _write_defects(category, defect=defect, seed=seed, split=split, count=per_defect, size=size)
        files = sorted(path.relative_to(staging).as_posix() for path in staging.rglob("*") if path.is_file())
        about = {
            "generator": "dmdd.data.demo.generate",
            "version": VERSION,
            "seed": seed,
            "size_px": size,
            "files": files,
        }
        (staging / MARKER).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def _check_numbers(*, seed: int, size: int, train: int, test_good: int, per_defect: int) -> None:
    if seed < 0:
        raise UserError(f"seed is {seed}: it must be 0 or more")
    if not SIZE_RANGE_PX[0] <= size <= SIZE_RANGE_PX[1]:
        raise UserError(f"size is {size}: it must lie between {SIZE_RANGE_PX[0]} and {SIZE_RANGE_PX[1]} px")
    for name, count in (("train", train), ("test_good", test_good), ("per_defect", per_defect)):
        if not 1 <= count <= 1000:
            raise UserError(f"{name} is {count}: it must lie between 1 and 1000")


def _refuse_foreign(target: Path) -> None:
    """Refuse to replace anything but the files that an earlier call wrote."""
    if not target.exists():
        return
    foreign = f"{target.absolute()} is not a demo data set: it is left alone, give another --output"
    try:
        about = json.loads((target / MARKER).read_text(encoding="utf-8"))
        known = {*about["files"], MARKER}
    except (OSError, ValueError, TypeError, KeyError):
        raise UserError(foreign) from None
    extra = sorted(
        path.relative_to(target).as_posix()
        for path in target.rglob("*")
        if not path.is_dir() and path.relative_to(target).as_posix() not in known
    )
    if extra:
        raise UserError(f"{target.absolute()} holds files that are not the demo's ({extra[0]}): it is left alone")


def _write_normals(folder: Path, *, seed: int, split: int, count: int, size: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        look = draw_look(np.random.default_rng([seed, split, number]))
        image, _ = render_plate(look=look, size=size)
        _write_png(folder / f"{number:03d}.png", image)


def _write_defects(category: Path, *, defect: str, seed: int, split: int, count: int, size: int) -> None:
    image_folder, mask_folder = category / "test" / defect, category / "ground_truth" / defect
    image_folder.mkdir(parents=True)
    mask_folder.mkdir(parents=True)
    for number in range(count):
        look = draw_look(np.random.default_rng([seed, split, number]))
        rng = np.random.default_rng([seed, split, number, 1])
        image, mask = render_plate(look=look, size=size, defect=defect, rng=rng)
        _write_png(image_folder / f"{number:03d}.png", image)
        _write_png(mask_folder / f"{number:03d}_mask.png", mask.astype(np.uint8) * 255)


def _write_png(path: Path, pixels: np.ndarray) -> None:
    # Encoded in memory: cv2.imwrite cannot open every Unicode path on every platform, and returns False instead of
    # raising when a disk is full.
    bgr = pixels[:, :, ::-1] if pixels.ndim == 3 else pixels
    path.write_bytes(cv2.imencode(".png", np.ascontiguousarray(bgr))[1].tobytes())
