"""What cannot be right about masks and images: real shapes pass, mistakes are told with their numbers."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import trees
from PIL import Image

from dmdd.core.errors import UserError
from dmdd.data.check import check_data
from dmdd.data.images import EXIF_ORIENTATION, read_pair
from dmdd.data.layouts import read_folder
from dmdd.data.listing import Sample
from dmdd.data.plausibility import doubts_of_category, inspect

SIDE = 40
SQUARE = np.zeros((SIDE, SIDE), np.uint8)
SQUARE[10:18, 10:18] = 255
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]
COLUMNS_128 = np.mgrid[:128, :128][1]


def as_jpeg(pixels: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=75)
    return np.asarray(Image.open(file))


def category_of(root: Path, masks: list[np.ndarray], *, file: str = "png", types: list[str] | None = None) -> Path:
    for number in range(3):
        trees.write_image(root / f"part/good/{number}.png", seed=number, size=(SIDE, SIDE))
    for number, mask in enumerate(masks):
        place = types[number] if types else "dent"
        trees.write_image(root / f"part/bad/{place}/{number}.png", seed=9, size=(mask.shape[1], mask.shape[0]))
        (root / f"part/masks/{place}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(root / f"part/masks/{place}/{number}.{file}")
    return root


def told(root: Path, size: tuple[int, int] | None = None) -> list[str]:
    return doubts_of_category(read_folder(root=root, category="part"), size=size)


DOUBTED = {
    "inverted": (255 - SQUARE, r"marks most of the image and all of its border \(96 %, 1,536 of 1,600 px\); it looks"),
    "inverted of ones": ((SQUARE == 0).astype(np.uint8), r"and all of its border \(96 %"),
    "on a ground of 3": (np.where(SQUARE > 0, 255, 3).astype(np.uint8), r"has no pixel of 0 \(values from 3 to 255\)"),
    "all white": (np.full_like(SQUARE, 255), "marks the whole image; look whether it is the right file"),
    "JPEG saved as PNG": (as_jpeg(SQUARE), r"grey values between 0 and 255, and \d+ of \d+ marked pixels below half"),
    "a dark photograph": (np.random.default_rng(0).integers(0, 90, (SIDE, SIDE), np.uint8), "grey values between 0"),
    "a 16-bit picture": (np.where(ROWS > 3, ROWS**2, 0).astype(np.uint16), r"35 grey values between 0 and 1521"),
    "most of the image": (np.where(ROWS < 30, 255, 0).astype(np.uint8), r"most of the image \(75 %, 1,200 of 1,600"),
}
SOFT = np.clip(255 - 40 * (np.hypot(ROWS - 20, COLUMNS - 20) - 9), 0, 255).astype(np.uint8)
GOOD = {
    "0 and 255": SQUARE,
    "0 and 1": (SQUARE > 0).astype(np.uint8),
    "number of the type": np.where(SQUARE > 0, 3, 0).astype(np.uint8),
    "five regions of their own numbers": (SQUARE > 0).astype(np.uint8) * (1 + COLUMNS % 5).astype(np.uint8),
    "soft edges": SOFT,
    "two fifths": np.where(ROWS < 16, 255, 0).astype(np.uint8),
    "16 bits": SQUARE.astype(np.uint16) * 257,
}


@pytest.mark.parametrize(("mask", "words"), DOUBTED.values(), ids=DOUBTED)
def test_masks_that_cannot_be_right_are_told_with_numbers(tmp_path, mask, words):
    root = category_of(tmp_path, [mask, mask])
    (sentence,) = told(root)
    first = root / "part/masks/dent/0.png"
    assert sentence.startswith(f"the mask {first} (and 1 more) ")
    assert re.search(words, sentence), sentence
    lines, problems = check_data(data_dir=root, dataset="folder")
    assert (problems, lines[-1]) == (0, "no problems found, 1 warning")
    assert f"  warning: {sentence}" in lines  # the same words


@pytest.mark.parametrize("mask", GOOD.values(), ids=GOOD)
def test_masks_as_people_draw_them_are_not_doubted(tmp_path, mask):
    assert told(category_of(tmp_path, [mask] * 4)) == []


def test_a_jpeg_mask_is_cut_and_so_not_doubted(tmp_path):
    assert told(category_of(tmp_path, [SQUARE], file="jpg")) == []


def test_an_area_far_beyond_the_others_of_the_type_is_told(tmp_path):
    small, large = np.zeros((3, 100, 100), np.uint8), np.zeros((100, 100), np.uint8)
    small[:, 5:11, 5:10] = 255  # 0.3 %
    large[:40, :50] = 255  # 20 %
    types = ["dent"] * 4 + ["bend"]
    (sentence,) = told(category_of(tmp_path, [*small, large, large], types=types))
    assert "marks 67 times the area of the other masks of dent (20 %, 2,000 of 10,000 px); look" in sentence
    assert str(tmp_path / "part/masks/dent/3.png") in sentence
    assert "more)" not in sentence  # the one of another type is alone and stands for itself


def test_a_folder_of_masks_is_doubted_by_its_oddest_file(tmp_path):
    trees.write_image(tmp_path / "a.png", size=(SIDE, SIDE))
    (tmp_path / "a").mkdir()
    Image.fromarray(SQUARE).save(tmp_path / "a/0.png")
    Image.fromarray(as_jpeg(SQUARE.T.copy())).save(tmp_path / "a/1.png")
    found = inspect(Sample(tmp_path / "a.png", 1, "dent", tmp_path / "a"))
    assert found.mask is not None
    assert found.mask.between > 8
    assert found.mask.largest == 255


def turned_image(file: Path, orientation: int, *, size: tuple[int, int] = (30, 20)) -> Path:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(trees.SIDE + np.zeros((size[1], size[0], 3), np.uint8)).save(file, exif=exif)
    return file


@pytest.mark.parametrize(
    ("orientation", "size", "words"),
    [
        (3, (30, 20), "is turned by 180 degrees by its EXIF entry"),
        (2, (30, 20), "is mirrored by its EXIF entry"),
        (6, (20, 20), "is turned by 90 degrees by its EXIF entry"),  # square, so that the sizes agree
        (8, (20, 20), "is turned by 90 degrees by its EXIF entry"),
    ],
)
def test_an_image_turned_by_exif_beside_a_mask_that_is_not_is_told(tmp_path, orientation, size, words):
    root = category_of(tmp_path, [])
    image = turned_image(root / "part/bad/dent/0.jpg", orientation, size=size)
    (root / "part/masks/dent").mkdir(parents=True)
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[2:5, 3:9] = 255
    Image.fromarray(mask).save(root / "part/masks/dent/0.png")
    (sentence,) = told(root)
    assert sentence == f"the image {image} {words} and its mask is not, so that they may not fit; save both upright"
    turned_image(root / "part/masks/dent/0.png", orientation, size=size)  # turned alike: they fit
    assert not [line for line in told(root) if "EXIF" in line]


def test_sizes_that_an_exif_entry_exchanges_are_told_as_the_files_have_them(tmp_path):
    image, mask = turned_image(tmp_path / "a.jpg", 6), trees.write_image(tmp_path / "a_mask.png", size=(30, 20))
    told = (
        f"mask {mask} is 30 x 20 px but its image is 20 x 30 px (30 x 20 px in the file, turned by its EXIF entry): "
        "turn the mask as the image is, or save the image upright"
    )
    with pytest.raises(UserError) as refusal:
        read_pair(image, mask)
    assert str(refusal.value) == told
    other, turned = trees.write_image(tmp_path / "b.png", size=(30, 20)), turned_image(tmp_path / "b_mask.png", 6)
    with pytest.raises(UserError, match=r"is 20 x 30 px \(30 x 20 px in the file, turned by its EXIF entry\) but its"):
        read_pair(other, turned)


@pytest.mark.parametrize("place", ["good", "bad"])
def test_16_bit_images_that_use_little_of_their_range_are_told(tmp_path, place):
    root = category_of(tmp_path, [SQUARE])
    file = sorted((root / "part" / place).rglob("*.png"))[0]
    deep = np.random.default_rng(0).integers(0, 4096, (SIDE, SIDE)).astype(np.uint16)
    deep[0, 0] = 4095
    Image.fromarray(deep).save(file)
    words = "1 of 1 16-bit images use less than an eighth of their range (up to 4,095 of 65,535), so they are nearly"
    (sentence,) = told(root)
    assert sentence.startswith(words)
    assert any(line.startswith(f"  warning: {words}") for line in check_data(data_dir=root, dataset="folder")[0])
    Image.fromarray(deep * 16).save(file)
    assert told(root) == []


def test_regions_lost_at_the_input_size_are_told(tmp_path):
    empty, lost = np.zeros((2, 128, 128), np.uint8)
    lost[9, 9] = 255  # between the pixels that are kept
    root = category_of(tmp_path, [empty, lost])
    sentences = told(root, (96, 96))
    assert [sentence.partition(" marks ")[2] for sentence in sentences[:2]] == [
        "nothing, so the pixels of that defect count as normal ones",
        "nothing at the input size, so the pixels of that defect count as normal ones",
    ]
    assert sentences[2:] == ["evaluation.native_masks=true compares maps with masks at their own size"]
    assert len(told(root)) == 1


def test_lines_that_fall_into_pieces_are_told(tmp_path):
    lines = np.zeros((128, 128), np.uint8)
    lines[COLUMNS_128[0] // 3, COLUMNS_128[0]] = 255  # one pixel wide, at an angle
    (pieces, native) = told(category_of(tmp_path, [lines]), (32, 32))
    assert "pieces at the input size, each of which counts in AUPRO" in pieces
    assert native.startswith("evaluation.native_masks=true")
