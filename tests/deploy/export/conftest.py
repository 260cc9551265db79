from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.export import ExportedProgram

from dmdd.core.files import file_sha256
from dmdd.deploy.export import job
from dmdd.models.detector import Detector
from dmdd.models.segmentation import SegmentationNetwork
from dmdd.models.student import Student
from dmdd.models.teacher import Teacher


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """The model folder of a small detector with thresholds."""
    torch.manual_seed(0)
    teacher = Teacher(backbone="resnet10t")
    detector = Detector(
        teacher=teacher,
        student=Student(channels=teacher.channels, widths=(8, 12, 16)),
        segmentation=SegmentationNetwork(channels=teacher.channels, width=8),
        input_size=(64, 96),
    )
    detector.calibration = {"image_threshold": 0.018, "pixel_threshold": 0.02}
    folder = tmp_path_factory.mktemp("run") / "model"
    detector.save(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def translated_once() -> Iterator[None]:
    """Trace a graph and translate it to ONNX once, however many tests export it: each time takes 17 s of a core."""
    programs: dict[object, ExportedProgram] = {}
    translated: dict[object, bytes] = {}
    make_graph, trace, write_onnx = job.Job._graph, job.trace, job.write_onnx

    def tell_content(self: job.Job, detector: Detector, tiling: Any, region: Any) -> Any:
        """Note what the graph is made from."""
        graph = make_graph(self, detector, tiling, region)
        model = tuple(file_sha256(self.model / name) for name in ("detector.json", "weights.safetensors"))
        graph.content = (model, tiling, self.fixed_size, self.layout, None if region is None else region.tolist())
        return graph

    def trace_once(graph: Any) -> ExportedProgram:
        content = repr(graph.content)
        if content not in programs:
            programs[content] = trace(graph)
        return programs[content]

    def write_once(program: ExportedProgram, file: Path, outputs: tuple[str, ...]) -> None:
        key = (id(program), outputs)  # programs are kept, so no two have one id
        if key not in translated:
            write_onnx(program, file, outputs)
            translated[key] = file.read_bytes()
        file.write_bytes(translated[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job.Job, "_graph", tell_content)
        patch.setattr(job, "trace", trace_once)
        patch.setattr(job, "write_onnx", write_once)
        yield
