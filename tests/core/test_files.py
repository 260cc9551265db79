"""Files written as a whole or not at all, and pictures of maps."""

import hashlib

import numpy as np
import pytest

from dmdd.core.drawing import blend, colour_map, draw_contours
from dmdd.core.files import file_sha256, picture_name, whole_file, write_atomically


def test_a_reader_sees_the_old_content_until_the_new_one_is_whole(tmp_path):
    file = tmp_path / "new" / "result.txt"
    write_atomically(file, "old")
    with whole_file(file) as partial:
        partial.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert [path.name for path in file.parent.iterdir()] == ["result.txt"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    file = tmp_path / "result.txt"
    write_atomically(file, b"old")

    def write() -> None:
        with whole_file(file) as partial:
            partial.write_bytes(b"ne")
            raise error

    with pytest.raises(type(error)):
        write()
    assert file.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["result.txt"]


def test_names_that_are_no_text_keep_their_bytes(tmp_path):
    write_atomically(tmp_path / "x", b"\xff.png".decode("utf-8", "surrogateescape"))
    assert (tmp_path / "x").read_bytes() == b"\xff.png"


def test_hash_of_a_file(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "x").write_bytes(content)
    assert file_sha256(tmp_path / "x") == hashlib.sha256(content).hexdigest()


def test_colours_are_dark_at_zero_and_bright_from_twice_the_middle():
    colours = colour_map(np.array([[0.0, 0.2, 0.4, 1.0]], np.float32), middle=0.2)
    brightness = colours.astype(int).sum(2)[0]
    assert brightness[0] < 20
    assert brightness[0] < brightness[1] < brightness[2] == brightness[3]


def test_contours_outline_a_region_and_its_hole():
    mask = np.zeros((9, 9), bool)
    mask[1:8, 1:8] = True
    mask[4, 4] = False
    picture = np.zeros((9, 9, 3), np.uint8)
    draw_contours(picture, mask, (0, 255, 0))
    drawn = picture[..., 1] == 255
    assert drawn[1, 1:8].all()
    assert drawn[1:8, 7].all()
    assert not drawn[2, 2]
    assert drawn[3:6, 3:6].sum() >= 4  # around the hole
    assert not picture[..., 0].any()


def test_blend_keeps_three_fifths_of_the_image():
    rgb, colours = np.full((2, 2, 3), 100, np.uint8), np.full((2, 2, 3), 200, np.uint8)
    assert (blend(rgb, colours) == 140).all()
    assert (rgb == 100).all()


@pytest.mark.parametrize("length", [200, 250, 255])
def test_the_longest_names_that_a_disk_takes_can_be_written(tmp_path, length):
    write_atomically(tmp_path / ("n" * length), b"content")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("n" * length, b"content")]
    with pytest.raises(OSError, match="File name too long"):
        write_atomically(tmp_path / ("n" * 256), b"content")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_picture_has_a_name_that_a_disk_takes():
    assert picture_name("dent", "part 1 (new)") == "dent_part_1_new_"
    long = picture_name("dent", "ü" * 120)
    assert long == "dent_" + "ü" * 97  # 199 bytes: no half of a letter
    assert len(f"99_{long}.png.partial".encode()) < 255
