"""A model that any version has saved loads for ever and says what it said: ``tests/fixtures`` holds one of each."""

import json
from pathlib import Path

import pytest
import torch

import dmdd
from dmdd.models.detector import FORMAT_VERSION, READABLE_VERSIONS, Detector
from fixtures.make_saved_model import draw_image, main

FIXTURES = Path(__file__).parents[1] / "fixtures"
LIMIT_BYTES = 300_000


def test_there_is_one_of_every_version_and_it_is_small():
    assert sorted(folder.name for folder in FIXTURES.glob("model_v*")) == [f"model_v{v}" for v in READABLE_VERSIONS]
    for version in READABLE_VERSIONS:
        folder = FIXTURES / f"model_v{version}"
        assert sorted(file.name for file in folder.iterdir()) == [
            "detector.json",
            "expected.json",
            "weights.safetensors",
        ]
        assert json.loads((folder / "detector.json").read_text())["format_version"] == version
        assert sum(file.stat().st_size for file in folder.iterdir()) < LIMIT_BYTES


@pytest.mark.parametrize("version", READABLE_VERSIONS)
@pytest.mark.parametrize("again", [False, True])
def test_it_says_what_it_said(tmp_path, version, again):
    folder = FIXTURES / f"model_v{version}"
    detector = Detector.load(folder)
    if again:  # saved by today's code, an old model is one of today's version
        detector.save(tmp_path)
        assert json.loads((tmp_path / "detector.json").read_text())["format_version"] == FORMAT_VERSION
        detector = Detector.load(tmp_path)
    expected = json.loads((folder / "expected.json").read_text())
    with torch.no_grad():
        found, maps = detector(draw_image()), detector.maps(draw_image())
    assert found.score.item() == pytest.approx(expected["score"], abs=1e-5)
    assert torch.allclose(found.map[0, 0, ::8, ::8], torch.tensor(expected["map"]), atol=1e-5)
    assert found.map.std() > 0.003  # far more than the tolerance, so that the comparison means something
    for name, mean in expected["maps_mean"].items():
        # Version 4 averages distances before it enlarges them, versions before it after; means are the same.
        assert maps[name].mean().item() == pytest.approx(mean, abs=1e-5), name
    thresholds = json.loads((folder / "detector.json").read_text())["calibration"]
    predictor = dmdd.load(tmp_path if again else folder, device="cpu")
    assert (predictor.image_threshold, predictor.pixel_threshold) == (0.4, 0.45)
    assert thresholds["image_threshold"] == 0.4


def test_the_newest_is_what_is_written_today(tmp_path):
    main(tmp_path)
    old = json.loads((FIXTURES / f"model_v{FORMAT_VERSION}/detector.json").read_text())
    new = json.loads((tmp_path / "detector.json").read_text())
    assert new.keys() == old.keys()  # else it is a version of its own
    for part in ("teacher", "student", "segmentation"):
        assert new[part] == old[part]
    assert (tmp_path / "expected.json").is_file()
