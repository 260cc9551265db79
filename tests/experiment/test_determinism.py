"""The deterministic mode: the same command gives the same bits, and another seed others."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from dmdd.train import main
from dmdd.training.distillation import DistillationModule


@pytest.fixture(autouse=True)
def usual_mode():
    """Lightning sets the mode for the whole process."""
    yield
    torch.use_deterministic_algorithms(False)


def outcome(folder: Path) -> dict[str, object]:
    result = json.loads((folder / "result.json").read_text())
    kept = {name: result[name] for name in ("test", "synthetic_validation", "calibration")}
    files = ("model/weights.safetensors", "model/detector.json", "metrics.csv", "scores.csv")
    return kept | {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}


def test_two_runs_give_the_same_bits(tmp_path, demo_root, monkeypatch):
    monkeypatch.chdir(tmp_path)
    modes, real = set(), DistillationModule.training_step

    def training_step(self, batch, batch_idx):
        modes.add(torch.are_deterministic_algorithms_enabled())
        return real(self, batch, batch_idx)

    monkeypatch.setattr(DistillationModule, "training_step", training_step)
    arguments = [
        *("dataset=demo", "category=plate", f"data_dir={demo_root}", "teacher=resnet18", "teacher.random_weights=true"),
        *(
            "recipe=smoke",
            "image_size=[64,64]",
            "evaluation.pictures=0",
            "evaluation.resamples=20",
            "evaluation.study_maps=false",
        ),
        *("trainer.accelerator=cpu", "trainer.deterministic=true", "augmentation=light", "trainer.log_every_n_steps=1"),
    ]
    found = []
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        assert main([*arguments, f"name={name}", f"seed={seed}"]) == 0
        found.append(outcome(tmp_path / "runs/demo/plate" / name))
    assert modes == {True}
    assert found[0] == found[1]
    assert all(found[0][name] != found[2][name] for name in ("model/weights.safetensors", "metrics.csv", "scores.csv"))
