"""Where a stage-1 training step spends its time, how near that is to the device's limit, and whether it waits for data.

    python benchmarks/training_step.py --data-dir DIR --dataset mvtec_ad --category screw --output step.json

Four loops without Lightning take turns, so that a busy machine slows all of them:

- `real`: the recipe with a new batch of pairs in every step, split into its parts;
- `cached`: the same with one batch again and again; the ratio of the two is what data costs;
- `plain`: the loop one writes first: the backbone as timm gives it, both images of a pair through it in every step,
  AdamW parameter by parameter. Same networks, losses and pairs;
- `prototype`: the plain loop with the prototype's student widths (64, 96, 160), where the recipe's differ.

The floor is counted operations over the device's measured rate of matrix products; real steps also move memory, so that
not all of it can be reached. Prints one table; `--output` keeps everything as JSON.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dmdd.config.schema import TrainSettings
from dmdd.config.targets import build
from dmdd.core import hardware
from dmdd.data.datamodule import PairDataModule
from dmdd.data.datasets import PairBatch
from dmdd.data.sampling import PairSampler
from dmdd.experiment.category import read_category
from dmdd.models.losses import abnormality_mimicking_loss, normality_guidance_loss
from dmdd.models.student import Student
from dmdd.models.teacher import Teacher
from dmdd.pairs.window import as_float
from dmdd.training.feature_cache import FeatureCache

PARTS = ("pairs", "teacher", "student", "loss", "backward", "optimizer")
NETWORK_PARTS = ("teacher", "student", "backward")
PROTOTYPE_WIDTHS = (64, 96, 160)


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

    def mean_ms(self, name: str) -> float:
        return 1000 * statistics.mean(self.parts[name])


class Loop:
    """One way to train: networks, how the teacher is asked, and the optimiser."""

    def __init__(
        self,
        teacher: Teacher,
        student: Student,
        ask: Callable[[PairBatch], tuple[list[Tensor], list[Tensor]]],
        *,
        device: torch.device,
        mixed: bool,
        fused: bool,
        hard_fraction: float,
    ) -> None:
        self.teacher = teacher.to(device, memory_format=torch.channels_last)
        self.student = student.to(device, memory_format=torch.channels_last)
        self.ask, self.device, self.mixed, self.hard_fraction = ask, device, mixed, hard_fraction
        options = {"fused": True} if fused else {"foreach": False}
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=1e-3, **options)
        self.clock = Clock(device)

    def step(self, batch: PairBatch) -> None:
        clock = self.clock
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            normal, anomalous = clock.run("teacher", lambda: self.ask(batch))
            normality, abnormality = clock.run("student", lambda: self.student(batch.anomalous, anomalous))
            loss = clock.run(
                "loss",
                lambda: (
                    normality_guidance_loss(normality, normal, hard_fraction=self.hard_fraction)
                    + abnormality_mimicking_loss(abnormality, anomalous, batch.mask)
                ),
            )
        self.optimizer.zero_grad()
        clock.run("backward", loss.backward)
        clock.run("optimizer", self.optimizer.step)


class Pairs:
    """Batches of pairs, one after the other."""

    def __init__(self, settings: TrainSettings, device: torch.device, steps: int) -> None:
        self.data = PairDataModule(
            category=read_category(settings.dataset, settings.category),
            synthesis=build(settings.pairs),
            augmentation=build(settings.augmentation),
            image_size=settings.image_size,
            batch_size=settings.batch_size,
            seed=0,
            **vars(settings.data),
        )
        self.data.setup("fit")
        self.epoch = -(-self.data.training_images * self.data.views // settings.batch_size)
        sampler = PairSampler(
            images=self.data.training_images,
            batch_size=settings.batch_size,
            first_step=0,
            steps=self.epoch + 1 + steps,
            seed=0,
            views=self.data.views,
        )
        self.served = iter(self.data.serve(sampler, device))

    def __call__(self) -> PairBatch:
        return next(self.served)


def best_rate(work: Callable[[], Any], amount: float, device: torch.device) -> float:
    """Amount per second of the best of 20 calls."""
    clock = Clock(device)
    for _ in range(20):
        clock.run("work", work)
    return amount / min(clock.parts["work"])


def device_rates(device: torch.device, mixed: bool) -> dict[str, float]:
    """Measure matrix products in 10^9 operations and copies in 10^9 bytes (read and written) a second."""
    dtype = torch.bfloat16 if mixed else torch.float32
    side = 8192 if device.type == "cuda" else 1536
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    source = torch.empty(2**28 if device.type == "cuda" else 2**26, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return {
        "matmul_gflops": best_rate(lambda: a @ b, 2 * side**3, device) / 1e9,
        "copy_gb_per_s": best_rate(lambda: target.copy_(source), 2 * source.numel(), device) / 1e9,
    }


def count_gflops(loop: Loop, batch: PairBatch) -> dict[str, float]:
    """Count the operations of one step, in 10^9, a multiplication and an addition each one."""
    counts = {}
    with FlopCounterMode(display=False) as counter:
        features = loop.teacher(batch.anomalous)
    counts["teacher"] = counter.get_total_flops() / 1e9
    with FlopCounterMode(display=False) as counter:
        normality, abnormality = loop.student(batch.anomalous, features)
    counts["student"] = counter.get_total_flops() / 1e9
    loss = sum(f.square().mean() for f in [*normality, *abnormality])
    with FlopCounterMode(display=False) as counter:
        loss.backward()
    counts["backward"] = counter.get_total_flops() / 1e9
    loop.student.zero_grad()
    return counts


def make_loops(settings: TrainSettings, pairs: Pairs, device: torch.device, mixed: bool) -> dict[str, Loop]:
    teacher, _ = build(settings.teacher)
    spec = {**teacher.spec, "folded": False}
    as_given = Teacher(**spec)  # its weights do not matter for the time
    cache = FeatureCache(images=pairs.data.lasting_images, limit_gb=settings.distillation.cache_limit_gb)

    def remembered(batch: PairBatch) -> tuple[list[Tensor], list[Tensor]]:
        return cache(teacher, batch.normal, batch.indices, batch.anomalous)

    def plainly(batch: PairBatch) -> tuple[list[Tensor], list[Tensor]]:
        return as_given(as_float(batch.normal)), as_given(batch.anomalous)

    def student(widths: Any = None) -> Student:
        return build(settings.student, **({"widths": list(widths)} if widths else {}))(channels=teacher.channels)

    common: dict[str, Any] = {"device": device, "mixed": mixed, "hard_fraction": settings.distillation.hard_fraction}
    loops = {"real": Loop(teacher, student(), remembered, fused=True, **common)}
    loops["cached"] = Loop(teacher, loops["real"].student, remembered, fused=True, **common)
    loops["plain"] = Loop(as_given, student(), plainly, fused=False, **common)
    if tuple(settings.student["widths"]) != PROTOTYPE_WIDTHS:
        loops["prototype"] = Loop(as_given, student(PROTOTYPE_WIDTHS), plainly, fused=False, **common)
    return loops


def measure(settings: TrainSettings, steps: int) -> dict[str, Any]:
    accelerator = hardware.resolve_accelerator("auto")
    device = torch.device("cuda" if accelerator == "gpu" else "cpu")
    mixed = hardware.resolve_precision(settings.trainer["precision"], accelerator) == "bf16-mixed"
    if accelerator == "cpu":
        hardware.keep_freed_memory()
    pairs = Pairs(settings, device, steps)
    loops = make_loops(settings, pairs, device, mixed)
    kept = pairs()
    with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
        for _ in range(pairs.epoch):  # fills the memory of the teacher's features
            kept = pairs()
            loops["real"].ask(kept)
    for loop in loops.values():
        loop.step(kept)
        loop.clock = Clock(device)
    turns = list(loops.items())
    for _ in range(steps):
        real = loops["real"].clock
        batch = real.run("pairs", pairs)
        turns.reverse()  # a loop finds in the processor's caches what the one before it left there
        for name, loop in turns:
            given = kept if name == "cached" else batch
            loop.clock.run("networks", partial(loop.step, given))
    made = loops["real"].clock.mean_ms("pairs")  # on a CPU one step in some makes those of all
    step_ms = {name: loop.clock.median_ms("networks") + made * (name != "cached") for name, loop in loops.items()}
    return {
        "device": hardware.describe_device(accelerator),
        "threads": torch.get_num_threads(),
        "precision": "bfloat16" if mixed else "float32",
        "teacher": settings.teacher["backbone"],
        "image_size": list(settings.image_size),
        "batch_size": settings.batch_size,
        "widths": list(settings.student["widths"]),
        "step_ms": step_ms,
        "parts_ms": {name: loops["real"].clock.median_ms(name) for name in PARTS} | {"pairs": made},
        "gflops": count_gflops(loops["real"], kept),
        "rates": device_rates(device, mixed),
    }


def print_table(found: dict[str, Any]) -> None:
    step, parts, gflops = found["step_ms"], found["parts_ms"], found["gflops"]
    rate = found["rates"]["matmul_gflops"]
    print(f"{found['device']}, {found['precision']}, {found['threads']} threads")
    height, width = found["image_size"]
    print(f"teacher {found['teacher']}, {height} x {width}, batch {found['batch_size']}, widths {found['widths']}")
    print(f"matrix products {rate:.0f} GFLOP/s, copies {found['rates']['copy_gb_per_s']:.1f} GB/s\n")
    print("| part | ms | share of the step | GFLOP | floor, ms | floor / measured |\n|---|---|---|---|---|---|")
    for name in PARTS:
        line = f"| {name} | {parts[name]:.1f} | {100 * parts[name] / step['real']:.1f} % |"
        if name in gflops:
            floor = 1000 * gflops[name] / rate
            line += f" {gflops[name]:.1f} | {floor:.1f} | {100 * floor / parts[name]:.0f} % |"
        print(line if name in gflops else line + " | | |")
    total = sum(gflops.values())
    floor = 1000 * total / rate
    print(f"| step | {step['real']:.1f} | | {total:.1f} | {floor:.1f} | {100 * floor / step['real']:.0f} % |")
    share = sum(parts[name] for name in NETWORK_PARTS) / step["real"]
    print(f"\nteacher, student and backward: {100 * share:.1f} % of the step")
    print(f"with one cached batch {step['cached']:.1f} ms: ratio {step['real'] / step['cached']:.3f}")
    for name in ("plain", "prototype"):
        if name in step:
            print(f"{name} loop {step[name]:.1f} ms: {step[name] / step['real']:.2f} times the step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--dataset", default="mvtec_ad")
    parser.add_argument("--category", default="screw")
    parser.add_argument("--teacher", default="efficientnet_lite0")
    parser.add_argument("--recipe", default="cpu")
    parser.add_argument("--pairs", default="mix")
    parser.add_argument("--steps", type=int, default=20, help="measured steps of each loop")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    parser.add_argument("overrides", nargs="*", help="further settings, as in batch_size=64 image_size=[512,512]")
    options = parser.parse_args()
    chosen = ("data_dir", "dataset", "category", "teacher", "recipe", "pairs")
    settings = TrainSettings.compose(*(f"{name}={getattr(options, name)}" for name in chosen), *options.overrides)
    found = measure(settings, options.steps)
    print_table(found)
    if options.output:
        options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
