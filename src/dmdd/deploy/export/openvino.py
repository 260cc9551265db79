"""OpenVINO files: converted from the ONNX file, with the weights beside the graph."""

import json
from pathlib import Path
from typing import Any

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
