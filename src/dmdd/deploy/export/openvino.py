"""OpenVINO files: converted from the ONNX file, with the weights beside the graph, and run by OpenVINO."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from dmdd.deploy.export.runtime import Run
from dmdd.deploy.export.signal_stack import keep_signal_stack

METADATA_KEY = "dmdd"


def write_openvino(onnx_file: Path, file: Path, metadata: dict[str, Any], *, half: bool = False) -> None:
    """Convert an ONNX file to OpenVINO's ``.xml`` and ``.bin``.

    Args:
        onnx_file: As written by :mod:`dmdd.deploy.export.onnx`.
        file: The ``.xml``; the ``.bin`` lies beside it.
        metadata: Plain JSON values, kept as one JSON text in the runtime information under ``dmdd``.
        half: Store the weights as float16.
    """
    import openvino

    model = openvino.convert_model(str(onnx_file))
    model.set_rt_info(json.dumps(metadata), METADATA_KEY)
    openvino.save_model(model, str(file), compress_to_fp16=half)


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
        return {name: answers[index] for index, name in enumerate(names)}

    return run
