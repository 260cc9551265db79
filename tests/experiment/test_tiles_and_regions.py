"""A run on tiles of a region from training to prediction: every command sees the images in the same way."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dmdd
from dmdd.core.errors import UserError
from dmdd.data.images import read_image, write_mask
from dmdd.evaluate import main as evaluate
from dmdd.models.detector import Detector, Tiling
from dmdd.predict import main as predict
from processes import run_command

SMOKE = ["dataset=demo", "category=plate", "teacher=resnet18", "teacher.random_weights=true", "recipe=smoke"]


@pytest.fixture(scope="module")
def region(tmp_path_factory) -> Path:
    mask = np.zeros((128, 128), bool)
    mask[:, :96] = True
    file = tmp_path_factory.mktemp("region") / "roi.png"
    write_mask(file, mask)
    return file


@pytest.fixture(scope="module")
def run(tmp_path_factory, demo_root, region) -> Path:
    """A finished smoke run on tiles of 64 px, without the right quarter of the images."""
    cwd = tmp_path_factory.mktemp("cwd")
    settings = ["image_size=[64,64]", "data.tile_px=64", f"data.roi={region}", "evaluation.pictures=4"]
    done = run_command("train", *SMOKE, *settings, f"data_dir={demo_root}", "name=one", cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert "test set, region of interest, percent" in done.stdout
    return cwd / "runs/demo/plate/one"


def scores(file: Path) -> dict[str, float]:
    with file.open() as text:
        return {row["file"]: float(row["score"]) for row in csv.DictReader(text)}


def test_the_result_says_what_was_seen(run):
    result = json.loads((run / "result.json").read_text())
    assert "tiles of 64 x 64 px" in result["protocol"]["masks_and_maps"]
    assert "region of interest" in result["protocol"]["region"]
    assert 0 < result["calibration"]["image_threshold"] < 1
    detector = Detector.load(run / "model")
    assert detector.tiling == Tiling((64, 64), 0.25)
    assert detector.region[:, :96].all()
    assert not detector.region[:, 96:].any()
    pictures = sorted((run / "images").iterdir())
    with Image.open(pictures[0]) as picture:
        assert picture.width == 4 * 128


def test_evaluate_predict_and_python_give_the_scores_of_the_run(run, demo_root, tmp_path, monkeypatch, region):
    expected = scores(run / "scores.csv")
    monkeypatch.chdir(tmp_path)
    again = [f"model={run}/model", "dataset=demo", "category=plate", f"data_dir={demo_root}", "resamples=0"]
    assert evaluate([*again, "pictures=0", "study_maps=false", "accelerator=cpu", "hydra.run.dir=evaluated"]) == 0
    assert scores(tmp_path / "evaluated/scores.csv") == expected
    first, second = (json.loads((f / "result.json").read_text()) for f in (run, tmp_path / "evaluated"))
    assert second["test"]["metrics"] == first["test"]["metrics"]
    assert second["protocol"] == first["protocol"]

    test = demo_root / "demo/plate/test"
    settings = ["masks=true", "maps=npy", "overlays=true", "device=cpu"]
    assert predict([f"model={run}/model", f"input={test}", "output=predicted", *settings]) == 0
    found = {f"test/{name}": score for name, score in scores(tmp_path / "predicted/scores.csv").items()}
    assert found == pytest.approx(expected, abs=1e-6)
    name = next(name for name in sorted(expected) if "scratch" in name)
    map_ = np.load(tmp_path / f"predicted/maps/{name.removeprefix('test/')}.npy")
    assert map_.shape == (128, 128)
    assert not map_[:, 96:].any()
    assert map_[:, :96].any()
    image = read_image(demo_root / "demo/plate" / name)
    with Image.open(tmp_path / f"predicted/overlays/{name.removeprefix('test/')}.jpg") as overlay:
        shown = np.asarray(overlay)
    assert abs(int(shown[:, 100:].mean()) - int(image[:, 100:].mean()) // 4) < 6  # dark where nothing counts
    predictor = dmdd.load(run / "model", device="cpu")
    assert predictor(image).score == pytest.approx(expected[name], abs=1e-6)
    changed = image.copy()
    changed[:, 110:] = 255 - changed[:, 110:]
    assert predictor(changed).score == predictor(image).score
    with pytest.raises(UserError, match=r"128 x 128 px but the image is 50 x 70 px"):
        predictor(np.zeros((70, 50, 3), np.uint8))
