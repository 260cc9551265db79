"""The contact sheet of pairs."""

import re

import numpy as np
import pytest
from PIL import Image

from dmdd.data.__main__ import main


def test_sheet_shows_normal_image_twin_and_mask(tmp_path, demo_root):
    file = tmp_path / "deep/sheet.png"
    arguments = ["dataset=demo", "category=plate", f"data_dir={demo_root}", "image_size=[64,64]"]
    assert main(["preview", *arguments, f"output={file}", "count=5", "columns=3"]) == 0
    with Image.open(file) as picture:
        sheet = np.array(picture)
    assert sheet.shape == (2 * 3 * 64, 3 * 64, 3)
    for row, column in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1)):
        tile = sheet[row * 192 : (row + 1) * 192, column * 64 : (column + 1) * 64].astype(int)
        changed, mask = np.abs(tile[:64] - tile[64:128]).max(2) > 0, tile[128:, :, 0]
        assert set(np.unique(mask)) == {0, 64, 255}
        assert not changed[mask < 255].any()
        assert changed.any()
    assert not sheet[192:, 128:].any()  # the sixth place is empty


@pytest.mark.parametrize(("given", "told"), [("", "a part found on 11 of 11 training images, "), ("all", "all over")])
def test_says_where_anomalies_are_made(tmp_path, demo_root, capsys, given, told):
    arguments = ["dataset=demo", "category=plate", f"data_dir={demo_root}", f"output={tmp_path / 'pairs.png'}"]
    if given:
        assert main(["preview", *arguments, "count=1"]) == 0
        arguments += re.findall(r"everywhere with (\S+)", capsys.readouterr().out)  # what it says does what it says
        assert len(arguments) == 5
    assert main(["preview", *arguments, "count=2"]) == 0
    assert told in capsys.readouterr().out
    with Image.open(tmp_path / "pairs.png") as picture:
        masks = np.array(picture)[512:]
    assert bool((masks == 64).any()) is not bool(given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["category=plat"], "unknown category 'plat'"),
        (["category=plate", "count=0"], "count=0: give a positive whole number"),
        (["category=plate", "seed=-1"], "seed=-1: give a whole number from 0"),
        (["category=plate", "count=x"], "count=x: give a positive whole number"),
        (["category=plate", "output=sheet.jpg"], "give a file that ends in .png"),
        (["category=plate", "nonsense=1"], "unknown setting nonsense"),
    ],
)
def test_bad_input(tmp_path, demo_root, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["preview", "dataset=demo", f"data_dir={demo_root}", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert list(tmp_path.iterdir()) == []
