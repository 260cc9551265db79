"""Pictures: captions and contact sheets."""

import cv2
import numpy as np

from dmdd.core.drawing import CAPTION_GREY, CAPTION_PX, add_caption, contact_sheet, encode


def test_a_contact_sheet_keeps_every_picture_and_its_order():
    small, large = np.full((2, 3, 3), 10, np.uint8), np.full((4, 5, 3), 20, np.uint8)
    sheet = contact_sheet([small, large, small], columns=2)
    assert sheet.shape == (8, 10, 3)  # places as large as the largest picture
    assert (sheet[:2, :3] == 10).all()
    assert (sheet[:4, 5:] == 20).all()
    assert (sheet[4:6, :3] == 10).all()
    assert not sheet[2:4, :5].any()
    assert contact_sheet([small], columns=6).shape == (2, 3, 3)


def test_a_caption_lies_above_the_picture_and_takes_any_text():
    picture = np.full((5, 80, 3), 100, np.uint8)
    captioned = add_caption(picture, "größe")
    assert captioned.shape == (5 + CAPTION_PX, 80, 3)
    assert np.array_equal(captioned[CAPTION_PX:], picture)
    assert (captioned[:CAPTION_PX] != CAPTION_GREY).any()


def test_an_encoded_picture_is_the_picture():
    rgb = np.zeros((4, 6, 3), np.uint8)
    rgb[..., 0] = 255  # red
    decoded = cv2.imdecode(np.frombuffer(encode(rgb), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), rgb)
    assert encode(rgb, ".jpg")[:2] == b"\xff\xd8"
