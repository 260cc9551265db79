"""Tiles: they cover the image, blend without seams, and a detector that copies its input gives the image back."""

import numpy as np
import pytest
import torch
from torch import nn

from dmdd.core.errors import UserError
from dmdd.data.images import write_mask
from dmdd.models.detector import Detector, DetectorOutput, Tiling
from dmdd.models.tiling import baselines_inside, detect_tiled, look, score_inside, tile_images
from tiny import save_tiny_model


class Fake(nn.Module):
    """A detector of 32x32 px whose map is a function of the tile; the score is the map's maximum."""

    input_size = (32, 32)

    def __init__(self, answer):
        super().__init__()
        self.answer, self.seen = answer, []

    def forward(self, tiles):
        self.seen.append(tiles)
        maps = self.answer(tiles)
        return DetectorOutput(maps, maps.flatten(1).amax(1))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


def copy(tiles):
    return tiles[:, :1].float() / 255


def random_images(*size: int, batch: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(32, 32), (33, 97), (100, 64), (57, 300)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6, 0.9])
def test_tiles_at_the_input_size_give_the_image_back(size, overlap):
    images = random_images(*size)
    prediction = detect_tiled(Fake(copy), images, overlap=overlap)
    assert torch.allclose(prediction.map, images[:, :1] / 255, atol=1e-6)
    assert torch.equal(prediction.score, images[:, 0].flatten(1).amax(1) / 255)


@pytest.mark.parametrize("value", [0.0, 0.1, 0.3333333, 1.0])
def test_a_constant_blends_to_exactly_that_constant(value):
    constant = Fake(lambda tiles: torch.full((len(tiles), 1, 32, 32), value))
    maps = detect_tiled(constant, random_images(70, 131)).map
    assert maps.shape == (2, 1, 70, 131)
    assert torch.equal(maps, torch.full_like(maps, value))


def test_blend_equals_a_slow_one():
    """Tiles of 32 px over 70 px: starts 0, 19 and 38, evenly spaced, at most 24 px apart."""
    values = torch.rand(3, 3, generator=torch.Generator().manual_seed(0))
    steps = Fake(lambda tiles: values.reshape(9, 1, 1, 1).expand(9, 1, 32, 32))
    maps = detect_tiled(steps, random_images(70, 70, batch=1)).map[0, 0].numpy()
    window = np.sin((np.arange(32) + 0.5) * np.pi / 32) ** 2
    total, weight = np.zeros((70, 70)), np.zeros((70, 70))
    for i, top in enumerate((0, 19, 38)):
        for j, left in enumerate((0, 19, 38)):
            total[top : top + 32, left : left + 32] += np.outer(window, window) * float(values[i, j])
            weight[top : top + 32, left : left + 32] += np.outer(window, window)
    assert np.abs(maps - total / weight).max() < 1e-6
    # No seam: the largest step between neighbours is far below the difference of the tiles.
    assert max(np.abs(np.diff(maps, axis=0)).max(), np.abs(np.diff(maps, axis=1)).max()) < 0.15 * np.ptp(values.numpy())


def test_a_small_image_is_one_tile_and_a_strip_keeps_its_long_side():
    fake = Fake(lambda tiles: torch.nn.functional.interpolate(copy(tiles), size=(32, 32)))
    assert detect_tiled(fake, random_images(20, 30)).map.shape == (2, 1, 20, 30)
    assert fake.seen[-1].shape == (2, 3, 20, 30)
    assert detect_tiled(fake, random_images(20, 200)).map.shape == (2, 1, 20, 200)
    assert fake.seen[-1].shape == (16, 3, 20, 32)  # 8 tiles an image: 1 + ceil(168 / 24)


def test_tiles_of_another_size_are_resized_to_the_input_size():
    fake = Fake(lambda tiles: torch.nn.functional.adaptive_avg_pool2d(copy(tiles), 32))
    assert detect_tiled(fake, random_images(200, 100), tile_px=64).map.shape == (2, 1, 200, 100)
    assert fake.seen[-1].shape[-2:] == (64, 64)
    assert detect_tiled(fake, random_images(200, 100), tile_px=(64, 48)).map.shape == (2, 1, 200, 100)
    assert fake.seen[-1].shape[-2:] == (64, 48)


def test_tiles_go_through_in_chunks():
    fake = Fake(copy)
    detect_tiled(fake, random_images(200, 200, batch=1))  # 8 x 8 tiles
    assert [len(tiles) for tiles in fake.seen] == [16, 16, 16, 16]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tile_px": 0}, r"tile_px=0: give a number of pixels"),
        ({"tile_px": (64,)}, r"tile_px=\(64,\): give a number of pixels"),
        ({"tile_px": "large"}, r"tile_px=large: give a number of pixels"),
        ({"overlap": 1.0}, r"overlap=1.0: give a number from 0 to 0.9"),
        ({"overlap": -0.1}, r"overlap=-0.1: give a number from 0 to 0.9"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(UserError, match=message):
        detect_tiled(Fake(copy), random_images(40, 40), **arguments)


def test_several_maps_are_joined_as_detect_tiled_joins_one(tiny):
    detector = Detector.load(tiny)
    detector.anomaly_map, detector.score_map = "fused", "geometric"
    images, tiling = random_images(150, 100, batch=2), Tiling((80, 80), 0.25)
    with torch.no_grad():
        expected = detect_tiled(detector, images, tile_px=80)
        seen = look(detector, images, only=("fused", "geometric"), tiling=tiling)
        tiles = tile_images(images, tiling)
        raw = detector.raw_maps(tiles, only=("geometric",))["geometric"]
        whole = look(detector, images, only=("fused", "geometric"))
    assert torch.allclose(seen.maps["fused"], expected.map, atol=1e-6)
    assert torch.allclose(seen.scores["geometric"], expected.score, atol=1e-6)
    assert seen.tile_scores.shape == (2, 6)
    assert torch.allclose(seen.tile_baselines.flatten(), raw.mean((1, 2, 3)), atol=1e-6)
    assert torch.equal(whole.maps["fused"], detector(images).map)
    assert torch.equal(whole.scores["geometric"], detector(images).score)


def test_tiles_are_part_of_a_saved_model(tiny, tmp_path):
    detector = Detector.load(tiny)
    assert "tiling" not in detector.spec
    detector.tiling = Tiling((80, 96), 0.5)
    detector.save(tmp_path)
    assert Detector.load(tmp_path).tiling == Tiling((80, 96), 0.5)
    for wrong in ({"tile_px": [0, 96], "overlap": 0.5}, {"tile_px": [80, 96], "overlap": 2}, [80]):
        with pytest.raises(UserError, match=r"detector.json: tiling"):
            Detector.from_spec(detector.spec | {"tiling": wrong})


@pytest.mark.parametrize("tiling", [None, Tiling((80, 80), 0.25)])
def test_nothing_outside_a_region_is_seen(tiny, tiling):
    detector = Detector.load(tiny)
    detector.anomaly_map, detector.score_map = "fused", "geometric"
    detector.normal_baselines = {"geometric": (0.01, 0.3)}
    images = random_images(150, 100, batch=1)
    inside = torch.zeros(1, 1, 150, 100, dtype=torch.bool)
    inside[..., 30:130, 20:90] = True
    # What the resize mixes with the border of the region is seen; 8 px further out nothing is.
    near = torch.nn.functional.max_pool2d(inside.float(), 17, 1, 8).bool()
    other = torch.where(near, images, 255 - images)
    with torch.no_grad():
        first, second = (
            look(detector, given, only=("fused", "geometric"), tiling=tiling, inside=inside)
            for given in (images, other)
        )
        whole = look(detector, images, only=("fused", "geometric"), tiling=tiling)
    assert torch.equal(first.maps["fused"], second.maps["fused"])
    assert torch.equal(first.scores["geometric"], second.scores["geometric"])
    assert not torch.equal(first.scores["geometric"], whole.scores["geometric"])


def test_a_score_is_of_the_pixels_inside(tiny):
    detector = Detector.load(tiny)
    detector.score_fraction, detector.baseline_power, detector.normal_baselines = 0.25, 0.5, {"geometric": (0.01, 1.0)}
    raw = torch.arange(16 * 24, dtype=torch.float32).view(1, 1, 16, 24) / 400
    inside = torch.zeros(1, 1, 64, 96, dtype=torch.bool)
    inside[..., :8, :16] = True  # two rows of four pixels
    kept = [row * 24 + column for row in range(2) for column in range(4)]
    top, level = (kept[-1] + kept[-2]) / 2 / 400, sum(kept) / 8 / 400
    contrast = top / level**0.5
    assert float(score_inside(detector, "geometric", raw, inside)) == pytest.approx(contrast / (1 + contrast), abs=1e-6)
    assert float(baselines_inside(raw, inside)) == pytest.approx(level, abs=1e-7)
    assert float(score_inside(detector, "geometric", raw, torch.zeros_like(inside))) == 0
    assert torch.equal(score_inside(detector, "geometric", raw, None), detector.image_score("geometric", raw))
    detector.score_smoothed = True
    with pytest.raises(UserError, match=r"needs a score of the raw map: detector.score_smoothed=false"):
        score_inside(detector, "geometric", raw, inside)


def test_a_region_is_part_of_a_saved_model(tiny, tmp_path):
    detector = Detector.load(tiny)
    detector.region = torch.zeros(20, 30, dtype=torch.bool)
    detector.region[5:9] = True
    detector.save(tmp_path)
    assert torch.equal(Detector.load(tmp_path).region, detector.region)
    write_mask(tmp_path / "region.png", np.ones((30, 30), bool))
    with pytest.raises(UserError, match=r"region.png is 30 x 30 px but its image is 30 x 20 px"):
        Detector.load(tmp_path)
    (tmp_path / "region.png").unlink()
    with pytest.raises(UserError, match=r"no such image file: .*region.png"):
        Detector.load(tmp_path)
    with pytest.raises(UserError, match=r"detector.json: region=\[0, 3\]"):
        Detector.from_spec(detector.spec | {"region": [0, 3]})
