"""Time a training step with and without torch.compile, on this machine's device.

    python benchmarks/compile.py [--recipe cpu] [--teacher efficientnet_lite0] [--steps 6] [--stages distillation]

Networks, losses, backward pass and optimiser of both stages, on one batch of noise; no data, no Lightning. On a CPU
the times are processor time of this process, which other programs disturb least.
"""

import argparse
import time
from types import SimpleNamespace

import torch

from dmdd.config.schema import TrainSettings
from dmdd.config.targets import build
from dmdd.core.hardware import resolve_accelerator, resolve_precision
from dmdd.models.whitening import ResidualWhitening
from dmdd.training.compilation import begin_step, compile_copy, compile_function
from dmdd.training.distillation import distillation_losses
from dmdd.training.frozen import HALF, for_training
from dmdd.training.optimization import adamw_one_cycle
from dmdd.training.segmentation import loss_of_segmentation

STAGES = ("distillation", "segmentation")


class Steps:
    """Both stages as their modules compute them; the same seed gives the same weights and images."""

    def __init__(self, options: argparse.Namespace, device: torch.device, precision: str, *, compiled: bool) -> None:
        settings = TrainSettings.compose(
            "category=none", f"recipe={options.recipe}", f"teacher={options.teacher}", "teacher.random_weights=true"
        )
        torch.manual_seed(0)
        teacher, _ = build(settings.teacher)
        student = build(settings.student)(channels=teacher.channels)
        segmentation = build(settings.segmentation)(channels=teacher.channels)
        whitening = ResidualWhitening(teacher.channels)
        for network in (teacher, student, segmentation, whitening):
            network.to(device, memory_format=torch.channels_last)
        count, (height, width) = options.batch or settings.batch_size, settings.image_size
        self.images = torch.rand(count, 3, height, width, device=device).contiguous(memory_format=torch.channels_last)
        self.mask = (torch.rand(count, 1, height, width, device=device) > 0.97).float()
        self.device, self.dtype, self.compiled = device, HALF.get(precision), compiled
        self.frozen = for_training(teacher, precision), student
        self.student, self.segmentation, self.whitening = student.train(), segmentation.train(), whitening
        self.teacher = compile_copy(self.frozen[0], device) if compiled else self.frozen[0]
        self.losses = compile_function(distillation_losses, device) if compiled else distillation_losses
        self.loss = compile_function(loss_of_segmentation, device) if compiled else loss_of_segmentation
        self.optimizers = [
            adamw_one_cycle(n.parameters(), learning_rate=1e-3, weight_decay=1e-4, steps=100)["optimizer"]
            for n in (student, segmentation)
        ]

    def first(self) -> torch.Tensor:
        normal, anomalous = self.teacher(self.images.flip(0)), self.teacher(self.images)
        ngm, aim = self.losses(self.student, self.images, normal, anomalous, self.mask, aim="margin", hard_fraction=0.1)
        return ngm + 0.1 * aim

    def second(self) -> torch.Tensor:
        return self.loss(self.frozen, self.whitening, self.segmentation, self.images, self.mask, focal_gamma=4.0)

    def freeze(self, precision: str) -> None:
        self.student.requires_grad_(False).eval()
        self.frozen = self.frozen[0], for_training(self.student, precision)

    def step(self, stage: int) -> torch.Tensor:
        if self.compiled:
            begin_step()
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            loss = (self.first, self.second)[stage]()
        self.optimizers[stage].zero_grad()
        loss.backward()
        self.optimizers[stage].step()
        return loss.detach().clone()


def timed(work: Steps, stage: int, steps: int) -> SimpleNamespace:
    gpu = work.device.type == "cuda"
    clock = time.perf_counter if gpu else time.process_time
    began = time.perf_counter()
    losses, took = [work.step(stage)], []
    first = time.perf_counter() - began
    for _ in range(3):
        losses.append(work.step(stage))
    for _ in range(steps):
        if gpu:
            torch.cuda.synchronize()
        began = clock()
        losses.append(work.step(stage))
        if gpu:
            torch.cuda.synchronize()
        took.append(1e3 * (clock() - began))
    return SimpleNamespace(first_s=first, ms=sorted(took), losses=torch.stack(losses).cpu())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="cpu")
    parser.add_argument("--teacher", default="efficientnet_lite0")
    parser.add_argument("--batch", type=int, help="images of a step; the recipe's without it")
    parser.add_argument("--steps", type=int, default=6, help="timed steps of each stage")
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "gpu"])
    options = parser.parse_args()
    accelerator = resolve_accelerator(options.device)
    precision = resolve_precision(options.precision, accelerator)
    device = torch.device("cuda" if accelerator == "gpu" else "cpu")
    torch.backends.cudnn.benchmark = True
    print(f"{accelerator}, {precision}, torch {torch.__version__}, {torch.get_num_threads()} threads", flush=True)
    plain, compiled = (Steps(options, device, precision, compiled=on) for on in (False, True))
    for stage, name in enumerate(STAGES):
        if name not in options.stages:
            continue
        if stage:
            for work in (plain, compiled):
                work.freeze(precision)
        one, other = (timed(work, stage, options.steps) for work in (plain, compiled))
        apart = ((one.losses - other.losses).abs() / one.losses.abs()).tolist()
        times = [f"{run.ms[len(run.ms) // 2]:.1f} ({run.ms[0]:.1f} to {run.ms[-1]:.1f})" for run in (one, other)]
        print(f"{name}: ms a step {times[0]}, compiled {times[1]}; first compiled step {other.first_s:.0f} s")
        print(
            f"  losses apart, relative: first {apart[0]:.1e}, largest of {len(apart)} steps {max(apart):.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
