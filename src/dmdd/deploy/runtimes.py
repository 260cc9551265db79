"""Exported files run by their own runtimes. Nothing here needs torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dmdd.deploy.export.signal_stack import keep_signal_stack

Run = Callable[[np.ndarray], dict[str, np.ndarray]]
"""From images ``(B, H, W, 3)`` uint8 to the graph's outputs by name."""


def load_onnx(file: Path, *, threads: int | None = None) -> Run:
    """Load an ONNX file into ONNX Runtime on the CPU.

    Args:
        file: As written here.
        threads: Of one inference; the runtime's choice if None.

    Returns:
        The graph as a function of images.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; its warnings are about shapes that are not known before an image comes
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    entry = session.get_inputs()[0].name

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, {entry: images}), strict=True))

    return run


def load_openvino(file: Path, *, threads: int | None = None) -> Run:
    """Load an OpenVINO or ONNX file into OpenVINO on the CPU, computing in float32.

    Args:
        file: ``.xml`` or ``.onnx``.
        threads: Of one inference; the runtime's choice if None.

    Returns:
        The graph as a function of images.
    """
    import openvino

    # Processors with bfloat16 units would compute in bfloat16 unless told otherwise.
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    core = openvino.Core()
    graph = core.read_model(str(file))
    # Of the graph as read: compiled, an output also has the names of the steps that were fused into it.
    names = [output.any_name for output in graph.outputs]
    with keep_signal_stack():
        model = core.compile_model(graph, "CPU", settings)

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        answers = model(images)
        return {name: answers[place] for place, name in enumerate(names)}

    return run
