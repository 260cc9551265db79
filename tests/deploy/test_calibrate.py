"""dmdd calibrate: thresholds from photographs, what it refuses, what it keeps."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import dmdd
from dmdd.calibrate import main
from dmdd.core.errors import UserError
from dmdd.deploy.calibrate import subject, trained
from dmdd.deploy.calibrate.histogram import draw_histogram
from dmdd.models.detector import Detector
from dmdd.predict import main as predict
from tiny import draw_pixels, save_tiny_model

OLD = {"image_threshold": 0.5, "pixel_threshold": 0.25, "typical_peak": 0.2, "source": "training"}


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """A model, photographs of forty good parts, and of three bad ones."""
    root = tmp_path_factory.mktemp("line")
    model = save_tiny_model(root / "model", calibration=OLD)
    for place in range(40):
        file = root / "good parts" / f"day{place % 2}" / f"{place:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        flat = np.full((64, 96, 3), 90 + 2 * place, np.uint8)
        Image.fromarray(flat + draw_pixels(place, 64, 96) // 64).save(file)
    for place in range(3):
        file = root / "bad" / f"{place}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(draw_pixels(place, 64, 96)).save(file)
    return root, model


def test_thresholds_are_set_from_photographs_and_the_former_ones_kept(line, capsys):
    root, model = line
    before = (model / "weights.safetensors").read_bytes()
    arguments = [f"model={model}", f"good={root / 'good parts'}", f"bad={root / 'bad'}", "rate=0.1", "device=cpu"]
    assert main([*arguments, "dry_run=true"]) == 0
    assert "nothing was written" in capsys.readouterr().out
    assert Detector.load(model).calibration == OLD
    assert main([*arguments, "smallest_area_px=7"]) == 0
    printed = capsys.readouterr().out
    detector = Detector.load(model)
    new = detector.calibration
    assert detector.former_calibrations == [OLD]
    assert (model / "weights.safetensors").read_bytes() == before
    assert (new["normal_images"], new["wanted_false_alarm_rate"], new["smallest_area_px"]) == (40, 0.1, 7)
    raw = [dmdd.load(model, device="cpu")(str(file)).raw_score for file in sorted((root / "good parts").rglob("*.png"))]
    assert sum(score >= new["image_threshold"] for score in raw) <= 10
    assert np.median(raw) == pytest.approx(new["typical_score"], rel=0.02)
    for text in (
        "before: score",
        "now: score",
        "threshold 0.5000",
        "promise   40 good images: expect 10 %",
        "written ",
    ):
        assert text in printed
    # Maps of good images moved, and the pixel threshold with them.
    assert new["pixel_threshold"] != OLD["pixel_threshold"]
    assert main([*arguments[:2], "rate=0.1", "device=cpu"]) == 0
    assert [entry["source"] for entry in Detector.load(model).former_calibrations] == ["training", new["source"]]
    found = dmdd.load(model, device="cpu")(draw_pixels(0, 64, 96))
    cut = Detector.load(model).calibration["image_threshold"]
    assert found.label == (found.score >= 0.5) == (found.raw_score >= cut)
    assert 0 < found.false_alarm_probability <= 1
    out = root / "out"
    assert predict([f"model={model}", f"input={root / 'good parts'}", f"output={out}", "device=cpu"]) == 0
    assert "drift     none seen: the median of " in capsys.readouterr().out
    rows = [json.loads(text) for text in (out / "scores.jsonl").read_text().splitlines()]
    assert all((row["score"] >= 0.5) == (row["raw_score"] >= cut) == (row["label"] == "anomalous") for row in rows)
    assert all(0 < row["false_alarm_probability"] <= 1 and row["image_threshold"] == 0.5 for row in rows)
    # Now that the spread is known: three photographs are too few for such a rate.
    assert main([arguments[0], f"good={root / 'bad'}", "rate=0.001", "device=cpu"]) == 2
    told = r"rate=0.001 cannot be promised with 3 good images: it may be up to .*; give rate=0.\d+, or about \d+"
    assert re.search(told, capsys.readouterr().err)
    # The folder is one calibration's: after another, scores would not mean the same.
    assert main([*arguments[:2], "rate=0.2", "device=cpu"]) == 0
    assert predict([f"model={model}", f"input={root / 'good parts'}", f"output={out}", "device=cpu"]) == 2
    assert "raw_image_threshold=" in capsys.readouterr().err


def test_of_a_model_for_several_one_category_is_set(line, tmp_path, capsys):
    root, _ = line
    others = {"left": OLD | {"source": "left"}, "right": OLD | {"source": "right"}}
    model = save_tiny_model(tmp_path / "model", calibration=OLD, categories=others)
    arguments = [f"model={model}", f"good={root / 'good parts'}", "rate=0.1", "device=cpu"]
    assert main([*arguments, "category=left"]) == 0
    detector = Detector.load(model)
    new = detector.category_calibrations["left"]
    assert (detector.calibration, detector.category_calibrations["right"]) == (OLD, others["right"])
    assert detector.former_calibrations == [others["left"] | {"category": "left"}]
    assert (new["normal_images"], new["source"]) == (40, "photographs of good parts given to dmdd.calibrate")
    found = dmdd.load(model, device="cpu", category="left")(draw_pixels(0, 64, 96))
    assert found.label == (found.score >= 0.5) == (found.raw_score >= new["image_threshold"])
    assert main([*arguments, "category=side"]) == 2
    assert "category=side: the model is for left, right" in capsys.readouterr().err
    # The same photographs set the thresholds for all to the same values.
    assert main(arguments) == 0
    again = Detector.load(model)
    assert again.category_calibrations == detector.category_calibrations
    assert again.calibration["image_threshold"] == new["image_threshold"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "model is missing: give model=FOLDER, the model folder of a run, or an exported file"),
        (["model=x"], "good is missing: give good=FOLDER, photographs of good parts"),
        (["model={model}", "good={root}/none"], r"good=.*none: no such folder"),
        (["model={model}", "good={root}/empty"], r"good=.*empty: no images in this folder"),
        (["model={model}", "good={root}/bad", "bad={root}/none"], r"bad=.*none: no such folder"),
        (["model={model}", "good={root}/bad", "rate=0"], "rate=0: "),
        (["model={model}", "good={root}/bad", "smallest_area_px=-1"], "smallest_area_px=-1: "),
        (["model={model}", "good={root}/bad", "batch_size=0"], "batch_size=0"),
        (["model={root}/none.onnx", "good={root}/bad"], r"none.onnx: no such file"),
        (["model={model}", "good={root}/bad", "category=a"], "category=a: the model is for one category; leave cat"),
    ],
)
def test_what_is_refused(line, capsys, arguments, message):
    root, model = line
    (root / "empty").mkdir(exist_ok=True)
    assert main([argument.format(root=root, model=model) for argument in arguments]) == 2
    found = capsys.readouterr().err
    assert found.count("\n") == 1
    assert re.search(message, found), found


def test_a_file_without_its_json_is_refused(tmp_path, capsys):
    (tmp_path / "a.pt2").write_bytes(b"")
    assert main([f"model={tmp_path / 'a.pt2'}", f"good={tmp_path}"]) == 2
    assert "a.pt2.json is missing or damaged; export the model again" in capsys.readouterr().err
    entries = {"output": {"map": "", "score": ""}, "calibration": OLD}
    (tmp_path / "a.pt2.json").write_text(json.dumps(entries))
    assert main([f"model={tmp_path / 'a.pt2'}", f"good={tmp_path}"]) == 2
    assert "a.pt2 cannot be loaded" in capsys.readouterr().err


def test_histogram_has_the_threshold_between_its_bars():
    lines = draw_histogram("title", [0.1, 0.1, 0.3], [0.8], 0.5)
    assert lines[0] == "title"
    place = next(i for i, text in enumerate(lines) if "threshold 0.5000" in text)
    assert sum(text.count("#") for text in lines[:place]) == 3
    assert sum(text.count("x") for text in lines[place + 1 :]) == 1
    assert lines[1].split() == ["0.1000", "2", "0", "##"]
    assert "threshold 0.9000" in draw_histogram("", [0.1], [], 0.9)[-1]
    assert draw_histogram("", [0.2, 0.2], [], None)[1].split() == ["0.2000", "2", "0", "##"]
    many = draw_histogram("", [0.1] * 1000, [], None)
    assert max(len(text) for text in many) < 80


def test_what_lies_outside_the_region_does_not_move_thresholds(tmp_path):
    save_tiny_model(tmp_path / "model")
    detector = Detector.load(tmp_path / "model")
    detector.region = torch.zeros(64, 96, dtype=torch.bool)
    detector.region[:, :48] = True
    detector.save(tmp_path / "model")
    files = []
    for place, noise in enumerate((0, 1)):
        pixels = np.full((64, 96, 3), 120, np.uint8)
        pixels[:, 48:] += draw_pixels(place, 64, 48) // 4 * noise
        files.append(tmp_path / f"{place}.png")
        Image.fromarray(pixels).save(files[-1])
    predictor = dmdd.load(tmp_path / "model", device="cpu")
    for batch_size in (1, 2):
        scores, peaks = trained.TrainedModel(tmp_path / "model", predictor, batch_size=batch_size).score(files)
        seen = [predictor(str(file)) for file in files]
        assert scores == pytest.approx([one.raw_score for one in seen], abs=1e-6)
        assert peaks == pytest.approx([one.map.max() for one in seen], abs=1e-6)
        assert scores[0] == pytest.approx(scores[1], abs=1e-6)


def test_an_exported_file_gets_the_layout_and_size_that_it_takes(tmp_path, monkeypatch):
    given = []

    def run(images):
        given.append(images)
        return {"score": np.array([0.25], np.float32), "map": np.full((1, 4, 6), 0.5, np.float32)}

    monkeypatch.setattr(subject, "_load", lambda file, outputs: run)
    card = {"output": ["map", "score"], "fixed_size": [4, 6], "layout": "nchw"}
    (tmp_path / "detector.onnx.json").write_text(json.dumps(card))
    exported = subject.ExportedModel(tmp_path / "detector.onnx")
    pixels = draw_pixels(0, 4, 6)
    Image.fromarray(pixels).save(tmp_path / "fits.png")
    Image.fromarray(draw_pixels(0, 5, 6)).save(tmp_path / "other.png")
    scores, peaks = exported.score([tmp_path / "fits.png"])
    assert (scores.tolist(), peaks.tolist()) == ([0.25], [0.5])
    assert given[0].dtype == np.float32
    assert np.array_equal(given[0], pixels.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    with pytest.raises(UserError, match=r"other\.png has 6 x 5 px, but detector\.onnx takes images of 6 x 4 px only"):
        exported.score([tmp_path / "other.png"])
