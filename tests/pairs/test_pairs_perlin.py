import math

import pytest
import torch

from dmdd.pairs.perlin import perlin_field, rotate_field
from dmdd.pairs.window import Window
from reference import perlin as reference


def whole(batch: int, height: int, width: int) -> Window:
    return Window.whole(torch.zeros(batch, height, width))


def test_field_equals_the_per_pixel_reference():
    keys = torch.tensor([1, 0xDEADBEEF, 2**32 - 1])
    scales = torch.tensor([[1.0, 32.0], [4.0, 8.0], [5.5, 2.25]])
    fields = perlin_field(keys, scales, whole(3, 24, 40))
    for key, scale, field in zip(keys.tolist(), scales.tolist(), fields, strict=True):
        expected = torch.tensor(reference.field(key, tuple(scale), 24, 40))
        torch.testing.assert_close(field, expected, atol=5e-6, rtol=0)


def test_field_does_not_depend_on_the_padding_of_the_lattice():
    keys, scales = torch.tensor([9]), torch.tensor([[3.0, 7.0]])
    narrow = perlin_field(keys, scales, whole(1, 32, 32), lattice=8)
    torch.testing.assert_close(perlin_field(keys, scales, whole(1, 32, 32), lattice=65), narrow, atol=1e-6, rtol=0)


def test_field_in_a_window_is_the_cut_out_field():
    keys, scales = torch.tensor([1, 2]), torch.tensor([[3.0, 7.0], [16.0, 2.0]])
    field = perlin_field(keys, scales, whole(2, 48, 64))
    window = whole(2, 48, 64).around(torch.tensor([[20.0, 30.0], [47.0, 0.0]]), 16)
    cut = perlin_field(keys, scales, window)
    assert window.origin.tolist() == [[12, 22], [32, 0]]
    torch.testing.assert_close(cut[0], field[0, 12:28, 22:38], atol=5e-6, rtol=0)
    torch.testing.assert_close(cut[1], field[1, 32:48, :16], atol=5e-6, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(256, 320), (320, 256), (128, 224)])
def test_field_in_any_window_of_an_oblong_image_is_the_cut_out_field(height, width):
    keys, scales = torch.tensor([5]), torch.tensor([[32.0, 32.0]])
    field = perlin_field(keys, scales, whole(1, height, width))
    for left in range(0, width - 64, 7):
        window = Window(torch.tensor([[3.0, left]]), (64, 64), (height, width))
        cut = perlin_field(keys, scales, window)
        torch.testing.assert_close(cut[0], field[0, 3:67, left : left + 64], atol=1e-4, rtol=0)


@pytest.mark.parametrize("quarter_turns", [0, 1, 2, -1])
def test_rotation_by_quarter_turns(quarter_turns):
    field = torch.rand(1, 16, 16)
    turned = rotate_field(field, torch.tensor([quarter_turns * math.pi / 2]))
    torch.testing.assert_close(turned, torch.rot90(field, quarter_turns, (1, 2)), atol=1e-5, rtol=0)


def test_rotation_keeps_pixels_square():
    # A disc in the middle of an image that is not square stays a disc.
    down, across = torch.meshgrid(torch.arange(32) - 15.5, torch.arange(64) - 31.5, indexing="ij")
    cone = (10 - torch.hypot(down, across)).clamp(min=0)[None]
    turned = rotate_field(cone, torch.tensor([0.7]))
    assert (turned - cone)[:, 6:26, 20:44].abs().max() < 0.3
