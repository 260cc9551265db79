"""Images and masks in bulk: read as documented, or refused in one line; files and requests always agree."""

import re
from pathlib import Path

import fuzz_kit
import numpy as np
import pytest
from fuzz_kit import count, one_line, rounds
from PIL import Image

from dmdd.core.errors import UserError
from dmdd.data.check import check_data
from dmdd.data.datasets import FileDataset
from dmdd.data.images import MAX_PIXELS, read_image, read_mask
from dmdd.data.listing import Sample
from dmdd.deploy.serve.decoding import decode_image
from dmdd.deploy.serve.limits import Refusal

# As in production: Pillow warns of odd metadata and reads on.
pytestmark = pytest.mark.filterwarnings("ignore")

GOOD, REFUSED = fuzz_kit.good_images(), fuzz_kit.refused_images()
ENDINGS = ("png", "jpg", "tif", "bmp", "webp", "gif", "ppm")


def read(file: Path) -> np.ndarray | None:
    """What a file gives, None where it is refused in one line that names it."""
    try:
        found = read_image(file)
    except UserError as error:
        message = one_line(error)
        assert str(file) in message
        return None
    assert found.dtype == np.uint8
    assert found.ndim == 3
    assert found.shape[2] == 3
    assert 0 < found.shape[0] * found.shape[1] <= MAX_PIXELS
    return found


def decoded(data: bytes) -> np.ndarray | None:
    """The same of the server's reader."""
    try:
        return decode_image(data)
    except Refusal as refusal:
        status, message = refusal.status, refusal.message
        assert status in (413, 415, 422)
        assert message
        assert "\n" not in message
        return None


@pytest.mark.parametrize("kind", GOOD)
def test_every_good_kind_is_read_whatever_it_is_called(tmp_path, kind):
    data, size = GOOD[kind]
    found = []
    for ending in ENDINGS:
        file = tmp_path / f"image.{ending}"
        file.write_bytes(data)
        found.append(read(file))
        count("images, good", "read")
    assert found[0].shape == (*size, 3)
    assert all(np.array_equal(found[0], other) for other in found)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_image_is_refused_whatever_it_is_called(tmp_path, kind):
    for ending in ENDINGS:
        file = tmp_path / f"image.{ending}"
        file.write_bytes(REFUSED[kind])
        assert read(file) is None
        assert not REFUSED[kind] or decoded(REFUSED[kind]) is None
        count("images, no images", "refused")


def test_damaged_files_are_read_or_refused_and_the_server_says_the_same(tmp_path, generator):
    file = tmp_path / "damaged.png"
    seeds = [data for data, _ in GOOD.values()] + [data for data in REFUSED.values() if data]
    for _ in range(rounds(400, 20_000)):
        data = fuzz_kit.damaged(seeds[generator.integers(0, len(seeds))], generator)
        if not data:
            continue
        file.write_bytes(data)
        first, second = read(file), decoded(data)
        assert (first is None) == (second is None), data[:80]
        assert first is None or np.array_equal(first, second)
        count("images, damaged", "refused" if first is None else "read")


def test_every_cut_of_a_file_is_read_or_refused(tmp_path, generator):
    """A cut file gives the whole picture (what is missing was not needed) or nothing; never a part of it."""
    file = tmp_path / "cut.png"
    for name in ("png", "jpeg", "jpeg progressive", "bmp", "tiff", "ppm", "gif animated", "webp lossless alpha"):
        data = GOOD[name][0]
        file.write_bytes(data)
        whole = read(file)
        for length in generator.integers(1, len(data), rounds(12, 400)):
            file.write_bytes(data[:length])
            found = read(file)
            assert found is None or np.array_equal(found, whole), (name, length)
            count("images, cut", "refused" if found is None else "read")


def random_mask(generator: np.random.Generator, height: int, width: int) -> tuple[Image.Image, np.ndarray]:
    """A mask of one of the kinds people draw, and where it is set by the rule: any colour above 0."""
    match generator.integers(0, 6):
        case 0:
            values = np.zeros((height, width), np.uint8)
        case 1:
            values = np.full((height, width), generator.integers(1, 256), np.uint8)
        case 2:  # soft edges
            rows, columns = np.mgrid[0:height, 0:width]
            distance = np.hypot(rows - height / 2, columns - width / 2)
            values = np.clip(255 - 30 * distance, 0, 255).astype(np.uint8)
        case _:
            values = generator.integers(0, 256, (height, width), np.uint8) * (generator.random((height, width)) < 0.3)
    values = values.astype(np.uint8)
    expected = values > 0
    match generator.integers(0, 6):
        case 0:
            coloured = np.zeros((height, width, 3), np.uint8)
            coloured[..., generator.integers(0, 3)] = values
            return Image.fromarray(coloured), expected
        case 1:
            with_alpha = np.dstack([values] * 3 + [np.full_like(values, generator.integers(0, 256))])
            return Image.fromarray(with_alpha), expected
        case 2:
            return Image.fromarray(expected), expected
        case 3:
            return Image.fromarray(values.astype(np.uint16)), expected
        case 4:
            palette = Image.fromarray(values).convert("P")
            palette.putpalette([number for number in range(256) for _ in range(3)])
            return palette, expected
        case _:
            return Image.fromarray(values), expected


def test_masks_of_every_kind_mark_what_is_above_zero(tmp_path, generator):
    for _ in range(rounds(60, 3000)):
        height, width = (int(side) for side in generator.integers(1, 40, 2))
        mask, expected = random_mask(generator, height, width)
        file = tmp_path / f"mask.{('png', 'tif')[generator.integers(0, 2)]}"
        mask.save(file)
        assert np.array_equal(read_mask(file, size=(height, width)), expected)
        count("masks, good", "read")
        wrong = (height + int(generator.integers(0, 3)), width + int(generator.integers(1, 3)))
        with pytest.raises(UserError, match="both must have the same size") as refusal:
            read_mask(file, size=wrong)
        one_line(refusal.value)
        count("masks, of another size", "refused")


def test_a_test_set_of_odd_masks_is_whole_or_refused_by_name(tmp_path, generator):
    for number in range(rounds(25, 1000)):
        image, mask_file = tmp_path / f"{number}.png", tmp_path / f"{number}_mask.png"
        Image.fromarray(generator.integers(0, 256, (20, 30, 3), np.uint8)).save(image)
        size = (20, 30) if generator.random() < 0.5 else tuple(generator.integers(1, 40, 2).tolist())
        mask, _ = random_mask(generator, *size)
        mask.save(mask_file)
        if generator.random() < 0.3:
            mask_file.write_bytes(fuzz_kit.damaged(mask_file.read_bytes(), generator))
        dataset = FileDataset([Sample(image, 1, "dent", mask_file)], (32, 32), native_masks=True)
        try:
            batch = dataset.__getitems__([0]) if hasattr(dataset, "__getitems__") else dataset[[0]]
        except UserError as error:
            message = one_line(error)
            assert str(mask_file) in message
            count("masks, in a test set", "refused")
            continue
        assert batch.masks[0].shape == (1, 20, 30)
        assert size == (20, 30)
        count("masks, in a test set", "read")


def test_data_check_names_every_bad_file_of_a_folder(tmp_path, generator):
    """As many problems as files that the readers refuse, each with its name."""
    for number in range(rounds(4, 60)):
        root = tmp_path / str(number)
        (root / "part" / "good").mkdir(parents=True)
        (root / "part" / "bad").mkdir()
        refused = []
        for place in range(12):
            file = root / "part" / ("good" if place % 3 else "bad") / f"{place}.png"
            names = [*GOOD, *REFUSED]
            name = names[generator.integers(0, len(names))]
            file.write_bytes(GOOD[name][0] if name in GOOD else REFUSED[name])
            refused += [] if name in GOOD else [file]
        lines, problems = check_data(data_dir=root, dataset="folder")
        assert problems == len(refused)
        assert all(sum(line.count(f"{file}:") for line in lines) == 1 for file in refused)
        assert all(re.match(r"  problem: ", line) for line in lines if "cannot read" in line)
        count("folders of good and bad", "checked")
