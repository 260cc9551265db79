"""The built-in jitter: by hand where the answer is known, against albumentations where it is random."""

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from dmdd.config.schema import TrainSettings
from dmdd.config.targets import build
from dmdd.core.errors import UserError
from dmdd.data.augmentation import VIEW_SEEN, VIEWS, Draw, Jitter, build_augmentation, draw_views

MIDDLE = 0.5  # a draw in the middle of its range changes nothing


def drawn(**columns: float) -> torch.Tensor:
    row = torch.full((1, len(Draw)), MIDDLE, dtype=torch.float64)
    for name, value in columns.items():
        row[0, Draw[name]] = value
    return row


def image(height: int = 16, width: int = 16) -> torch.Tensor:
    return torch.randint(256, (1, 3, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_draws_in_the_middle_change_nothing():
    given, part = image(16, 24), torch.rand(1, 1, 16, 24) < 0.5
    jitter = Jitter(
        scale=0.2, shift=0.3, rotate_degrees=90, flip_share=0.4, brightness=0.3, contrast=0.3, light_share=1
    )
    made, moved = jitter(given, part, drawn())
    assert made.dtype == torch.float32
    assert torch.allclose(made, given / 255, atol=1e-5)
    assert torch.equal(moved, part)


HIGHEST = 1 - 2**-53
MOVES = {
    "turned by a right angle": (Jitter(rotate_degrees=90), {"ANGLE": HIGHEST}, lambda x: x.rot90(1, (2, 3))),
    "mirrored": (Jitter(flip_share=0.6), {"FLIP_Y": 0.7}, lambda x: x.flip(3)),
    "mirrored and turned": (
        Jitter(flip_share=0.6, rotate_degrees=90),
        {"FLIP_Y": 0.7, "ANGLE": HIGHEST},
        lambda x: x.flip(3).rot90(1, (2, 3)),
    ),
    "shifted to the right, by whole pixels": (
        Jitter(shift=0.2),  # of 16 px: 3.2
        {"SHIFT_X": HIGHEST},
        lambda x: torch.cat([x[..., :3].flip(3), x[..., :-3]], dim=3),
    ),
    "shifted upwards": (
        Jitter(shift=0.125),
        {"SHIFT_Y": 0.0},
        lambda x: torch.cat([x[..., 2:, :], x[..., -2:, :].flip(2)], dim=2),
    ),
    "not turned": (Jitter(rotate_degrees=90, rotate_share=0.4), {"ANGLE": HIGHEST}, lambda x: x),
}


@pytest.mark.parametrize(("jitter", "columns", "expected"), MOVES.values(), ids=MOVES)
def test_moves_that_need_no_interpolation(jitter, columns, expected):
    given = image()
    part = given[:, :1] > 128
    made, moved = jitter(given, part, drawn(**columns))
    assert torch.allclose(made, expected(given) / 255, atol=2e-5)
    assert torch.equal(moved, expected(part))


def test_scaling_enlarges_about_the_middle():
    ramp = torch.arange(17, dtype=torch.uint8).expand(1, 3, 17, 17) * 10
    made, _ = Jitter(scale=0.5)(ramp, ramp[:, :1] > 0, drawn(SCALE_X=HIGHEST))
    positions = 8 + (torch.arange(17) - 8) / 1.5
    assert torch.allclose(made[0, 0, 5] * 25.5, positions, atol=1e-4)


def test_light_alone_leaves_every_pixel_in_its_place():
    given = image()
    part = given[:, :1] > 128
    jitter = Jitter(brightness=0.1, contrast=0.2, light_share=0.6)
    made, kept = jitter(given, part, drawn(BRIGHTNESS=0.0, CONTRAST=HIGHEST))
    assert torch.allclose(made, (given / 255 * 1.2 - 0.1).clamp(0, 1), atol=1e-6)
    assert kept is part
    dark, _ = jitter(given, part, drawn(BRIGHTNESS=0.0, CONTRAST=HIGHEST, LIT=0.7))
    assert torch.allclose(dark, given / 255, atol=1e-6)


def spread(values: Any) -> np.ndarray:
    """Mean, spread and extremes of where a pixel's value comes from: (4, 3)."""
    found = np.array(values, np.float64)
    return np.stack([found.mean(0), found.std(0), found.min(0), found.max(0)])


def test_the_distribution_is_that_of_albumentations():
    """Red and green say where a pixel comes from, blue how it is lit."""
    albumentations = pytest.importorskip("albumentations")
    move = {"scale": (0.95, 1.05), "translate_percent": (-0.04, 0.04), "rotate": (-10, 10), "border_mode": 2, "p": 1.0}
    light = {"brightness_limit": (-0.1, 0.1), "contrast_limit": (-0.1, 0.1), "p": 0.5}
    side, row, column, count = 64, 16, 48, 1000
    places = np.stack([*np.mgrid[:side, :side][::-1], np.full((side, side), 128)], axis=2).astype(np.uint8)
    move_only = albumentations.Compose([albumentations.Affine(**move)], seed=1)
    light_only = albumentations.Compose([albumentations.RandomBrightnessContrast(**light)], seed=1)
    moved = [move_only(image=places)["image"][row, column, :2] for _ in range(count)]
    lit = [light_only(image=places[:1, :1])["image"][0, 0, 2:] for _ in range(count)]
    expected = np.concatenate([spread(moved), spread(lit)], axis=1)
    rows = draw_views(0, images=count, views=1)
    given = torch.from_numpy(places).permute(2, 0, 1)[None].expand(100, -1, -1, -1)
    jitter = build(TrainSettings.compose("category=x", "augmentation=jitter").augmentation)
    unlit = replace(jitter, brightness=0, contrast=0)
    parts = [unlit(given, given[:, :1] > 0, some)[0][:, :2, row, column] for some in rows.split(100)]
    pixel = given[:1, :, :1, :1].expand(count, -1, -1, -1)
    plain, _ = replace(jitter, scale=0, shift=0, rotate_degrees=0)(pixel, pixel[:, :1] > 0, rows)
    found = np.concatenate([spread(255 * torch.cat(parts).numpy()), spread(255 * plain[:, 2, 0].numpy())], axis=1)
    assert (np.abs(found[0] - expected[0]) < [0.6, 0.6, 2.0]).all()  # three times what such means spread
    assert found[1] == pytest.approx(expected[1], rel=0.08)
    assert (np.abs(found[2:] - expected[2:]) < [1.5, 1.5, 4.0]).all()


def test_every_image_has_its_own_views_whatever_the_others():
    few, more = draw_views(3, images=2, views=2), draw_views(3, images=2, views=3)
    assert torch.equal(few, more[:4])
    assert len({tuple(row) for row in more.tolist()}) == 6
    assert not torch.equal(few, draw_views(4, images=2, views=2))
    assert ((more >= 0) & (more < 1)).all()


def test_as_many_views_as_keep_each_from_being_seen_too_often():
    assert Jitter(scale=0.1, shown=1200 * 8).views(49) == 17  # 196 times each image
    assert VIEW_SEEN >= 1200 * 8 / 49 / 17
    assert Jitter(scale=0.1, shown=8).views(49) == 1
    assert Jitter(scale=0.1).views(49) == VIEWS


@pytest.mark.parametrize("preset", ["often_seen", "jitter", "light", "rotate_flip", "none"])
def test_presets_need_no_albumentations(monkeypatch, preset):
    monkeypatch.setitem(sys.modules, "albumentations", None)
    made = build(TrainSettings.compose("category=x", f"augmentation={preset}").augmentation)
    assert made is None if preset == "none" else isinstance(made, Jitter)


def test_transforms_of_ones_own_take_the_place_of_the_preset():
    pytest.importorskip("albumentations")
    flip = "augmentation.transforms=[{_target_: albumentations.HorizontalFlip, p: 1.0}]"
    made = build(TrainSettings.compose("category=x", "augmentation=jitter", flip).augmentation)
    pixels = image()[0].permute(1, 2, 0).numpy()
    found = made(seed=0, image=pixels, mask=pixels[:, :, 0])
    assert np.array_equal(found["image"], pixels[:, ::-1])


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [("scale", -0.1, 0.99), ("scale", 1, 0.99), ("rotate_degrees", 181, 180), ("shift", True, 1), ("contrast", "a", 1)],
)
def test_a_jitter_out_of_range_is_refused(name, value, limit):
    with pytest.raises(UserError, match=rf"^augmentation\.{name}={value}: give a number from 0 to {limit}$"):
        build_augmentation(**{name: value})
