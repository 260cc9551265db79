"""The detector: maps in range, one preprocessing, saving and loading without a pickle."""

import json
import re

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from dmdd.core.errors import UserError
from dmdd.core.resize import resize_images, resize_masks
from dmdd.experiment.measure import choose_maps
from dmdd.models.detector import (
    MAP_NAMES,
    Detector,
    check_input_size,
    combine,
    fuse,
    gaussian_blur,
    geometric_distance,
    joint_distance,
    level_distances,
    mean_distance,
    whitened_distance,
)
from dmdd.models.segmentation import SegmentationNetwork
from dmdd.models.student import Student
from dmdd.models.teacher import Teacher
from dmdd.models.whitening import describe_images, grain


def make(**changes) -> Detector:
    torch.manual_seed(0)
    teacher = Teacher(backbone="resnet10t")
    settings = {
        "teacher": teacher,
        "student": Student(channels=teacher.channels, widths=(8, 12, 16)),
        "segmentation": SegmentationNetwork(channels=teacher.channels, width=8),
        "input_size": (64, 96),
        "sigma_px": 2.0,
    }
    return Detector(**(settings | changes)).eval()


@pytest.fixture(scope="module")
def detector() -> Detector:
    return make()


IMAGES = torch.randint(0, 256, (3, 3, 80, 100), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_map_and_score_have_shapes_and_ranges(detector):
    with torch.no_grad():
        maps, score = detector(IMAGES)
    assert maps.shape == (3, 1, 64, 96)
    assert score.shape == (3,)
    assert maps.dtype == score.dtype == torch.float32
    assert maps.min() >= 0
    assert maps.max() <= 1
    assert score.min() >= 0
    assert score.max() <= 1


def test_all_maps_are_in_range_and_both_is_their_mean(detector):
    with torch.no_grad():
        maps = detector.maps(IMAGES)
    assert tuple(maps) == MAP_NAMES
    assert all(m.min() >= 0 and m.max() <= 1 for m in maps.values())
    assert torch.allclose(maps["both"], (maps["normality"] + maps["abnormality"]) / 2, atol=1e-6)


def test_uint8_and_float_images_give_the_same(detector):
    with torch.no_grad():
        assert torch.equal(detector(IMAGES).map, detector(IMAGES.float() / 255).map)


def test_an_image_resized_beforehand_gives_the_same_to_the_bit(detector):
    with torch.no_grad():
        assert torch.equal(detector(IMAGES).map, detector(resize_images(IMAGES, (64, 96))).map)


def test_an_image_scores_the_same_alone_and_in_a_batch(detector):
    with torch.no_grad():
        whole, alone = detector(IMAGES).score, torch.cat([detector(image[None]).score for image in IMAGES])
    assert torch.allclose(whole, alone, atol=1e-5)


def test_score_is_the_mean_of_the_largest_values():
    maps = torch.arange(100.0).reshape(1, 1, 10, 10) / 100
    assert make(score_fraction=0.03).image_score("fused", maps).item() == pytest.approx((0.99 + 0.98 + 0.97) / 3)
    assert make(score_fraction=0.0).image_score("fused", maps).item() == pytest.approx(0.99)


def test_score_is_set_against_the_level_of_the_image_within_that_of_normal_images():
    # One value of 0.9 among zeros and one among ones; levels 0.09 and, above what normal images have, 0.99.
    maps = torch.stack([torch.zeros(1, 10), torch.ones(1, 10)]).reshape(2, 1, 2, 5)
    maps[:, 0, 0, 0] = 0.9
    detector = make(score_fraction=0.0, baseline_power=0.5)
    detector.normal_baselines = {"normality": (0.04, 0.25)}
    first, second = 0.9 / 0.3, 1 / 0.5
    expected = torch.tensor([first / (1 + first), second / (1 + second)])
    assert torch.allclose(detector.image_score("normality", maps), expected)
    assert torch.allclose(detector.image_score("fused", maps), torch.tensor([0.9, 1.0]))  # no levels of this map
    detector.baseline_power = 0.0
    assert torch.allclose(detector.image_score("normality", maps), torch.tensor([0.9, 1.0]))


def test_levels_of_normal_images_are_the_range_of_their_means(detector):
    detector = make()
    detector.learn_baselines(IMAGES, batch_size=2)
    with torch.no_grad():
        raw = detector.raw_maps(IMAGES)
    assert set(detector.normal_baselines) == set(MAP_NAMES)
    for name, (least, largest) in detector.normal_baselines.items():
        means = raw[name].mean((1, 2, 3))
        assert (least, largest) == pytest.approx((float(means.min()), float(means.max())), abs=1e-6)
        assert least < largest
    detector.learn_baselines(IMAGES[:0], batch_size=2)
    assert detector.normal_baselines == {}


def test_score_can_be_read_from_another_map():
    detector = make(score_map="abnormality", score_fraction=0.0)
    with torch.no_grad():
        assert torch.equal(detector(IMAGES).score, detector.raw_maps(IMAGES)["abnormality"].flatten(1).amax(1))
        detector.score_smoothed = True
        assert torch.equal(detector(IMAGES).score, detector.maps(IMAGES)["abnormality"].flatten(1).amax(1))


def test_distances_of_known_features():
    east, west = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1), torch.tensor([-1.0, 0.0]).view(1, 2, 1, 1)
    levels = [east.expand(1, 2, 4, 4), east.expand(1, 2, 2, 2)]
    same = mean_distance(level_distances(levels, levels))
    opposite = mean_distance(level_distances(levels, [levels[0], -levels[1]]))
    assert torch.allclose(same, torch.zeros(1, 1, 4, 4), atol=1e-6)
    assert torch.allclose(opposite, torch.full((1, 1, 4, 4), 0.5), atol=1e-6)
    assert torch.allclose(mean_distance(level_distances([west], [east])), torch.ones(1, 1, 1, 1), atol=1e-6)


def test_fused_map_of_known_features():
    segmented = torch.full((1, 1, 4, 4), 0.25)
    # D / 2 is 1/2 at one level and 1 at the other: G^2 = 1/2, and (1/4 * 1/2)^(1/3) = 1/2
    geometric = geometric_distance([torch.ones(1, 1, 4, 4), torch.full((1, 1, 2, 2), 2.0)])
    assert torch.allclose(geometric**2, torch.full((1, 1, 4, 4), 0.5), atol=1e-6)
    assert torch.allclose(fuse(segmented, geometric), torch.full((1, 1, 4, 4), 0.5), atol=1e-6)
    same = fuse(segmented, geometric_distance([torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 2, 2)]))
    assert torch.isfinite(same).all()
    assert same.amax() < 1e-3
    opposite = geometric_distance([torch.full((1, 1, 4, 4), 2.0)])
    assert torch.allclose(fuse(torch.ones(1, 1, 4, 4), opposite), torch.ones(1), atol=1e-6)


def test_maps_of_whitened_residuals_of_known_distances():
    # Shares of 32: 1/2 and 1/8, so W = (1/2 * 1/8)^(1/2) = 1/4.
    whitened = whitened_distance([torch.full((1, 1, 4, 4), 16.0), torch.full((1, 1, 2, 2), 4.0)])
    assert torch.allclose(whitened, torch.full((1, 1, 4, 4), 0.25), atol=1e-6)
    # J = (1/2 * 1/16)^(1/3) = 32^(-1/3), J^6 = 1/1024, and (1/8 * 1/1024)^(1/7) = 2^(-13/7)
    joint = joint_distance(torch.full((1, 1, 4, 4), 0.5), whitened)
    assert torch.allclose(joint**3, torch.full((1, 1, 4, 4), 1 / 32), atol=1e-6)
    combined = combine(torch.full((1, 1, 4, 4), 0.125), joint)
    assert torch.allclose(combined, torch.full((1, 1, 4, 4), 2 ** (-13 / 7)), atol=1e-6)
    far = whitened_distance([torch.full((1, 1, 4, 4), 1e6)])
    none = whitened_distance([torch.zeros(1, 1, 4, 4)])
    for distance in (far, none):
        found = combine(torch.zeros(1, 1, 4, 4), joint_distance(torch.full((1, 1, 4, 4), 1e-6), distance))
        assert torch.isfinite(found).all()
    assert torch.equal(far, torch.ones(1, 1, 4, 4))


def test_a_model_without_whitened_residuals_has_the_maps_of_its_time():
    detector = make(anomaly_map="fused", score_map="geometric", whitened=False)
    with torch.no_grad():
        assert tuple(detector.maps(IMAGES)) == MAP_NAMES[5:]
    with pytest.raises(UserError, match=r"anomaly_map=combined: choose one of fused, segmentation, geometric"):
        choose_maps(detector, anomaly_map="combined", score_map=None)
    network = SegmentationNetwork(channels=detector.teacher.channels, width=8, inputs="whitened")
    with pytest.raises(UserError, match=r"segmentation.inputs=whitened needs whitened residuals; use .*=products"):
        make(anomaly_map="fused", score_map="geometric", whitened=False, segmentation=network)


def test_relative_is_combined_against_the_grain_of_the_image():
    detector = make()
    with torch.no_grad():
        assert torch.equal(*(detector.raw_maps(IMAGES)[name] for name in ("relative", "combined")))  # none known yet
        detector.whitening.normal_grain.copy_(torch.tensor([0.1, 2.0]))
        found = detector.raw_maps(IMAGES, only=("relative", "combined"))
        features = detector.teacher(detector.preprocess(IMAGES))
        normality, _ = detector.student(detector.preprocess(IMAGES), features)
        factor = 0.1 / grain(level_distances(normality, features)[0])
    assert torch.allclose(found["relative"], found["combined"] * factor.view(-1, 1, 1, 1), atol=1e-6)
    assert factor.max() < 0.9


def test_overall_is_distance_weighted_by_how_unusual_the_image_is():
    detector = make()
    detector.whitening.image_mean.normal_(0, 0.1)
    detector.whitening.image_matrix.mul_(5)
    with torch.no_grad():
        found = detector.raw_maps(IMAGES, only=("overall", "distance"))
        described = describe_images(detector.teacher(detector.preprocess(IMAGES))[-1])
    unusual = (5 * (described - detector.whitening.image_mean)).square().mean(1).sqrt()
    assert torch.allclose(found["overall"], found["distance"] * (unusual / 8).sqrt().view(-1, 1, 1, 1), atol=1e-6)


def test_a_model_that_knows_no_images_as_a_whole_has_the_maps_of_its_time(tmp_path):
    with pytest.raises(UserError, match=r"anomaly_map=relative: choose one of combined, distance, whitened"):
        make(with_images=False, score_map="distance")
    detector = make(anomaly_map="combined", score_map="distance", with_images=False)
    assert detector.map_names == MAP_NAMES[2:]
    detector.save(tmp_path)
    loaded = Detector.load(tmp_path)  # in today's format
    assert loaded.map_names == MAP_NAMES[2:]


def test_levels_that_disagree_count_less_in_the_geometric_mean(detector):
    one, all_of_them = ([torch.full((1, 1, 4, 4), d) for d in levels] for levels in ((1.8, 0.2, 0.2), (0.7, 0.7, 0.7)))
    assert mean_distance(one).amax() > mean_distance(all_of_them).amin()
    assert geometric_distance(one).amax() < geometric_distance(all_of_them).amin()
    with torch.no_grad():
        maps = detector.raw_maps(IMAGES)
    assert (maps["geometric"] <= maps["normality"] + 1e-6).all()
    assert torch.allclose(maps["fused"] ** 3, maps["segmentation"] * maps["geometric"] ** 2, atol=1e-6)


def test_a_map_whose_levels_a_model_does_not_know_is_scored_with_a_warning(capsys):
    detector = make(score_map="normality")
    detector.learn_baselines(IMAGES, batch_size=2)
    choose_maps(detector, anomaly_map=None, score_map="geometric")
    assert capsys.readouterr().err == ""
    del detector.normal_baselines["geometric"]
    choose_maps(detector, anomaly_map=None, score_map=None)
    assert capsys.readouterr().err.startswith("warning: the model is older than the map geometric: its score leaves")
    with torch.no_grad():
        maps = detector.raw_maps(IMAGES, only=["geometric"])["geometric"]
        assert torch.equal(detector(IMAGES).score, maps.flatten(1).topk(4, dim=1).values.mean(1))


def test_a_model_of_format_1_keeps_its_maps(tmp_path):
    detector = make(anomaly_map="segmentation", score_map="normality", whitened=False)
    detector.save(tmp_path)
    spec = json.loads((tmp_path / "detector.json").read_text())
    del spec["anomaly_map"]
    del spec["teacher"]["folded"]
    (tmp_path / "detector.json").write_text(json.dumps(spec | {"format_version": 1}))
    loaded = Detector.load(tmp_path)
    assert (loaded.anomaly_map, loaded.score_map) == ("segmentation", "normality")
    with torch.no_grad():
        assert torch.allclose(loaded(IMAGES).map, detector(IMAGES).map, atol=1e-6)


def test_a_model_of_format_2_keeps_its_teacher(tmp_path):
    detector = make(anomaly_map="fused", score_map="geometric", whitened=False)
    detector.save(tmp_path)
    spec = json.loads((tmp_path / "detector.json").read_text())
    del spec["teacher"]["folded"]
    (tmp_path / "detector.json").write_text(json.dumps(spec | {"format_version": 2}))
    with torch.no_grad():
        assert torch.allclose(Detector.load(tmp_path)(IMAGES).map, detector(IMAGES).map, atol=1e-6)


def test_a_folded_teacher_is_saved_as_such(tmp_path):
    detector = make()
    detector.teacher.fold()
    detector.save(tmp_path)
    loaded = Detector.load(tmp_path)
    assert loaded.spec == detector.spec
    with torch.no_grad():
        assert torch.allclose(loaded(IMAGES).map, detector(IMAGES).map, atol=1e-6)


def test_gaussian_blur_equals_scipys():
    maps = torch.rand(2, 1, 40, 50, generator=torch.Generator().manual_seed(0))
    ours = gaussian_blur(maps, 3.0)
    for mine, given in zip(ours[:, 0], maps[:, 0], strict=True):
        expected = gaussian_filter(given.numpy().astype(np.float64), 3.0, mode="mirror", truncate=4.0)
        assert np.abs(mine.numpy() - expected).max() < 1e-6
    assert gaussian_blur(maps, 0.0) is maps


def test_resize_rounds_to_whole_grey_values():
    assert resize_images(IMAGES, (64, 96)).dtype == torch.uint8
    assert resize_images(IMAGES, (80, 100)) is IMAGES
    halved = resize_images(torch.tensor([[10, 20], [30, 40]], dtype=torch.uint8).expand(1, 3, 2, 2), (1, 1))
    assert halved.flatten().tolist() == [25, 25, 25]


def test_resized_masks_stay_masks():
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[..., :2] = True
    assert resize_masks(mask, (2, 2))[0, 0].tolist() == [[True, False], [True, False]]


def test_saved_and_loaded_detector_is_the_same(tmp_path):
    detector = make(score_map="both", score_fraction=0.01).to(memory_format=torch.channels_last)
    detector.calibration = {"image_threshold": 0.25, "pixel_threshold": 0.5}
    detector.learn_baselines(IMAGES, batch_size=2)
    detector.save(tmp_path / "model")
    assert sorted(file.name for file in (tmp_path / "model").iterdir()) == ["detector.json", "weights.safetensors"]
    loaded = Detector.load(tmp_path / "model")
    assert loaded.spec == detector.spec
    with torch.no_grad():
        for first, second in zip(detector(IMAGES), loaded(IMAGES), strict=True):
            assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_size": (60, 64)}, r"image_size=60x64: both sides must be multiples of 32, at least 64"),
        ({"sigma_px": -1}, r"sigma_px=-1: give a number of pixels, at least 0"),
        ({"baseline_power": 1.5}, r"baseline_power=1.5: give a number from 0 to 1"),
        ({"score_fraction": 2}, r"score_fraction=2: give a number from 0 to 1"),
        ({"score_map": "best"}, r"score_map=best: choose one of relative, overall, combined, distance, whitened"),
        ({"anomaly_map": "best"}, r"anomaly_map=best: choose one of relative, overall"),
        ({"whitened": False}, r"anomaly_map=relative: choose one of fused, segmentation"),
    ],
)
def test_arguments_out_of_range(changes, message):
    with pytest.raises(UserError, match=message):
        make(**changes)


def test_damaged_models_are_told_apart(tmp_path):
    with pytest.raises(UserError, match=r"no detector.json in .*; give the model folder of a finished run"):
        Detector.load(tmp_path)
    folder = tmp_path / "model"
    detector = make()
    detector.save(folder)
    with pytest.raises(UserError, match=re.escape(f"no detector.json in {tmp_path}; give {folder}")):
        Detector.load(tmp_path)
    spec_file, weights_file = folder / "detector.json", folder / "weights.safetensors"
    spec, weights = json.loads(spec_file.read_text()), weights_file.read_bytes()
    for text, message in [
        ("{", r"is damaged"),
        ("[]", r"does not describe a detector: it is not a JSON object"),
        (json.dumps(spec | {"format_version": 99}), r"format version 99, this dmdd reads up to version 6"),
        (json.dumps({k: v for k, v in spec.items() if k != "student"}), r"does not describe a detector: 'student'"),
        (json.dumps(spec | {"student": {"body": "reverse", "widths": [8, 12, 20]}}), r"does not fit detector.json"),
    ]:
        spec_file.write_text(text)
        with pytest.raises(UserError, match=message):
            Detector.load(folder)
    spec_file.write_text(json.dumps(spec))
    weights_file.write_bytes(weights[: len(weights) // 2])
    with pytest.raises(UserError, match="is damaged"):
        Detector.load(folder)


def test_maps_are_smoothed_in_float32_where_networks_are_not():
    maps = torch.rand(2, 1, 24, 32, generator=torch.Generator().manual_seed(0))
    expected = gaussian_blur(maps, 2.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gaussian_blur(maps, 2.0)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize("size", [64, (64,), ("a", "b"), None])
def test_a_size_that_is_no_pair_of_numbers_is_refused(size):
    with pytest.raises(UserError, match=r"image_size=.*: give height and width, as in image_size=\[256,256\]"):
        check_input_size(size)
