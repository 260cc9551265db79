"""Training from Python: without Hydra's global state, inside another Hydra application, and with a plain Trainer."""

import json
import re
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

import dmdd
from dmdd.core.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs/api.md").read_text(), re.DOTALL)
SMOKE = ("dataset=demo", "teacher=resnet18", "recipe=smoke", "image_size=[64,64]", "evaluation.pictures=0")
QUICK = ("evaluation.resamples=0", "evaluation.study_maps=false")
VALUES = {"category": "plate", "teacher": {"random_weights": True}, "callbacks": {"progress": None}}


@pytest.fixture(scope="module")
def run(demo_root, tmp_path_factory) -> dmdd.Run:
    """A training from Python while another Hydra application is composing, whose state stays as it was."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "app.yaml").write_text("x: 1\n")
    arguments = list(sys.argv)
    with initialize_config_dir(str(folder), version_base="1.2"):
        outer = GlobalHydra.instance().hydra
        settings = dmdd.TrainSettings.compose(*SMOKE, *QUICK, **VALUES, data_dir=demo_root, run_dir=folder / "a=b")
        finished = dmdd.fit(settings)
        assert GlobalHydra.instance().hydra is outer
        assert compose("app").x == 1
    assert HydraConfig.instance().cfg is None
    assert sys.argv == arguments
    return finished


def test_a_run_knows_what_came_of_it(run):
    assert run.result == json.loads((run.folder / "result.json").read_text())
    assert run.figure("test.metrics.pixel_auroc") == run.result["test"]["metrics"]["pixel_auroc"]
    with pytest.raises(UserError, match=r"objective=test.nosuch: result.json has no such figure"):
        run.figure("test.nosuch")
    assert run.predictor.detector.input_size == (64, 64)


def test_a_saved_model_is_measured_and_exported(run, demo_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"model": run.model, "category": "plate", "data_dir": demo_root, "callbacks": {"progress": None}}
    result = dmdd.test(
        dmdd.EvaluateSettings.compose("dataset=demo", **given, pictures=0, resamples=0, run_dir="measured")
    )
    assert result["test"]["metrics"] == run.result["test"]["metrics"]
    assert json.loads((tmp_path / "measured/result.json").read_text()) == result
    files, report = dmdd.export_model(dmdd.ExportSettings.compose(model=run.model, format="torch", tolerance=0.01))
    assert report["failed"] is None
    assert files[0] == run.folder / "export/detector.pt2"


def test_a_folder_is_scored(run, demo_root, tmp_path):
    images = demo_root / "demo/plate/test/good"
    settings = dmdd.PredictSettings.compose(model=run.model, input=images, output=tmp_path / "o=1", device="cpu")
    done = dmdd.predict_folder(settings)
    assert sum(done.counts.values()) == len(list(images.iterdir())) == len(done.scores.read_text().splitlines()) - 1


def test_the_command_runs_inside_another_hydra_application(demo_root, tmp_path, monkeypatch, capsys):
    """As far as its first errors: what follows is the same call."""
    from dmdd.train import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "app.yaml").write_text("x: 1\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        assert main(["dataset=demo", "category=nosuch", f"data_dir={demo_root}"]) == 2
        assert "unknown category 'nosuch'" in capsys.readouterr().err
        assert compose("app").x == 1


def test_settings_are_frozen_and_replaced():
    settings = dmdd.TrainSettings.compose("recipe=smoke", category="null", distillation={"steps": 3})
    assert (settings.category, settings.distillation.steps) == ("null", 3)
    assert replace(settings, seed=1).seed == 1
    with pytest.raises(FrozenInstanceError):
        settings.seed = 1
    with pytest.raises(UserError, match=r"unknown setting distillation.stepz; did you mean distillation.steps\?"):
        dmdd.TrainSettings.compose(distillation={"stepz": 3})
    with pytest.raises(UserError, match=r"seed=-1: give a whole number from 0"):
        dmdd.TrainSettings.compose(seed=-1)


def test_six_lines_are_enough():
    lines = [line for line in BLOCKS[0].splitlines() if line]
    assert len(lines) <= 6
    assert "dmdd.fit(settings)" in BLOCKS[0]
    compile(BLOCKS[0], "docs/api.md", "exec")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Lightning's advice
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
def test_the_modules_work_with_a_plain_trainer(demo_root, tmp_path, monkeypatch):
    """The second example of docs/api.md as it stands there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(demo_root)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    names: dict[str, object] = {}
    exec(compile(BLOCKS[1], "docs/api.md", "exec"), names)
    assert dmdd.load(tmp_path / "model", device="cpu").image_threshold is not None
    assert 0 <= names["evaluation"].metrics["pixel_auroc"] <= 1
