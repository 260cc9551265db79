"""Alignment: a known movement is found again, masks move with their images, what has no place is refused."""

import re

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from dmdd.core.errors import UserError
from dmdd.data.__main__ import main
from dmdd.data.alignment import Alignment
from dmdd.data.images import read_image, read_mask, write_mask

SIZE = 160


def refused(message):
    return pytest.raises(UserError, match=re.escape(message))


def draw_part(size=SIZE):
    """A plate with a slot and two bores, without any symmetry."""
    image = np.full((SIZE, SIZE, 3), 60, np.uint8)
    cv2.rectangle(image, (30, 40), (125, 120), (180, 170, 160), -1)
    cv2.rectangle(image, (40, 50), (60, 110), (90, 90, 90), -1)
    cv2.circle(image, (100, 65), 12, (30, 30, 30), -1)
    cv2.circle(image, (110, 105), 6, (230, 230, 230), -1)
    return cv2.resize(cv2.GaussianBlur(image, (5, 5), 0), (size, size), interpolation=cv2.INTER_CUBIC)


def movement(*, degrees=7.0, scale=1.03, shift=(9.0, -6.0), size=SIZE):
    matrix = cv2.getRotationMatrix2D(((size - 1) / 2, (size - 1) / 2), degrees, scale)
    matrix[:, 2] += shift
    return matrix


def move(image, matrix):
    flags = cv2.INTER_NEAREST if image.dtype == bool else cv2.INTER_LINEAR
    pixels = image.astype(np.uint8) if image.dtype == bool else image
    moved = cv2.warpAffine(pixels, matrix, image.shape[1::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return moved > 0 if image.dtype == bool else moved


def noise(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def corners(matrix, points):
    return points @ matrix[:, :2].T + matrix[:, 2]


POINTS = np.array([[30.0, 40.0], [125.0, 40.0], [30.0, 120.0], [125.0, 120.0]])


@pytest.mark.parametrize("degrees", [-17.0, -3.0, 0.0, 11.0])
def test_a_known_movement_is_found_to_half_a_pixel(degrees):
    matrix = movement(degrees=degrees)

    found = Alignment(draw_part()).find(move(draw_part(), matrix))

    assert np.abs(corners(found, POINTS) - corners(matrix, POINTS)).max() < 0.5


def test_an_image_of_twice_the_resolution_is_brought_to_the_references_size():
    alignment, large = Alignment(draw_part()), draw_part(2 * SIZE)

    aligned = alignment.apply(large, alignment.find(large))

    assert aligned.shape == (SIZE, SIZE, 3)
    assert np.abs(aligned.astype(float) - draw_part()).mean() < 2


def test_a_large_image_is_compared_small_and_moved_at_its_own_size():
    size = 700  # above the working size
    matrix = movement(degrees=5, shift=(31.0, -12.0), size=size)
    large = draw_part(size)

    found = Alignment(large).find(move(large, matrix))

    points = POINTS * size / SIZE
    assert np.abs(corners(found, points) - corners(matrix, points)).max() < 1.5


def test_images_that_show_something_else_are_refused_by_name():
    with refused("bad.png cannot be aligned to the reference: their correlation is 0."):
        Alignment(draw_part()).find(noise(), name="bad.png")


def test_a_part_of_the_view_is_not_stretched_to_fill_it():
    part = draw_part()

    with refused("it would have to be stretched by"):
        Alignment(part).find(part[:, 22:108])  # with the slot and a bore


def test_an_image_that_shows_too_little_of_the_view_is_refused(monkeypatch):
    monkeypatch.setattr("dmdd.data.alignment.LEAST_SEEN", 0.9)
    moved = move(draw_part(), movement(degrees=0, scale=1, shift=(24.0, 0.0)))  # 15 % of the width

    with refused("it shows 85 % of that view, at least 90 % is needed"):
        Alignment(draw_part()).find(moved)


def test_what_an_image_does_not_show_is_as_in_the_reference():
    part, image = draw_part(), noise()
    aligned = Alignment(part).apply(image, np.array([[1.0, 0.0, 12.0], [0.0, 1.0, 0.0]]))
    assert np.array_equal(aligned[:, :-12], image[:, 12:])
    assert np.array_equal(aligned[:, -12:], part[:, -12:])


def test_a_reference_of_one_grey_value_is_refused():
    with refused("align=the reference: the image is of one grey value"):
        Alignment(np.full((SIZE, SIZE, 3), 90, np.uint8))


def test_tensors_are_aligned_too_and_floats_become_bytes():
    matrix = movement()
    moved = torch.from_numpy(move(draw_part(), matrix)).permute(2, 0, 1)
    alignment = Alignment(draw_part())

    aligned = alignment(moved)

    assert aligned.dtype == torch.uint8
    inner = (slice(None), slice(30, 130), slice(30, 130))
    expected = torch.from_numpy(draw_part()).permute(2, 0, 1)[inner].float()
    assert (aligned[inner].float() - expected).abs().mean() < 3
    assert torch.equal(alignment(moved.float() / 255), aligned)


@pytest.fixture
def parts(tmp_path):
    """A folder of one's own: six moved good images, one bad one with its mask, and one photograph of something else."""
    root = tmp_path / "parts" / "bracket"
    for folder in ("good", "bad/dent", "masks/dent"):
        (root / folder).mkdir(parents=True)
    for place in range(6):
        matrix = movement(degrees=2.0 * place - 5, shift=(place, -place))
        Image.fromarray(move(draw_part(), matrix)).save(root / f"good/{place}.png")
    Image.fromarray(draw_part()).save(root / "good/reference.png")
    Image.fromarray(noise()).save(root / "good/other.png")
    dent = np.zeros((SIZE, SIZE), bool)
    dent[70:80, 85:95] = True
    image = draw_part()
    image[dent] = 250
    matrix = movement()
    Image.fromarray(move(image, matrix)).save(root / "bad/dent/a.png")
    write_mask(root / "masks/dent/a.png", move(dent, matrix))
    return tmp_path


def align(folder):
    return main(
        [
            "align",
            f"--data-dir={folder / 'parts'}",
            "--category=bracket",
            f"--reference={folder / 'parts/bracket/good/reference.png'}",
            f"output={folder / 'aligned'}",
        ]
    )


def test_data_align_writes_images_and_masks_in_the_references_frame_and_names_what_it_leaves_out(parts, capsys):
    assert align(parts) == 1

    told = capsys.readouterr().out
    assert "left out: " in told
    assert "other.png cannot be aligned to " in told
    assert "8 of 9 images aligned; train with dataset=mvtec_layout data_dir=" in told
    root = parts / "aligned" / "bracket"
    good = [*(root / "train/good").iterdir(), *(root / "test/good").iterdir()]
    assert sorted(file.name for file in good) == sorted([*(f"{place}.png" for place in range(6)), "reference.png"])
    inner = (slice(40, 120), slice(35, 120))
    for file in good:
        assert np.abs(read_image(file)[inner].astype(float) - draw_part()[inner]).mean() < 3
    mask = read_mask(root / "ground_truth/dent/a_mask.png")
    rows, columns = np.nonzero(mask)
    assert abs(rows.mean() - 74.5) < 1
    assert abs(columns.mean() - 89.5) < 1


def test_data_align_does_not_write_into_a_folder_that_is_there(parts, capsys):
    (parts / "aligned" / "bracket").mkdir(parents=True)

    assert align(parts) == 2

    assert "is there already; give another folder" in capsys.readouterr().err
