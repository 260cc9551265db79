"""ONNX files: written from the traced program, stored in half precision or quantised."""

import ast
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

OPSET = 20
INPUT = "images"
METADATA_KEY = "dmdd"
QUANTIZED = re.compile(r"\.student\.body\.|\.student\.heads\.\d+\.(first|second|(normality|abnormality)\.0)\b")


def write_onnx(program: ExportedProgram, file: Path, outputs: tuple[str, ...]) -> None:
    """Translate the program to ONNX.

    Args:
        program: As traced.
        file: Where to.
        outputs: Names for the program's outputs.
    """
    translated = torch.onnx.export(
        program, opset_version=OPSET, input_names=[INPUT], output_names=list(outputs), verbose=False, dynamo=True
    )
    assert translated is not None  # None is for the exporter that writes the file itself
    translated.save(file)


def add_metadata(file: Path, metadata: dict[str, Any]) -> None:
    """Write metadata into an ONNX file, and names for what its axes mean.

    Args:
        file: Changed in place.
        metadata: Plain JSON values, kept as one JSON text under ``dmdd``.
    """
    import onnx

    model = onnx.load(file)
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(metadata)})
    model.producer_name = "dmdd"
    axes = {
        INPUT: ("batch", "height", "width"),
        "map": ("batch", "height", "width"),
        "score": ("batch",),
        "raw_score": ("batch",),
        "raw": ("batch",),
    }
    for value in [*model.graph.input, *model.graph.output]:
        for dimension, name in zip(value.type.tensor_type.shape.dim, axes[value.name], strict=False):
            if not dimension.HasField("dim_value"):
                dimension.dim_param = name
    onnx.save(model, file)


def halve_weights(file: Path) -> None:
    """Store the weights of the convolutions as float16, each with a cast back to float32 before its use.

    The arithmetic stays float32 where the runtime does not choose otherwise: sizes and positions of a large image do
    not fit in float16, and CPUs of ONNX Runtime have no kernels for it.

    Args:
        file: Changed in place.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(file)
    graph = model.graph
    used = {name for node in graph.node if node.op_type == "Conv" for name in node.input[1:]}
    casts = []
    for tensor in graph.initializer:
        if tensor.name not in used or tensor.data_type != TensorProto.FLOAT:
            continue
        name, values = tensor.name, numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(values, f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    described = [value for value in graph.value_info if value.name not in used]
    del graph.value_info[:]
    graph.value_info.extend(described)
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, file)


def quantize(file: Path, images: Iterator[np.ndarray], folder: Path) -> None:
    """Quantise convolutions to int8, weights per output channel, activations by their range over normal images.

    Only those of ``QUANTIZED``, half of the arithmetic. With the teacher's first blocks in int8 the maps were useless,
    since its features are what everything is compared with. The segmentation network sees anomalies, which normal
    images do not calibrate. Whitening makes small errors of the heads' last layers large (docs/results/export.md).

    Args:
        file: Changed in place.
        images: Normal images, each as the graph takes one.
        folder: For files in between.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(images, None)
            return None if image is None else {INPUT: image}

    chosen = _find_nodes(file)
    prepared, quantized = folder / "prepared.onnx", folder / "quantized.onnx"
    # It advises on the root logger to do what is done here.
    logging.getLogger().addFilter(_is_no_advice)
    try:
        quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(quantized),
            Reader(),
            op_types_to_quantize=["Conv"],
            nodes_to_quantize=chosen,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
    finally:
        logging.getLogger().removeFilter(_is_no_advice)
        prepared.unlink(missing_ok=True)
    quantized.replace(file)


def _find_nodes(file: Path) -> list[str]:
    """Name the convolutions of the modules in ``QUANTIZED``; the exporter notes each node's modules in its metadata."""
    import onnx

    names = []
    for node in onnx.load(file, load_external_data=False).graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"), "[]")
        if node.op_type == "Conv" and any(QUANTIZED.search(scope) for scope in ast.literal_eval(scopes)):
            names.append(node.name)
    return names


def _is_no_advice(record: logging.LogRecord) -> bool:
    return "pre-processing" not in record.getMessage()
