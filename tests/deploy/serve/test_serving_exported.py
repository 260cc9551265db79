"""Exported files behind the server, in a process that has no torch."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from dmdd.core.errors import UserError
from dmdd.deploy.serve.exported import ExportedPredictor, load_exported
from dmdd.deploy.serve.limits import Refusal
from dmdd.deploy.serve.model import load_model
from dmdd.models.score_scale import ScoreScale
from patience import PATIENCE_S

CARD = {
    "input_size": [64, 96],
    "output": {"map": "", "score": ""},
    "image_threshold": 0.4,
    "pixel_threshold": 0.25,
    "smallest_area_px": 0,
    "weights_sha256": "ab" * 32,
    "layout": "nhwc",
}
SCALED = {
    "image_threshold": 0.4,
    "typical_score": 0.2,
    "pixel_threshold": 0.25,
    "false_alarm_table": {"scores": [0.1, 0.9], "rates": [1.0, 0.01]},
}

WITHOUT_TORCH = """
import sys
for name in ("torch", "torchvision", "lightning", "timm", "torchmetrics", "albumentations", "matplotlib", "wandb",
             "safetensors", "rich"):
    sys.modules[name] = None
from dmdd.serve import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """A graph whose map is the mean of an image's colours, and whose score is the largest value of its map."""
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "last"], ["grey"], keepdims=0),
        helper.make_node("Div", ["grey", "full"], ["map"]),
        helper.make_node("ReduceMax", ["map", "sides"], ["score"], keepdims=0),
    ]
    constants = [
        helper.make_tensor("last", TensorProto.INT64, [1], [3]),
        helper.make_tensor("sides", TensorProto.INT64, [2], [1, 2]),
        helper.make_tensor("full", TensorProto.FLOAT, [], [255.0]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", "height", "width", 3])
    outputs = [
        helper.make_tensor_value_info("map", TensorProto.FLOAT, ["batch", "height", "width"]),
        helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"]),
    ]
    graph = helper.make_graph(nodes, "grey", [images], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    file = tmp_path_factory.mktemp("exported") / "bracket.onnx"
    onnx.save(model, file)
    file.with_name("bracket.onnx.json").write_text(json.dumps(CARD))
    return file


def test_a_process_without_torch_serves_an_onnx_file_and_sets_its_thresholds(exported, tmp_path):
    file = tmp_path / exported.name
    file.write_bytes(exported.read_bytes())
    beside = file.with_name("bracket.onnx.json")
    beside.write_text(json.dumps(CARD))
    command = [sys.executable, "-c", WITHOUT_TORCH, f"model={file}", "port=0"]
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        lines = [process.stdout.readline() for _ in range(2)]
        assert lines[0] == "model     bracket, 96 x 64 px\n", process.stderr.read()
        pixels = np.zeros((10, 20, 3), np.uint8)
        pixels[2:4, 5:8] = 102  # 0.4 of full scale
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "png")
        with httpx.Client(base_url=lines[1].split()[-1], timeout=PATIENCE_S) as client:
            found = client.post("/predict?mask=true", content=content.getvalue()).json()
            assert (found["score"], found["label"], found["width"]) == (pytest.approx(0.4), True, 20)
            assert client.get("/model").json()["weights_sha256"] == CARD["weights_sha256"]
            assert client.get("/").text.startswith("<!doctype html>")
            scored = client.post("/page/score", content=content.getvalue()).json()
            assert scored == pytest.approx({"raw_score": 0.4, "peak": 0.4})
            good = [{"raw_score": 0.45 + 0.005 * place, "peak": 0.5} for place in range(30)]
            asked = {"good": good, "rate": 0.1, "keep": True}
            answer = client.post("/page/calibrate", json=asked).json()
            assert (answer["kept"], answer["before"]["threshold"], answer["now"]["threshold"]) == (True, 0.4, 0.5)
            again = client.post("/predict", content=content.getvalue()).json()
            assert (again["label"], again["raw_score"]) == (False, pytest.approx(0.4))
            assert 0 < again["score"] < 0.5 < again["false_alarm_probability"]
            card = json.loads(beside.read_text())
            assert 0.55 < card["calibration"]["image_threshold"] == card["image_threshold"] < 0.65
            assert card["former_calibrations"] == [{"image_threshold": 0.4, "pixel_threshold": 0.25}]
    finally:
        process.kill()
        process.communicate()


def test_the_json_beside_the_file_decides():
    heat = np.zeros((1, 4, 6), np.float32)
    heat[0, 0, 0], heat[0, 2, 2:5] = 0.3, 0.3

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        return {"map": heat, "score": np.array([0.9]), "raw_score": np.array([0.39])}

    pixels = np.zeros((4, 6, 3), np.uint8)
    card = CARD | {"smallest_area_px": 2, "calibration": SCALED}
    found, scale = ExportedPredictor(run, card)(pixels), ScoreScale.of(SCALED)
    assert found.score == scale.readable(0.39)  # not what the graph was exported with
    assert (found.label, found.raw_score) == (False, 0.39)
    assert found.false_alarm_probability == scale.false_alarm_probability(0.39)
    assert found.mask.sum() == 3  # the single pixel is too small
    heat[0, 2, 3] = 0.4
    blurred = card | {"calibration": SCALED | {"spot_area_px": 2 * 64 * 96 / (4 * 6)}}  # 2 pixels of this image
    found = ExportedPredictor(run, blurred)(pixels)
    assert (found.spot_area_px, found.mask.any()) == (2, False)  # the one that is left is too small
    tiled = blurred | {"smallest_area_px": 0, "tiling": {"tile_px": [2, 6], "overlap": 0.0}}  # 1 pixel
    found = ExportedPredictor(run, tiled)(pixels)
    assert (found.spot_area_px, found.mask.sum()) == (1, 4)  # equal ones stay together
    unscaled = ExportedPredictor(run, CARD)(pixels)
    assert (unscaled.score, unscaled.label, unscaled.false_alarm_probability) == (0.9, True, None)


def test_a_fixed_size_and_its_layout_are_kept():
    seen = []

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        seen.append(images)
        return {"map": np.zeros((1, 4, 6), np.float32), "score": np.zeros(1)}

    predictor = ExportedPredictor(run, CARD | {"fixed_size": [4, 6], "layout": "nchw"})
    predictor(np.full((4, 6, 3), 51, np.uint8))
    assert (seen[0].shape, seen[0].dtype) == ((1, 3, 4, 6), np.float32)
    assert seen[0].flat[0] == pytest.approx(0.2)
    with pytest.raises(Refusal, match="the image has 7 x 4 px; this model takes images of 6 x 4 px only"):
        predictor(np.zeros((4, 7, 3), np.uint8))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("bracket.onnx", {"tile": True}, "tile=True: it is part of an exported model"),
        ("bracket.onnx", {"device": "cuda"}, "device=cuda: exported models are served on the CPU"),
        ("nosuch.onnx", {}, "nosuch.onnx: no such file"),
    ],
)
def test_what_cannot_be_used_is_told(exported, name, settings, message):
    with pytest.raises(UserError, match=message):
        load_model(exported.with_name(name), **settings)


def test_a_damaged_file_or_json_is_told(exported, tmp_path):
    file = tmp_path / "copy.onnx"
    file.write_bytes(exported.read_bytes()[:50])
    with pytest.raises(UserError, match=r"copy\.onnx\.json is missing or damaged; export the model again"):
        load_exported(file)
    file.with_name("copy.onnx.json").write_text(json.dumps(CARD))
    with pytest.raises(UserError, match=r"copy\.onnx cannot be loaded: "):
        load_exported(file)


def test_a_missing_runtime_is_told(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="need onnxruntime; install it: pip install onnxruntime"):
        load_exported(exported)
