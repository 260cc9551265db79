"""The detector in each runtime, whole and by stage, for the measurement of speed."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from dmdd.deploy.export.graph import DetectorGraph
from dmdd.deploy.export.onnx import write_onnx
from dmdd.deploy.export.resizing import enlarge_traced, resize_traced
from dmdd.deploy.runtimes import load_onnx, load_openvino
from dmdd.models.blocks import upsample
from dmdd.models.detector import Detector

ENGINES = ("torch", "torch_folded", "torch_compiled", "onnx", "openvino")
STAGES = ("preprocess", "network", "postprocess")
Stage = Callable[[Any], Any]


@dataclass(frozen=True)
class Engine:
    """One runtime with the detector in it.

    Args:
        load_ms: Time to load it from its file, in ms.
        whole: From images ``(B, H, W, 3)`` uint8 to map and score.
        stages: Functions by name of ``STAGES``: images to pixels at the input size; these to map and score; the map to
            the size of the images.
    """

    load_ms: float
    whole: Stage
    stages: dict[str, Stage]


class _Preprocess(nn.Module):
    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (resize_traced(images, self.size),)


class _Network(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        raw, score = self.network(pixels)
        return raw, score


class _Postprocess(nn.Module):
    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, maps: Tensor) -> tuple[Tensor]:
        return (enlarge_traced(maps[:, 0], self.size),)


@contextmanager
def open_engines(
    names: Sequence[str], detector: Detector, folder: Path, *, size: tuple[int, int], threads: int
) -> Iterator[Iterator[tuple[str, Engine]]]:
    """Give the engines one after the other, so that only one is in memory.

    Args:
        names: Some of ``ENGINES``.
        detector: In evaluation mode.
        folder: Where it was loaded from.
        size: Height and width of the images in pixels, for the postprocessing.
        threads: Of one inference.

    Yields:
        An iterator of names and engines; their files are gone after the block.
    """
    graph = DetectorGraph(detector)
    stages = {
        "preprocess": _Preprocess(detector.input_size),
        "network": _Network(graph.detector.network),
        "postprocess": _Postprocess(size),
    }
    with tempfile.TemporaryDirectory() as temporary:
        files: dict[str, Path] = {}
        if {"onnx", "openvino"} & set(names):
            files = _write(graph, stages, Path(temporary), detector.input_size)

        def engines() -> Iterator[tuple[str, Engine]]:
            for name in names:
                if name == "torch":
                    yield name, _eager(detector, folder, size)
                elif name in ("torch_folded", "torch_compiled"):
                    yield name, _folded(graph, stages, compiled=name == "torch_compiled")
                else:
                    yield name, _from_files(files, load_onnx if name == "onnx" else load_openvino, threads)

        yield engines()


def _write(graph: DetectorGraph, stages: dict[str, nn.Module], folder: Path, size: tuple[int, int]) -> dict[str, Path]:
    images = torch.zeros(2, 300, 280, 3, dtype=torch.uint8)
    maps = torch.zeros(2, 1, *size)
    parts: dict[str, tuple[nn.Module, Tensor, tuple[str, ...]]] = {
        "whole": (graph, images, graph.outputs),
        "preprocess": (stages["preprocess"], images, ("pixels",)),
        "network": (stages["network"], torch.zeros(2, 3, *size), ("raw", "score")),
        "postprocess": (stages["postprocess"], maps, ("map",)),
    }
    files = {}
    for name, (module, example, outputs) in parts.items():
        dynamic = (0, 1, 2) if example.dtype == torch.uint8 else (0,)
        shapes = {axis: Dim.DYNAMIC if axis in dynamic else Dim.STATIC for axis in range(4)}
        with torch.no_grad():
            program = torch.export.export(module, (example,), dynamic_shapes=(shapes,))
        files[name] = folder / f"{name}.onnx"
        write_onnx(program, files[name], outputs)
    return files


def _eager(detector: Detector, folder: Path, size: tuple[int, int]) -> Engine:
    started = time.perf_counter()
    Detector.load(folder)
    load_ms = 1000 * (time.perf_counter() - started)

    def preprocess(images: np.ndarray) -> Tensor:
        return detector.resize(torch.from_numpy(images).permute(0, 3, 1, 2))

    def whole(images: np.ndarray) -> Any:
        raw, score = detector(preprocess(images))
        return upsample(raw, size), score

    stages: dict[str, Stage] = {
        "preprocess": preprocess,
        "network": detector,
        "postprocess": lambda maps: upsample(maps, size),
    }
    return Engine(load_ms, _no_grad(whole), {name: _no_grad(stage) for name, stage in stages.items()})


def _folded(graph: DetectorGraph, stages: dict[str, nn.Module], *, compiled: bool) -> Engine:
    graph.to(memory_format=torch.channels_last)
    parts: dict[str, Any] = {"whole": graph, **stages}
    started = time.perf_counter()
    if compiled:
        parts = {name: torch.compile(part) for name, part in parts.items()}
    calls = {name: _no_grad(_unwrap(part)) for name, part in parts.items()}
    if compiled:
        calls["whole"](np.zeros((1, 300, 280, 3), np.uint8))
    load_ms = 1000 * (time.perf_counter() - started)
    return Engine(load_ms, calls["whole"], {name: calls[name] for name in STAGES})


def _unwrap(part: Any) -> Stage:
    def call(values: Any) -> Any:
        answers = part(torch.from_numpy(values) if isinstance(values, np.ndarray) else values)
        return answers[0] if len(answers) == 1 else answers

    return call


def _no_grad(stage: Stage) -> Stage:
    def call(values: Any) -> Any:
        with torch.inference_mode():
            return stage(values)

    return call


def _from_files(files: dict[str, Path], load: Callable[..., Any], threads: int) -> Engine:
    started = time.perf_counter()
    whole = load(files["whole"], threads=threads)
    load_ms = 1000 * (time.perf_counter() - started)
    runs = {name: load(files[name], threads=threads) for name in STAGES}
    stages: dict[str, Stage] = {
        "preprocess": lambda images: runs["preprocess"](images)["pixels"],
        "network": lambda pixels: tuple(runs["network"](pixels).values()),
        "postprocess": lambda maps: runs["postprocess"](maps)["map"],
    }
    return Engine(load_ms, whole, stages)
