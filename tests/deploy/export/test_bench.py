"""The measurement of speed as a user runs it."""

import json
import re

import numpy as np
import pytest

from dmdd.bench import main
from dmdd.deploy.bench.engines import Engine
from dmdd.deploy.bench.speed import measure


def test_all_runtimes_side_by_side(model, tmp_path, capsys):
    file = tmp_path / "speed.json"
    small = ["runs=2", "batches=[2]", "image_size=[80,100]", "threads=1", f"output={file}"]
    assert main([f"model={model}", *small]) == 0
    report = json.loads(file.read_text())
    assert list(report["engines"]) == ["torch", "torch_folded", "onnx", "openvino"]
    for row in report["engines"].values():
        assert row["load_ms"] >= 0
        assert list(row["latency_ms"]) == ["whole", "preprocess", "network", "postprocess"]
        assert all(0 < times["p50"] <= times["p99"] for times in row["latency_ms"].values())
        assert row["images_per_s"]["2"] > 0
    assert report["threads"] == 1
    assert {"torch", "onnxruntime", "openvino"} <= set(report["versions"])
    assert "openvino" in capsys.readouterr().out


def test_stages_are_fed_what_the_stage_before_gave():
    seen = {}

    def note(name, answer):
        def call(values):
            seen[name] = values
            return answer

        return call

    engine = Engine(
        1.0,
        note("whole", None),
        {
            "preprocess": note("preprocess", "pixels"),
            "network": note("network", ("raw", 0)),
            "postprocess": note("p", 0),
        },
    )
    images = np.zeros((4, 2, 2, 3), np.uint8)
    row = measure(engine, images, runs=1, batches=[2, 4])
    assert seen["preprocess"].shape == (1, 2, 2, 3)
    assert (seen["network"], seen["p"]) == ("pixels", "raw")
    assert seen["whole"].shape == (4, 2, 2, 3)
    assert list(row["images_per_s"]) == ["2", "4"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model=null"], "model is missing: give model=FOLDER"),
        (["engines=[tensorrt]"], r"engines=\['tensorrt'\]: choose from torch, torch_folded, torch_compiled, onnx"),
        (["engines=[]"], r"engines=\[\]: choose from torch"),
        (["image_size=[100]"], r"image_size=\[100\]: give height and width"),
        (["image_size=[0,100]"], r"image_size=\[0,100\]: give a positive whole number"),
        (["runs=0"], "runs=0: give a positive whole number"),
        (["batches=[8,-1]"], r"batches=\[8,-1\]: give a positive whole number"),
        (["threads=0"], "threads=0: give a positive whole number"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments, message, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = [] if arguments[0].startswith("model=") else [f"model={model}"]
    assert main([*given, *arguments]) == 2
    assert re.search(f"^error: {message}", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_what_was_measured_is_shown_even_where_it_cannot_be_written(model, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    arguments = [f"model={model}", "engines=[torch]", "image_size=[64,64]", "runs=1", "batches=[1]"]
    assert main([*arguments, f"output={tmp_path}/file/bench.json"]) == 2
    shown = capsys.readouterr()
    assert "torch" in shown.out
    assert shown.err.startswith(f"error: {tmp_path}/file")
    assert "cannot be written: " in shown.err
