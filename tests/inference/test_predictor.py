"""dmdd.load and what it takes."""

import dataclasses
import io
import json
import threading

import numpy as np
import pytest
import torch
from PIL import Image

import dmdd
from dmdd.core.drawing import CAPTION_PX
from dmdd.core.errors import UserError
from dmdd.inference.conversion import as_tensor
from dmdd.models.detector import Detector
from dmdd.models.tiling import detect_tiled
from tiny import save_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    calibration = {"image_threshold": 0.03, "pixel_threshold": 0.02}
    return save_tiny_model(tmp_path_factory.mktemp("run") / "model", calibration=calibration)


@pytest.fixture(scope="module")
def predictor(model):
    return dmdd.load(model, device="cpu")


PIXELS = np.random.default_rng(0).integers(0, 256, (70, 50, 3), np.uint8)


def test_every_kind_of_the_same_image_gives_the_same(predictor, tmp_path):
    file = tmp_path / "a picture ü.png"
    Image.fromarray(PIXELS).save(file)
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    with_alpha = np.concatenate([PIXELS, np.zeros_like(PIXELS[..., :1])], axis=2)
    deep = PIXELS.astype(np.uint16) * 257
    kinds = [file, str(file), Image.fromarray(PIXELS), PIXELS, with_alpha, deep, tensor, tensor.float() / 255]
    detections = [predictor(kind) for kind in [*kinds, Image.fromarray(with_alpha)]]
    assert len({detection.score for detection in detections}) == 1
    assert all(np.array_equal(detection.map, detections[0].map) for detection in detections)


def test_an_opened_image_is_read_like_its_file_and_its_array(predictor, tmp_path):
    pixels = (np.arange(70 * 50, dtype=np.uint16) * 18).reshape(70, 50)
    deep = tmp_path / "deep.png"
    Image.fromarray(pixels).save(deep)
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    Image.fromarray(PIXELS).save(turned, exif=exif)
    for file, size in ((deep, (70, 50)), (turned, (50, 70))):
        with Image.open(file) as opened:
            assert np.array_equal(as_tensor(opened).numpy(), as_tensor(file).numpy())
        assert as_tensor(file).shape[1:] == size
    assert torch.equal(as_tensor(pixels), as_tensor(deep))
    assert as_tensor(pixels)[:, -1, -1].tolist() == [round(int(pixels[-1, -1]) * 255 / 65535)] * 3


def test_detection_is_at_the_images_own_size_and_follows_the_thresholds(predictor):
    detection = predictor(PIXELS)
    assert detection.map.shape == detection.mask.shape == (70, 50)
    assert detection.map.dtype == np.float32
    assert detection.label == (detection.score >= 0.03)
    assert np.array_equal(detection.mask, detection.map >= 0.02)


def test_the_mask_loses_what_blur_adds_and_old_models_lose_nothing(model):
    detector = Detector.load(model)
    detector.calibration = {"image_threshold": 0.5, "pixel_threshold": 0.25}
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(96), indexing="ij")
    heat = torch.exp(-((rows - 32) ** 2 + (columns - 48) ** 2) / 200)  # above 0.25 on a circle of 871 pixels
    old = dmdd.Predictor(detector).finish(heat, 0.5, (64, 96))
    assert (old.spot_area_px, old.mask.sum()) == (0, (heat >= 0.25).sum())
    detector.calibration["spot_area_px"] = 201
    new = dmdd.Predictor(detector).finish(heat, 0.5, (64, 96))
    assert new.spot_area_px == 201
    assert int(old.mask.sum()) - 201 <= new.mask.sum() < int(old.mask.sum()) - 190
    assert dmdd.Predictor(detector).finish(heat, 0.5, (128, 192)).spot_area_px == 4 * 201
    tiles = dmdd.Predictor(detector, tile=True, tile_px=128).finish(heat, 0.5, (256, 256))
    assert tiles.spot_area_px == pytest.approx(201 * 128 * 128 / (64 * 96))


def test_thresholds_belong_to_the_inspector_not_to_the_model(model, predictor):
    score = predictor(PIXELS).score
    own = dmdd.load(model, image_threshold=score, pixel_threshold=1.0, device="cpu")
    assert (own.image_threshold, own.pixel_threshold) == (score, 1.0)
    assert own(PIXELS).label is True  # at the threshold is anomalous
    assert not own(PIXELS).mask.any()
    own.image_threshold = np.nextafter(score, 1)
    assert own(PIXELS).label is False
    assert own.detector.calibration == {"image_threshold": 0.03, "pixel_threshold": 0.02}
    assert (predictor.image_threshold, predictor.pixel_threshold) == (0.03, 0.02)


def test_a_threshold_edited_in_detector_json_counts(tmp_path):
    folder = save_tiny_model(tmp_path / "model")
    file = folder / "detector.json"
    spec = json.loads(file.read_text())
    spec["calibration"]["image_threshold"] = 0.125
    file.write_text(json.dumps(spec))
    assert dmdd.load(folder, device="cpu").image_threshold == 0.125
    spec["calibration"]["image_threshold"] = "a lot"
    file.write_text(json.dumps(spec))
    with pytest.raises(UserError, match=r"image_threshold=a lot in detector.json: give a number from 0 to 1"):
        dmdd.load(folder, device="cpu")


@pytest.mark.parametrize(("group", "name"), [("calibration", "image_treshold"), (None, "sigma")])
def test_an_entry_of_detector_json_that_there_is_not_is_told(tmp_path, group, name):
    folder = save_tiny_model(tmp_path / "model")
    file = folder / "detector.json"
    spec = json.loads(file.read_text())
    (spec[group] if group else spec)[name] = 0.125
    file.write_text(json.dumps(spec))
    shown = f"{group}.{name}" if group else name
    with pytest.raises(UserError, match=rf"detector.json: {shown}=0.125: there are .* only"):
        dmdd.load(folder, device="cpu")


def test_a_model_for_several_categories_decides_by_the_one_that_is_named(tmp_path):
    folder = save_tiny_model(tmp_path / "model", calibration={"image_threshold": 0.25})
    detector = Detector.load(folder)
    detector.category_calibrations = {"lid": {"image_threshold": 0.125}, "rod": {"image_threshold": 0.5}}
    detector.save(folder)
    found = {name: dmdd.load(folder, device="cpu", category=name).image_threshold for name in (None, "lid", "rod")}
    assert found == {None: 0.25, "lid": 0.125, "rod": 0.5}
    with pytest.raises(UserError, match="category=nut: the model is for lid, rod"):
        dmdd.load(folder, device="cpu", category="nut")


def test_a_model_for_one_category_takes_no_name_of_another(model):
    with pytest.raises(UserError, match="category=nut: the model is for one category; leave category= out"):
        dmdd.load(model, device="cpu", category="nut")


def test_kinds_of_normal_images_are_saved(tmp_path):
    folder = save_tiny_model(tmp_path / "model", image_kinds=3)
    detector = Detector.load(folder)
    assert detector.whitening.image_mean.shape == (3, 2 * detector.teacher.channels[-1])
    assert Detector.load(save_tiny_model(tmp_path / "one")).whitening.image_mean.ndim == 1


def test_a_model_without_thresholds_gives_no_verdict(tmp_path):
    plain = dmdd.load(save_tiny_model(tmp_path / "model", calibration={}), device="cpu")
    assert (plain(PIXELS).label, plain(PIXELS).mask) == (None, None)


def test_a_list_of_many_sizes_gives_what_each_gives_alone(predictor):
    sizes = [(300, 500), (32, 32), (64, 96), (3000, 4000), (70, 50), (1, 1)]
    images = [np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8) for i, size in enumerate(sizes)]
    many = predictor(images, batch_size=2)
    assert [detection.map.shape for detection in many] == sizes
    for detection, image in zip(many, images, strict=True):
        assert detection.score == pytest.approx(predictor(image).score, abs=1e-6)
    assert predictor([]) == []


def test_folders_iterators_and_stacks_are_many_images(predictor, tmp_path):
    images = np.random.default_rng(3).integers(0, 256, (3, 40, 40, 3), np.uint8)
    for place, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{place}.png")
    (tmp_path / "notes.txt").write_text("no image")
    expected = [detection.score for detection in predictor(list(images))]
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    for many in (tmp_path, str(tmp_path), sorted(tmp_path.glob("*.png")), (image for image in images), images, tensor):
        assert [detection.score for detection in predictor(many)] == expected


def test_inspect_takes_no_more_than_a_batch_at_a_time(predictor):
    taken = []
    detections = predictor.inspect((taken.append(i) or PIXELS for i in range(10)), batch_size=3)
    next(detections)
    assert taken == [0, 1, 2]
    with pytest.raises(UserError, match="batch_size=0: give a positive whole number"):
        next(predictor.inspect([PIXELS], batch_size=0))


def test_grey_is_the_same_as_grey_in_rgb(predictor):
    grey = PIXELS[..., 0]
    scores = [predictor(image).score for image in (grey, grey[..., None], np.repeat(grey[..., None], 3, 2))]
    assert scores[0] == scores[1] == scores[2]


def test_eight_threads_get_the_same_answers(predictor):
    images = [np.random.default_rng(i).integers(0, 256, (90, 70, 3), np.uint8) for i in range(4)]
    expected = [predictor(image) for image in images]
    answers, barrier = [[] for _ in range(8)], threading.Barrier(8)

    def work(place: int) -> None:
        barrier.wait()
        answers[place] = [predictor(image) for image in images]

    threads = [threading.Thread(target=work, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for found in answers:
        for detection, wanted in zip(found, expected, strict=True):
            assert detection.score == wanted.score
            assert np.array_equal(detection.map, wanted.map)


def test_tiles_give_the_tiled_map_at_the_images_size(model):
    tiled = dmdd.load(model, device="cpu", tile=True, tile_px=48, overlap=0.5)
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    with torch.no_grad():
        expected = detect_tiled(Detector.load(model), tensor[None], tile_px=48, overlap=0.5)
    for image in (PIXELS, tensor.float() / 255):
        found = tiled(image)
        assert found.score == expected.score.item()
        assert np.array_equal(found.map, expected.map[0, 0].numpy())
    sizes = [detection.map.shape for detection in tiled([PIXELS, PIXELS[:40, :30]])]
    assert sizes == [(70, 50), (40, 30)]


def test_bfloat16_is_near_float32(model, predictor):
    rough = dmdd.load(model, device="cpu", precision="bfloat16")(PIXELS)
    assert rough.map.dtype == np.float32
    assert rough.score == pytest.approx(predictor(PIXELS).score, abs=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "warp"}, r"device=warp is not on this machine; device=cpu is"),
        ({"device": "cuda:99"}, r"device=cuda:99 is not on this machine"),
        ({"precision": "fp8"}, r"precision=fp8: choose one of float32, bfloat16, float16"),
        ({"device": "cpu", "precision": "float16"}, r"precision=float16 needs a GPU"),
        ({"image_threshold": 1.5}, r"image_threshold=1.5: give a number from 0 to 1"),
        ({"pixel_threshold": "high"}, r"pixel_threshold=high: give a number from 0 to 1"),
        ({"overlap": "much"}, r"overlap=much: give a number from 0 to 0.9"),
    ],
)
def test_settings_that_cannot_be(model, settings, message):
    with pytest.raises(UserError, match=message):
        dmdd.load(model, **settings)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (PIXELS.astype(np.float32), r"a numpy image must be uint8 or uint16 .*got float32"),
        (np.zeros((4, 4, 5), np.uint8), r"a numpy image must be uint8 or uint16 .*got uint8 \(4, 4, 5\)"),
        (np.zeros((0, 4, 3), np.uint8), r"an image must have pixels, got \(0, 4, 3\)"),
        (torch.zeros(3, 4, 0), r"an image must have pixels, got \(3, 4, 0\)"),
        (torch.zeros(1, 3, 4, 4), r"a tensor must be uint8 or float \(3, H, W\), got torch.float32 \(1, 3, 4, 4\)"),
        (torch.full((3, 4, 4), 2.0), r"a float tensor must lie in \[0, 1\]"),
        (torch.full((3, 4, 4), float("nan")), r"a float tensor must lie in \[0, 1\]"),
        (7, r"an image must be a path, a PIL image, a numpy array or a tensor, got int"),
    ],
)
def test_what_is_no_image(image, message):
    with pytest.raises(UserError, match=message):
        as_tensor(image)


def test_unknown_attribute_of_the_package():
    with pytest.raises(AttributeError, match="module 'dmdd' has no attribute 'lod'"):
        _ = dmdd.lod


def test_a_folder_in_place_of_a_detector_is_told_how_to_load_it(model):
    with pytest.raises(UserError, match=r"Predictor takes a Detector; dmdd.load\(.*\) reads one from a model folder"):
        dmdd.Predictor(model)


def test_images_are_aligned_before_anything_else(model, predictor, tmp_path):
    part = np.full((60, 80, 3), 50, np.uint8)
    part[15:40, 20:60] = 200
    part[20:25, 25:30] = 90
    file = tmp_path / "reference.png"
    Image.fromarray(part).save(file)
    moved = np.roll(part, (3, -5), axis=(0, 1))

    aligned = dmdd.load(model, device="cpu", align=file)(moved)

    assert aligned.map.shape == (60, 80)
    assert not np.array_equal(np.asarray(aligned.overlay()), np.asarray(predictor(moved).overlay()))
    assert (
        np.abs(aligned.map - predictor(part).map).max() < np.abs(predictor(moved).map - predictor(part).map).max() / 3
    )


def test_a_prediction_draws_itself_from_any_kind_of_image(predictor, tmp_path):
    file = tmp_path / "part.png"
    Image.fromarray(PIXELS).save(file)
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1).float() / 255
    from_file, from_tensor = predictor([file, tensor])
    overlay = np.asarray(from_file.overlay())
    assert overlay.shape == PIXELS.shape
    assert np.array_equal(overlay, np.asarray(from_tensor.overlay()))
    from_file.save(tmp_path / "new" / "overlay.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new/overlay.png")), overlay)
    with Image.open(io.BytesIO(from_file._repr_png_())) as shown:
        assert shown.size == (3 * 50, 70 + CAPTION_PX)


def test_what_a_prediction_cannot_draw_is_told(predictor, tmp_path):
    whole = predictor(PIXELS)
    with pytest.raises(UserError, match=r"ends in \.png or \.jpg"):
        whole.save(tmp_path / "overlay.txt")
    alone = dataclasses.replace(whole, image=None)
    with pytest.raises(UserError, match=r"no image to draw; use predictor\(image\).overlay\(\)"):
        alone.overlay()
    assert alone._repr_png_() is None
