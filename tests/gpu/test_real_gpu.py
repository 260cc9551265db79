"""What only a GPU can show; skipped without one. benchmarks/gpu runs these and measures the rest."""

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dmdd
from dmdd.core.hardware import whole_float32
from dmdd.data.augmentation import build_augmentation
from dmdd.data.datamodule import PairDataModule
from dmdd.data.sampling import PairSampler
from dmdd.pairs import PairSynthesis
from dmdd.train import main
from tiny import draw_pixels, save_tiny_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")]

SETTINGS = [
    *("dataset=demo", "category=plate", "teacher=resnet18", "teacher.random_weights=true", "recipe=smoke"),
    *("image_size=[64,64]", "evaluation.pictures=0", "evaluation.resamples=20", "trainer.log_every_n_steps=1"),
    "augmentation=jitter",
]


def train(demo_root: Path, folder: Path, *more: str) -> Path:
    assert main([*SETTINGS, f"data_dir={demo_root}", f"hydra.run.dir={folder}", *more]) == 0
    return folder


def losses(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open() as text:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(text)]


def test_pairs_and_jitter_are_those_of_a_cpu(demo_category):
    jitter = build_augmentation(scale=0.05, shift=0.04, rotate_degrees=10, brightness=0.1, contrast=0.1)
    weights = {"procedural": 1, "tone": 1, "scramble": 1, "shift": 1, "warp": 1, "missing": 1}
    shapes = {"perlin": 1, "blob": 1, "stroke": 1, "patch": 1}
    synthesis = PairSynthesis(**weights, **shapes)
    data = PairDataModule(
        category=demo_category, synthesis=synthesis, image_size=(128, 128), batch_size=4, seed=0, augmentation=jitter
    )
    data.setup("fit")
    sampler = PairSampler(images=data.training_images, batch_size=4, first_step=0, steps=40, seed=0)
    here, there = (list(data.serve(sampler, torch.device(device))) for device in ("cpu", "cuda"))
    off = flipped = values = 0
    for one, other in zip(here, there, strict=True):
        assert (other.normal.cpu() - one.normal).abs().max() < 1e-5
        same = other.mask.cpu() == one.mask
        off += int((((other.anomalous.cpu() - one.anomalous).abs() > 1e-5) & same).sum())
        flipped, values = flipped + int((~same).sum()), values + same.numel()
    assert off < 1e-4 * values
    assert flipped < 1e-5 * values


def test_deterministic_mode_raises_nowhere_and_gives_the_same_bits(demo_root, tmp_path):
    runs = [train(demo_root, tmp_path / name, "trainer.deterministic=true") for name in ("a", "b")]
    for file in ("model/weights.safetensors", "scores.csv", "metrics.csv"):
        assert (runs[0] / file).read_bytes() == (runs[1] / file).read_bytes()


def test_a_float64_training_is_that_of_a_cpu(demo_root, tmp_path):
    runs = [
        train(demo_root, tmp_path / name, f"trainer.accelerator={name}", "trainer.precision=64-true")
        for name in ("cpu", "gpu")
    ]
    here, there = map(losses, runs)
    assert len(here) == len(there)
    for one, other in zip(here, there, strict=True):
        assert other == pytest.approx(one, rel=1e-4)


def test_evaluation_computes_in_whole_float32(tmp_path):
    """TF32 would move scores by a thousandth."""
    images = [draw_pixels(seed) for seed in range(4)]
    folder = save_tiny_model(tmp_path / "model")
    here, there = ([p.score for p in dmdd.load(folder, device=device)(images)] for device in ("cpu", "cuda"))
    assert there == pytest.approx(here, rel=1e-5)
    a = torch.randn(2, 256, 32, 32, device="cuda")
    w = torch.randn(256, 256, 3, 3, device="cuda")
    exact = torch.nn.functional.conv2d(a.double(), w.double())
    with whole_float32():
        found = torch.nn.functional.conv2d(a, w)
    assert (found - exact).abs().max() < 1e-5 * exact.abs().max()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")
@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_gpus(demo_root, tmp_path, first, then):
    more = ["trainer.precision=64-true", "distillation.steps=60", "trainer.log_every_n_steps=10"]
    whole = train(demo_root, tmp_path / "whole", *more)
    folder = tmp_path / "part"
    arguments = [*SETTINGS, *more, f"data_dir={demo_root}", f"hydra.run.dir={folder}"]
    command = [sys.executable, "-m", "dmdd.train", *arguments, f"trainer.devices={first}"]
    with subprocess.Popen(
        [*command, "callbacks.progress.every_n_steps=1"], stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr:
            if line.startswith("distillation 15/"):
                process.send_signal(signal.SIGTERM)
    assert process.returncode == 143
    assert main([*arguments, f"trainer.devices={then}", "resume=true"]) == 0
    metrics = [json.loads((run / "result.json").read_text())["test"]["metrics"] for run in (whole, folder)]
    assert metrics[1] == pytest.approx(metrics[0], abs=1e-3)
