"""Graphs of one size: the detector's own answers, in shapes and operators that compilers for devices take."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from dmdd.core.errors import UserError
from dmdd.core.resize import resize_images
from dmdd.deploy.export.fixed import FixedGraph
from dmdd.deploy.export.graph import DetectorGraph, stretch
from dmdd.deploy.export.operators import check_tensorrt
from dmdd.deploy.export.resizing import FixedResize
from dmdd.deploy.export.runtime import reference
from dmdd.export import main
from dmdd.models.detector import Detector, Tiling
from tiny import THRESHOLDS, draw_pixels, save_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("run") / "model", calibration=THRESHOLDS)


@pytest.fixture(scope="module")
def detector(model):
    detector = Detector.load(model)
    detector.normal_baselines = {"geometric": (0.01, 0.3)}
    return detector


def half(height: int, width: int) -> torch.Tensor:
    region = torch.zeros(height, width, dtype=torch.bool)
    region[5:, : width // 2] = True
    return region


@pytest.mark.parametrize("given", [(64, 96), (150, 201), (40, 30)])
def test_resize_with_constants_is_the_resize(given):
    images = torch.randint(0, 256, (2, 3, *given), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = FixedResize(given, (64, 96))(images.float())
    difference = (found - resize_images(images, (64, 96)).float()).abs()
    assert float(difference.max()) <= 1
    assert float((difference > 0).float().mean()) < 1e-4


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("tiling", [None, Tiling((80, 96), 0.25)])
@pytest.mark.parametrize("with_region", [False, True])
def test_a_fixed_graph_is_the_detector(detector, layout, tiling, with_region):
    size = (150, 200) if tiling is not None else (64, 96)
    region = half(*size) if with_region else None
    images = draw_pixels(0, *size)[None]
    expected = reference(detector, tiling, region)(images)
    graph = FixedGraph(detector, size=size, layout=layout, tiling=tiling, region=region)
    given = torch.from_numpy(images)
    with torch.no_grad():
        map_, score = graph(given if layout == "nhwc" else given.permute(0, 3, 1, 2).float() / 255)
    assert np.abs(map_.numpy() - expected["map"]).max() < 1e-4
    assert np.abs(score.numpy() - expected["score"]).max() < 1e-5
    if region is not None:
        assert not map_[0][~region].any()


def test_a_region_becomes_part_of_the_flexible_graph(detector):
    region = half(70, 100)
    for height, width in ((70, 100), (140, 130)):
        images = draw_pixels(1, height, width)[None]
        expected = reference(detector, None, region)(images)
        with torch.no_grad():
            map_, score, _ = DetectorGraph(detector, region=region)(torch.from_numpy(images))
        assert np.abs(map_.numpy() - expected["map"]).max() < 1e-3
        assert float(score) == pytest.approx(float(expected["score"][0]), abs=1e-4)
    wider = torch.nn.functional.interpolate(region[None, None].float(), size=(33, 251), mode="nearest-exact")[0, 0]
    assert torch.equal(stretch(region.float(), (33, 251)), wider)
    with pytest.raises(UserError, match=r"a region of interest in tiles needs images of one size: give fixed_size="):
        DetectorGraph(detector, tiling=Tiling((64, 64), 0.25), region=region)
    with pytest.raises(UserError, match=r"fixed_size=\[64,96\]: the region of interest is of \[70,100\] px"):
        FixedGraph(detector, size=(64, 96), region=region)


def test_the_command_writes_a_file_that_tensorrt_knows(model, tmp_path, capsys):
    file = tmp_path / "fixed.onnx"
    polygons = tmp_path / "roi.json"
    polygons.write_text("[[[0, 0], [60, 0], [60, 69], [0, 69]]]")
    settings = [f"model={model}", f"output={file}", "fixed_size=[70,100]", "layout=nchw", f"roi={polygons}"]
    assert main(settings) == 0, capsys.readouterr().err
    graph = onnx.load(file).graph
    shapes = [[side.dim_value for side in v.type.tensor_type.shape.dim] for v in (*graph.input, *graph.output)]
    assert shapes == [[1, 3, 70, 100], [1, 70, 100], [1]]
    operators = {node.op_type for node in graph.node}
    assert not operators & {"Range", "CumSum", "Shape", "NonZero", "Loop", "If"}
    card = json.loads(file.with_name("fixed.onnx.json").read_text())
    assert card["input"] == {"images": "(1, 3, 70, 100) float32 in [0, 1], RGB"}
    assert (card["colour_order"], card["layout"], card["range"]) == ("RGB", "nchw", [0, 1])
    assert card["fixed_size"] == [70, 100]
    assert card["region"] == {"size": [70, 100], "share": pytest.approx(61 / 100)}
    report = json.loads(file.with_name("fixed.onnx.report.json").read_text())
    assert report["not_for_tensorrt_8.4"] == check_tensorrt(file) == []
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    image = draw_pixels(3, 70, 100)
    map_, _ = session.run(None, {"images": image.transpose(2, 0, 1)[None].astype(np.float32) / 255})
    assert not map_[0, :, 61:].any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["fixed_size=70"], "fixed_size=70: give "),
        (["fixed_size=[70,0]"], "fixed_size=[70,0]: give "),
        (["layout=hwc"], "layout=hwc: choose one of nhwc, nchw"),
        (["layout=nchw"], "layout=nchw counts only with fixed_size=[height,width]"),
        (["roi=roi.json"], "roi= needs the images' size: give fixed_size=[height,width]"),
        (["roi=nowhere.png"], "roi=nowhere.png: no such file or folder"),
    ],
)
def test_bad_settings_are_one_line(model, tmp_path, monkeypatch, capsys, settings, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "roi.json").write_text("[[[0, 0], [9, 0], [9, 9]]]")
    assert main([f"model={model}", f"output={tmp_path}/x.onnx", *settings]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_what_tensorrt_does_not_take_is_named(tmp_path):
    helper, kinds = onnx.helper, onnx.TensorProto
    given = helper.make_tensor_value_info("x", kinds.FLOAT, ["n", 5000])
    made = [helper.make_tensor_value_info(name, kinds.FLOAT, None) for name in ("v", "d")]
    most = helper.make_tensor("k", kinds.INT64, [1], [4000])
    nodes = [helper.make_node("TopK", ["x", "k"], ["v", "i"]), helper.make_node("Det", ["x"], ["d"])]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [given], made, [most])), tmp_path / "x.onnx")
    found = check_tensorrt(tmp_path / "x.onnx")
    assert found[:2] == ["Det", "TopK with a K above 3840"]
    assert "an input of any size" in found[2]
