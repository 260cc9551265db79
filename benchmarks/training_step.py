"""Where a stage-1 training step spends its time, and whether it waits for data.

    python benchmarks/training_step.py --data-dir DIR --dataset mvtec_ad --category screw

Runs the steps of a recipe without Lightning, once with a new batch of pairs in every step and once with the same batch
again and again, alternating so that a busy machine slows both. Prints the medians, the ratio, and the parts.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

from dmdd import runtime
from dmdd.config import build, compose_config
from dmdd.data.datamodule import PairDataModule
from dmdd.data.datasets import PairBatch
from dmdd.data.sampling import PairSampler
from dmdd.losses import abnormality_mimicking_loss, normality_guidance_loss
from dmdd.train import read_category
from dmdd.training.feature_cache import FeatureCache


class Clock:
    """Adds up the time of named parts; waits for the device at each boundary."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.parts = device, defaultdict(list)

    def run(self, name: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = work()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.parts[name].append(time.perf_counter() - started)
        return result

    def median_ms(self, name: str) -> float:
        return 1000 * statistics.median(self.parts[name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--dataset", default="mvtec_ad")
    parser.add_argument("--category", default="screw")
    parser.add_argument("--teacher", default="efficientnet_lite0")
    parser.add_argument("--recipe", default="cpu")
    parser.add_argument("--pairs", default="mix")
    parser.add_argument("--steps", type=int, default=20, help="measured steps of each kind")
    options = parser.parse_args()
    config = compose_config(
        "train",
        [
            f"dataset={options.dataset}",
            f"category={options.category}",
            f"data_dir={options.data_dir}",
            f"teacher={options.teacher}",
            f"recipe={options.recipe}",
            f"pairs={options.pairs}",
        ],
    )
    accelerator = runtime.resolve_accelerator("auto")
    device = torch.device("cuda" if accelerator == "gpu" else "cpu")
    mixed = runtime.resolve_precision("auto", accelerator) == "bf16-mixed"
    teacher, _ = build(config.teacher)
    student = build(config.student)(channels=teacher.channels)
    for network in (teacher, student):
        network.to(device, memory_format=torch.channels_last)
    data = PairDataModule(
        category=read_category(config),
        synthesis=build(config.pairs),
        image_size=config.image_size,
        batch_size=config.batch_size,
        seed=0,
        **config.data,
    )
    data.setup("fit")
    cache = FeatureCache(images=data.training_images, limit_gb=config.distillation.get("cache_limit_gb", 4.0))
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3, fused=True)
    epoch = -(-data.training_images // config.batch_size)
    sampler = iter(
        PairSampler(
            images=data.training_images,
            batch_size=config.batch_size,
            first_step=0,
            steps=epoch + 1 + options.steps,
            seed=0,
        )
    )

    def pairs() -> PairBatch:
        return data.make_pairs(data.transfer_batch_to_device(data.training_batch(next(sampler)), device, 0))

    def step(clock: Clock, batch: PairBatch) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            normal, anomalous = clock.run(
                "teacher", lambda: cache(teacher, batch.normal, batch.indices, batch.anomalous)
            )
            normality, abnormality = clock.run("student", lambda: student(batch.anomalous, anomalous))
            loss = clock.run(
                "loss",
                lambda: (
                    normality_guidance_loss(normality, normal)
                    + abnormality_mimicking_loss(abnormality, anomalous, batch.mask)
                ),
            )
        optimizer.zero_grad()
        clock.run("backward", loss.backward)
        clock.run("optimizer", optimizer.step)

    warm = Clock(device)
    for _ in range(epoch + 1):  # also fills the memory of the teacher's features
        kept = warm.run("pairs", pairs)
        step(warm, kept)
    real, cached = Clock(device), Clock(device)
    for _ in range(options.steps):
        real.run("step", lambda: step(real, real.run("pairs", pairs)))
        cached.run("step", lambda: step(cached, kept))
    whole, without = real.median_ms("step"), cached.median_ms("step")
    precision = "bfloat16" if mixed else "float32"
    print(f"{runtime.describe_device(accelerator)}, {precision}, {torch.get_num_threads()} threads")
    print(f"teacher {options.teacher}, recipe {options.recipe}, pairs {options.pairs}, batch {config.batch_size}")
    for name in ("pairs", "teacher", "student", "loss", "backward", "optimizer"):
        print(f"{name:<10} {real.median_ms(name):8.1f} ms {100 * real.median_ms(name) / whole:6.1f} %")
    print(f"{'step':<10} {whole:8.1f} ms; with one cached batch {without:.1f} ms; ratio {whole / without:.3f}")


if __name__ == "__main__":
    main()
