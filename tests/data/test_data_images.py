"""Every kind of image file that comes up in practice, and every way in which one can be broken."""

import re
import struct
import zlib

import cv2
import numpy as np
import pytest
import trees
from PIL import Image

from dmdd.core.errors import UserError
from dmdd.data import images
from dmdd.data.images import read_image, read_mask

RED = (200, 30, 10)


def refused(message: str) -> "pytest.RaisesExc[UserError]":
    return pytest.raises(UserError, match=re.escape(message))


@pytest.fixture
def gradient() -> np.ndarray:
    """5 rows, 7 columns, every pixel another colour."""
    return np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "webp", "ppm"])
def test_rgb_comes_back_to_the_bit(tmp_path, gradient, ending):
    path = tmp_path / f"ein Bild ü.{ending}"
    Image.fromarray(gradient).save(path, **({"lossless": True} if ending == "webp" else {}))
    image = read_image(path)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, gradient)


def test_grey_fills_three_channels(tmp_path, gradient):
    Image.fromarray(gradient[:, :, 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.repeat(gradient[:, :, :1], 3, axis=2))


def test_bilevel_becomes_black_and_white(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "one.png")
    assert read_image(tmp_path / "one.png").tolist() == [[[255] * 3, [0] * 3]]


def test_alpha_is_dropped_not_composited(tmp_path):
    pixels = np.array([[[*RED, 0], [*RED, 128], [*RED, 255]]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "alpha.png")
    assert read_image(tmp_path / "alpha.png").tolist() == [[list(RED)] * 3]


def test_grey_with_alpha(tmp_path):
    Image.fromarray(np.array([[[7, 0], [9, 255]]], dtype=np.uint8)).save(tmp_path / "la.png")
    assert read_image(tmp_path / "la.png").tolist() == [[[7] * 3, [9] * 3]]


@pytest.mark.parametrize("transparency", [None, 0, b"\x00\x80"])
def test_palette_gives_its_colours(tmp_path, transparency):
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, 1, 2, 3])
    image.putpixel((1, 0), 1)
    options = {} if transparency is None else {"transparency": transparency}
    image.save(tmp_path / "palette.png", **options)
    assert read_image(tmp_path / "palette.png").tolist() == [[list(RED), [1, 2, 3]]]


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bit_grey_is_scaled_by_its_full_range(tmp_path, ending):
    # By hand: v * 255 / 65535 = v / 257, rounded: 128 -> 0.498 -> 0, 129 -> 0.502 -> 1, 32896 = 128 * 257.
    cv2.imwrite(str(tmp_path / f"deep.{ending}"), np.array([[0, 128, 129, 32896, 65535]], dtype=np.uint16))
    assert read_image(tmp_path / f"deep.{ending}")[0, :, 0].tolist() == [0, 0, 1, 128, 255]


def test_16_bit_big_endian_tiff(tmp_path):
    Image.frombytes("I;16B", (2, 1), struct.pack(">HH", 32896, 65535)).save(tmp_path / "big.tif")
    assert read_image(tmp_path / "big.tif")[0, :, 0].tolist() == [128, 255]


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bit_rgb_is_within_one_of_its_scaled_value(tmp_path, ending):
    deep = np.array([[[0, 32896, 65535], [129, 1000, 50000]]], dtype=np.uint16)
    cv2.imwrite(str(tmp_path / f"deep.{ending}"), deep[:, :, ::-1])
    difference = read_image(tmp_path / f"deep.{ending}").astype(float) - deep / 257
    assert np.abs(difference).max() <= 1


def test_cmyk_jpeg(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=95)
    image = read_image(tmp_path / "print.jpg").reshape(-1, 3).mean(axis=0)
    assert image[0] > 240
    assert image[1:].max() < 15


@pytest.mark.parametrize(("orientation", "expected"), [(1, [[1, 2, 3], [4, 5, 6]]), (6, [[4, 1], [5, 2], [6, 3]])])
def test_exif_rotation_is_applied(tmp_path, orientation, expected):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8)).save(tmp_path / "turned.png", exif=exif)
    assert read_image(tmp_path / "turned.png")[:, :, 0].tolist() == expected


def test_first_frame_counts(tmp_path):
    frames = [Image.new("L", (2, 2), value) for value in (10, 20)]
    frames[0].save(tmp_path / "pages.tif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "pages.tif")[0, 0].tolist() == [10, 10, 10]


def test_wrong_ending_does_not_matter(tmp_path, gradient):
    Image.fromarray(gradient).save(tmp_path / "really.png")
    (tmp_path / "really.png").rename(tmp_path / "claimed.jpg")
    np.testing.assert_array_equal(read_image(tmp_path / "claimed.jpg"), gradient)


def test_missing_file(tmp_path):
    with refused(f"no such image file: {tmp_path / 'none.png'}"):
        read_image(tmp_path / "none.png")


def test_zero_bytes(tmp_path):
    (tmp_path / "empty.png").touch()
    with refused(f"cannot read image {tmp_path / 'empty.png'}: the file is empty (0 bytes)"):
        read_image(tmp_path / "empty.png")


def test_not_an_image(tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    with refused(f"cannot read image {tmp_path / 'text.png'}: not an image file that Pillow knows"):
        read_image(tmp_path / "text.png")


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "tif", "webp"])
def test_truncated_anywhere_is_one_clear_line(tmp_path, ending):
    whole = trees.write_image(tmp_path / f"whole.{ending}", size=(64, 64)).read_bytes()
    path = tmp_path / f"cut.{ending}"
    for length in np.linspace(1, len(whole) * 0.9, 25).astype(int).tolist():
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=re.escape(f"cannot read image {path}: ")) as caught:
            read_image(path)
        assert "\n" not in str(caught.value)


def test_truncated_names_the_reason(tmp_path):
    path = trees.write_image(tmp_path / "cut.jpg", size=(64, 64))
    path.write_bytes(path.read_bytes()[:-200])
    with refused(f"cannot read image {path}: damaged or truncated (image file is truncated"):
        read_image(path)


def png_header(width: int, height: int) -> bytes:
    """A PNG that only claims a size."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


@pytest.mark.parametrize(("side", "found"), [(9_000, "9000 x 9000 px"), (10_000, "more"), (60_000, "more than that")])
def test_decompression_bomb(tmp_path, side, found):
    data = zlib.compress(bytes(10))
    chunk = b"IDAT" + data
    path = tmp_path / "bomb.png"
    path.write_bytes(
        png_header(side, side) + struct.pack(">I", len(data)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    )
    with refused(f"cannot read image {path}: at most 80 million pixels are decoded, it has {found}"):
        read_image(path)


def test_largest_allowed_size_is_read(tmp_path, monkeypatch):
    path = trees.write_image(tmp_path / "large.png", size=(10, 10))
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    assert read_image(path).shape == (10, 10, 3)
    monkeypatch.setattr(images, "MAX_PIXELS", 99)
    with refused("it has 10 x 10 px"):
        read_image(path)


def test_32_bit_has_no_fixed_range(tmp_path):
    Image.fromarray(np.ones((2, 2), dtype=np.float32)).save(tmp_path / "float.tif")
    with refused(
        f"image {tmp_path / 'float.tif'}: 32-bit or signed pixels (mode F) have no fixed range; store 8 or 16"
    ):
        read_image(tmp_path / "float.tif")


def test_16_bit_pgm(tmp_path):
    values = np.array([[0, 257 * 5, 65535]], dtype=">u2")
    (tmp_path / "a.pgm").write_bytes(b"P5 3 1 65535\n" + values.tobytes())
    assert read_image(tmp_path / "a.pgm")[:, :, 0].tolist() == [[0, 5, 255]]
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 4095\n" + np.array([[0, 4095]], dtype=">u2").tobytes())
    assert read_image(tmp_path / "a.pgm")[:, :, 0].tolist() == [[0, 255]]  # the file says what its range is


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    path = trees.write_image(tmp_path / "a.png")

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(type(path), "read_bytes", refuse)
    with refused(f"cannot read image {path}: Permission denied"):
        read_image(path)


@pytest.mark.parametrize("value", [1, 127, 255])
def test_every_value_above_zero_is_mask(tmp_path, value):
    path = trees.write_mask(tmp_path / "m.png", box=(4, 6, 10, 12), value=value)
    mask = read_mask(path, size=(trees.SIDE, trees.SIDE))
    assert mask.dtype == bool
    assert mask.sum() == 36
    assert mask[4:10, 6:12].all()


@pytest.mark.parametrize(
    "pixels",
    [
        np.array([[0, 1]], dtype=np.uint16),
        np.array([[[0, 0, 0], [0, 0, 9]]], dtype=np.uint8),
        np.array([[[0, 0, 0, 255], [9, 9, 9, 8]]], dtype=np.uint8),
        np.array([[[255, 255, 255, 0], [255, 255, 255, 255]]], dtype=np.uint8),
        np.array([[[255, 0], [255, 255]]], dtype=np.uint8),
        np.array([[False, True]]),
    ],
    ids=["16-bit", "rgb", "rgba", "painted on nothing", "grey painted on nothing", "bilevel"],
)
def test_masks_of_every_kind(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[False, True]]


def test_a_transparent_16_bit_value_marks_nothing_and_no_other_goes_with_it(tmp_path):
    Image.fromarray(np.array([[0, 255, 300, 65535]], dtype=np.uint16)).save(tmp_path / "m.png", transparency=65535)
    assert read_mask(tmp_path / "m.png").tolist() == [[False, True, True, False]]


def test_palette_mask_counts_colours_not_indices(tmp_path):
    image = Image.new("P", (2, 1), color=1)
    image.putpalette([255, 0, 0, 0, 0, 0])
    image.putpixel((1, 0), 0)
    image.save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[False, True]]


def test_jpeg_mask_is_cut_at_half(tmp_path):
    pixels = np.zeros((32, 32), dtype=np.uint8)
    pixels[8:24, 8:24] = 255
    Image.fromarray(pixels).save(tmp_path / "m.jpg", quality=60)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.jpg"), pixels > 0)


def test_mask_of_another_size(tmp_path):
    path = trees.write_mask(tmp_path / "m.png")
    with refused(f"mask {path} is 24 x 24 px but its image is 30 x 20 px: both must have the same size"):
        read_mask(path, size=(20, 30))


def test_mask_unreadable(tmp_path):
    (tmp_path / "m.png").write_bytes(b"nothing")
    with refused(f"cannot read image {tmp_path / 'm.png'}"):
        read_mask(tmp_path / "m.png")


def test_mask_folder_empty(tmp_path):
    with refused(f"no mask files in {tmp_path}: expected one image file per region"):
        read_mask(tmp_path)


def test_mask_folder_of_different_sizes(tmp_path):
    trees.write_mask(tmp_path / "0.png")
    trees.write_image(tmp_path / "1.png", size=(5, 5))
    with refused(f"masks of different sizes in {tmp_path}"):
        read_mask(tmp_path)
