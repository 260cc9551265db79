"""The export command as a user runs it, and what the files give in their runtimes."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
from PIL import Image
from torch import nn

import dmdd
from dmdd.calibrate import main as calibrate
from dmdd.core.errors import UserError
from dmdd.deploy.export.onnx import halve_weights
from dmdd.deploy.export.program import load_program
from dmdd.deploy.export.runtime import reference
from dmdd.deploy.runtimes import load_onnx, load_openvino
from dmdd.deploy.serve.exported import load_exported
from dmdd.export import main
from dmdd.models.detector import Detector
from dmdd.models.normal_scores import calibrate_scores
from dmdd.models.score_scale import ScoreScale
from dmdd.models.tiling import detect_tiled

REPOSITORY = Path(__file__).resolve().parents[3]
SIZES = [(2, 64, 96), (1, 300, 500), (3, 20, 30), (1, 1, 1)]


def noise(*size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)


def run(model: Path, *arguments: str) -> int:
    return main([f"model={model}", *arguments])


@pytest.fixture(scope="module")
def onnx_file(model, tmp_path_factory, demo_root) -> Path:
    file = tmp_path_factory.mktemp("onnx") / "part.onnx"
    data = ["dataset=demo", "category=plate", f"data_dir={demo_root}"]
    assert run(model, f"output={file}", *data) == 0
    return file


@pytest.fixture(scope="module")
def openvino_file(model, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("openvino") / "part.xml"
    assert run(model, "format=openvino", f"output={file}") == 0
    return file


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_files_give_the_detectors_answers_for_any_size(kind, model, request):
    load = {"onnx": load_onnx, "openvino": load_openvino}[kind]
    exported = load(request.getfixturevalue(f"{kind}_file"))
    expected = reference(Detector.load(model), None)
    for size in SIZES:
        ours, theirs = expected(noise(*size)), exported(noise(*size))
        assert list(theirs) == ["map", "score", "raw"]
        assert theirs["map"].shape == size
        assert theirs["raw"].shape == (size[0], 64, 96)
        for name in theirs:
            assert np.abs(theirs[name] - ours[name]).max() < 1e-4, (size, name)


def test_report_has_differences_metrics_and_times(onnx_file):
    report = json.loads((onnx_file.parent / "part.onnx.report.json").read_text())
    assert report["compared_on"] == "demo plate, test set"
    assert report["images"] == 12
    assert report["difference"]["map"]["max"] < 1e-3
    assert report["verdicts_changed"] == 0
    assert set(report["metrics"]["torch"]) == {"pixel_auroc", "aupro_30", "image_auroc"}
    for name, value in report["metrics"]["torch"].items():
        assert report["metrics"]["exported"][name] == pytest.approx(value, abs=0.02)
    assert min(report["latency_ms"].values()) > 0


def test_metadata_lies_inside_and_beside(onnx_file, openvino_file, model):
    beside = json.loads((onnx_file.parent / "part.onnx.json").read_text())
    properties = {entry.key: entry.value for entry in onnx.load(onnx_file).metadata_props}
    assert json.loads(properties["dmdd"]) == beside
    assert beside["image_threshold"] == 0.018
    assert beside["input_size"] == [64, 96]
    assert beside["weights_sha256"] == hashlib.sha256((model / "weights.safetensors").read_bytes()).hexdigest()
    inside = openvino.Core().read_model(openvino_file).get_rt_info("dmdd").value
    assert json.loads(inside) == json.loads((openvino_file.parent / "part.xml.json").read_text())
    assert sorted(file.name for file in openvino_file.parent.iterdir()) == [
        "part.bin",
        "part.xml",
        "part.xml.json",
        "part.xml.report.json",
    ]


def test_torch_program(model, tmp_path, capsys):
    file = tmp_path / "part.pt2"
    assert run(model, "format=torch", f"output={file}") == 0
    assert "synthetic images of 5 sizes" in capsys.readouterr().out
    exported, expected = load_program(file, ("map", "score", "raw")), reference(Detector.load(model), None)
    for name, values in expected(noise(1, 300, 500)).items():
        assert np.abs(exported(noise(1, 300, 500))[name] - values).max() < 1e-4


@pytest.fixture(scope="module")
def exported_for_two(model, tmp_path_factory) -> Path:
    """A model with thresholds for all and for each of two categories, its export, and photographs of good parts."""
    root, detector = tmp_path_factory.mktemp("two"), Detector.load(model)
    with torch.no_grad():
        raw = [float(detector(torch.from_numpy(noise(1, 64, 96 + n)).permute(0, 3, 1, 2)).score) for n in range(30)]
    detector.calibration = calibrate_scores(raw, rate=0.1) | {"pixel_threshold": 0.02, "typical_peak": 0.01}
    for name, factor in (("left", 0.5), ("right", 2)):
        own = calibrate_scores([factor * score for score in raw], rate=0.1)
        detector.category_calibrations[name] = own | {"pixel_threshold": 0.02 * factor, "typical_peak": 0.01 * factor}
    detector.save(root / "run/model")
    assert run(root / "run/model", f"output={root / 'part.onnx'}") == 0
    for n in range(40):
        (root / "good").mkdir(exist_ok=True)
        Image.fromarray(noise(1, 64, 96 + n)[0] // 2).save(root / f"good/{n}.png")
    return root


def test_exported_files_decide_by_the_thresholds_of_a_category(exported_for_two, tmp_path):
    root = shutil.copytree(exported_for_two, tmp_path / "two")
    images = [noise(1, 64, 100)[0], noise(1, 64, 100)[0] // 2, np.zeros((64, 100, 3), np.uint8)]

    def compare() -> list[list[bool]]:
        labels = []
        for category in (None, "left", "right"):
            ours = dmdd.load(root / "run/model", device="cpu", category=category)
            theirs, _ = load_exported(root / "part.onnx")
            theirs = theirs if category is None else theirs.of_category(category)
            for image in images:
                expected, found = ours(image), theirs(image)
                assert found.score == pytest.approx(expected.score, abs=1e-3)
                assert found.label == expected.label
                assert np.abs(found.mask.astype(int) - expected.mask).mean() < 0.01
            labels.append([ours(image).label for image in images])
        return labels

    of_all, left, right = compare()
    assert left != right
    # Both are set from the same photographs: the other category and the thresholds for all stay.
    before = json.loads((root / "part.onnx.json").read_text())
    for target in (root / "part.onnx", root / "run/model"):
        assert calibrate([f"model={target}", f"good={root / 'good'}", "rate=0.2", "category=left"]) == 0
    after = json.loads((root / "part.onnx.json").read_text())
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"category_calibrations", "former_calibrations"}
    assert after["category_calibrations"]["right"] == before["category_calibrations"]["right"]
    assert after["category_calibrations"]["left"] != before["category_calibrations"]["left"]
    again = compare()
    assert (again[0], again[2]) == (of_all, right)
    # The graph's own scale is that of its export, whatever was set before.
    assert calibrate([f"model={root / 'part.onnx'}", f"good={root / 'good'}", "rate=0.2"]) == 0
    last = json.loads((root / "part.onnx.json").read_text())
    scale = ScoreScale.of(before["calibration"])
    assert last["image_threshold"] == pytest.approx(scale.readable(last["calibration"]["image_threshold"]))
    with pytest.raises(UserError, match="category=side: the model is for left, right"):
        load_exported(root / "part.onnx")[0].of_category("side")


def test_a_calibrated_models_scores_are_on_the_scale_and_its_json_can_be_calibrated(exported_for_two, tmp_path, capsys):
    tmp_path = shutil.copytree(exported_for_two, tmp_path / "two")
    file = tmp_path / "part.onnx"
    scale = ScoreScale.of(Detector.load(tmp_path / "run/model").calibration)
    exported = load_onnx(file)(noise(1, 64, 100))
    assert list(exported) == ["map", "score", "raw", "raw_score"]
    assert exported["score"][0] == pytest.approx(scale.readable(float(exported["raw_score"][0])), abs=1e-3)
    before = json.loads((tmp_path / "part.onnx.json").read_text())
    assert before["image_threshold"] == 0.5
    assert before["calibration"]["image_threshold"] == scale.threshold
    capsys.readouterr()
    assert calibrate([f"model={file}", f"good={tmp_path / 'good'}", "rate=0.2"]) == 0
    after = json.loads((tmp_path / "part.onnx.json").read_text())
    new = after["calibration"]["image_threshold"]
    assert after["image_threshold"] == pytest.approx(scale.readable(new))  # on the scale that the graph has
    assert after["former_calibrations"] == [before["calibration"]]
    assert after["pixel_threshold"] == after["calibration"]["pixel_threshold"] != before["pixel_threshold"]
    assert {**after, "former_calibrations": 0}.keys() == {**before, "former_calibrations": 0}.keys()


def test_tiles_inside_the_graph(model, tmp_path):
    file = tmp_path / "part.onnx"
    sizes = ((1, 64, 48), (2, 130, 100), (1, 20, 200))
    for number, size in enumerate(sizes):  # few small ones: of the synthetic ones the largest alone is 600 tiles
        Image.fromarray(noise(*size)[0]).save(tmp_path / f"{number}.png")
    assert run(model, "tile=true", "tile_px=[64,48]", "overlap=0.25", f"images={tmp_path}", f"output={file}") == 0
    exported, detector = load_onnx(file), Detector.load(model)
    for size in sizes:
        pixels = torch.from_numpy(noise(*size)).permute(0, 3, 1, 2)
        with torch.no_grad():
            expected = detect_tiled(detector, pixels, tile_px=(64, 48), overlap=0.25)
        found = exported(noise(*size))
        assert list(found) == ["map", "score"]
        assert np.abs(found["map"] - expected.map[:, 0].numpy()).max() < 1e-4
        assert np.abs(found["score"] - expected.score.numpy()).max() < 1e-4


def test_int8_reports_its_loss(model, tmp_path, demo_root, onnx_file):
    file = tmp_path / "part.onnx"
    data = ["dataset=demo", "category=plate", f"data_dir={demo_root}", "calibration_images=4"]
    assert run(model, "precision=int8", f"output={file}", *data) == 0
    assert file.stat().st_size < onnx_file.stat().st_size
    report = json.loads((tmp_path / "part.onnx.report.json").read_text())
    assert 0 < report["difference"]["map"]["max"] < 0.1
    assert set(report["metrics"]) == {"torch", "exported"}
    kinds = [node.op_type for node in onnx.load(file).graph.node]
    # Those of the student's body and of its heads but their last ones; each head's first one is cut in two.
    weights = [tensor for tensor in onnx.load(file).graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    assert kinds.count("QuantizeLinear") > 0
    assert len([tensor for tensor in weights if len(tensor.dims) == 4]) == count_quantized(model)


def count_quantized(model: Path) -> int:
    detector = Detector.load(model)
    convolutions = [module for module in detector.student.body.modules() if isinstance(module, nn.Conv2d)]
    return len(convolutions) + 4 * len(detector.student.heads)


def test_float16_halves_the_weights(model, tmp_path, onnx_file):
    file = tmp_path / "part.onnx"
    shutil.copy(onnx_file, file)
    halve_weights(file)
    # The Gaussian of whole images, 1 MB here, is no convolution and stays as it is.
    assert file.stat().st_size < 0.65 * onnx_file.stat().st_size
    onnx.checker.check_model(onnx.load(file))
    whole, half = load_onnx(onnx_file)(noise(2, 70, 50)), load_onnx(file)(noise(2, 70, 50))
    assert 0 < np.abs(whole["map"] - half["map"]).max() < 1e-2


def test_a_difference_over_the_tolerance_leaves_no_file(model, tmp_path, capsys):
    folder = tmp_path / "out"
    assert run(model, "format=torch", "tolerance=0", f"output={folder}/part.pt2") == 1
    assert re.search(r"error: map or score differ by .*, more than tolerance=0; .*part.pt2", capsys.readouterr().err)
    assert [file.name for file in folder.iterdir()] == ["part.pt2.report.json"]
    assert "differ by" in json.loads((folder / "part.pt2.report.json").read_text())["failed"]


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_the_snippets_of_the_documentation_run(kind, onnx_file, openvino_file, model, tmp_path, monkeypatch, capsys):
    page = (REPOSITORY / "docs/export.md").read_text(encoding="utf-8")
    snippets = [part.partition("```")[0] for part in page.split("```python\n")[1:]]
    (snippet,) = [text for text in snippets if {"onnx": "onnxruntime", "openvino": "openvino"}[kind] in text]
    file = {"onnx": onnx_file, "openvino": openvino_file}[kind]
    for part in file.parent.iterdir():
        shutil.copy(part, tmp_path / part.name.replace("part", "detector"))
    Image.fromarray(noise(70, 50)).save(tmp_path / "part.png")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(snippet, names)
    expected = dmdd.load(model, device="cpu")("part.png")
    assert np.abs(names["map"] - expected.map).max() < 1e-4
    assert names["score"] == pytest.approx(expected.score, abs=1e-4)
    assert names["anomalous"] == (names["score"] >= 0.018)
    assert np.array_equal(names["mask"], names["map"] >= 0.02)


def test_a_folder_of_images_and_the_default_place(model, tmp_path, demo_category):
    shutil.copytree(model, tmp_path / "run/model")
    (tmp_path / "images").mkdir()
    for sample in demo_category.test[:2]:
        shutil.copy(sample.path, tmp_path / "images" / f"{sample.defect}_{sample.path.name}")
    assert run(tmp_path / "run/model", "format=torch", f"images={tmp_path / 'images'}") == 0
    assert sorted(file.name for file in (tmp_path / "run/export").iterdir()) == [
        "detector.pt2",
        "detector.pt2.json",
        "detector.pt2.report.json",
    ]
    report = json.loads((tmp_path / "run/export/detector.pt2.report.json").read_text())
    assert report["images"] == 2
    assert "metrics" not in report


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model=null"], "model is missing: give model=FOLDER"),
        (["model=nowhere"], "no detector.json in .*nowhere; give the model folder of a finished run"),
        (["format=tflite"], "format=tflite: choose one of onnx, openvino, torch"),
        (["precision=int4"], "precision=int4: choose one of float32, float16, int8"),
        (["precision=int8"], "precision=int8 is calibrated on normal images: give category="),
        (["format=torch", "precision=float16"], "precision=float16 needs format=onnx or format=openvino"),
        (["output=part.bin"], r"output=part.bin: a file of format=onnx ends in \.onnx"),
        (["tile=true", "overlap=1"], "overlap=1: give a number from 0 to 0.9"),
        (["tile=true", "tile_px=0"], "tile_px=0: give a number of pixels"),
        (["calibration_images=0"], "calibration_images=0: give a positive whole number"),
        (["tolerance=small"], "tolerance=small: give a number"),
        (["images=nowhere"], "images=nowhere: no such folder"),
        (["images=."], "images=.: no images in this folder"),
        (["category=nosuch", "dataset=demo"], "unknown category 'nosuch'|no data folder"),
        (["fromat=onnx"], "fromat"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments, message, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = [] if arguments[0].startswith("model=") else [f"model={model}"]
    output = [] if arguments[0].startswith("output=") else ["output=out/part." + _suffix(arguments)]
    assert main([*given, *output, *arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(f"^error: .*({message})", error), error
    assert len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def _suffix(arguments: list[str]) -> str:
    return "pt2" if "format=torch" in arguments else "onnx"


def test_a_place_that_cannot_be_written_to_is_one_line(model, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([f"model={model}", "format=onnx", f"output={tmp_path}/file/x.onnx"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}/file")
    assert "cannot be written: " in error
