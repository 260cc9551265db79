"""The samples in examples/: each gives the scores of the Python API."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pytest
from PIL import Image

import dmdd
from dmdd.export import main as export
from tiny import THRESHOLDS, draw_pixels, save_tiny_model

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
OPENVINO = Path(openvino.__file__).parent
ONNXRUNTIME = Path(onnxruntime.__file__).parent / "capi"
HEADERS = (os.environ.get("ONNXRUNTIME_INCLUDE"), "/usr/include/onnxruntime", "/usr/local/include/onnxruntime")
STAND_IN = Path(__file__).with_name("onnxruntime_stand_in.cs")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An exported detector as ONNX and OpenVINO for images of 70 x 100 px, and one image as PNG and PPM."""
    folder = tmp_path_factory.mktemp("examples")
    never = {"image_threshold": 0.999, "pixel_threshold": 0.999}
    categories = {"bracket": {"image_threshold": 0.0, "pixel_threshold": 0.0}, "lid": never}
    model = save_tiny_model(folder / "model", calibration=THRESHOLDS, categories=categories)
    size = "fixed_size=[70,100]"
    assert export([f"model={model}", size, f"output={folder}/detector.xml", "format=openvino"]) == 0
    assert export([f"model={model}", size, f"output={folder}/detector.onnx", "layout=nchw"]) == 0
    for ending in ("png", "ppm"):
        Image.fromarray(draw_pixels(0, 70, 100)).save(folder / f"part.{ending}")
    return folder


@pytest.fixture(scope="module")
def expected(folder):
    return dmdd.load(folder / "model", device="cpu")(folder / "part.png")


def run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def score_of(text: str) -> float:
    found = re.search(r"^score (\S+)$", text, re.MULTILINE)
    assert found is not None, text
    return float(found[1])


@pytest.mark.parametrize("file", ["detector.onnx", "detector.xml"])
def test_python(folder, expected, file):
    text = run(sys.executable, EXAMPLES / "score.py", folder / file, folder / "part.png")
    assert score_of(text) == pytest.approx(expected.score, abs=1e-4)
    assert ("anomalous" in text) == expected.label
    marked = int(re.search(r"threshold: (\d+)", text)[1])
    assert abs(marked - int(expected.mask.sum())) <= 0.01 * expected.mask.size


@pytest.mark.parametrize("file", ["detector.onnx", "detector.xml"])
def test_python_by_the_thresholds_of_a_category(folder, file):
    for category in ("bracket", "lid"):
        expected = dmdd.load(folder / "model", device="cpu", category=category)(folder / "part.png")
        text = run(sys.executable, EXAMPLES / "score.py", folder / file, folder / "part.png", category)
        assert score_of(text) == pytest.approx(expected.score, abs=1e-4)
        assert ("anomalous" in text) == expected.label == (category == "bracket")
        assert int(re.search(r"threshold: (\d+)", text)[1]) == int(expected.mask.sum()) == 7000 * expected.label


def test_openvino_in_cpp(folder, expected):
    compiler = shutil.which("g++")
    libraries = sorted((OPENVINO / "libs").glob("libopenvino.so*"))
    if compiler is None or not libraries or not (OPENVINO / "include/openvino/openvino.hpp").is_file():
        pytest.skip("needs g++ and the headers that come with openvino")
    program = folder / "score"
    includes = f"-I{OPENVINO / 'include'}"
    linking = [libraries[0], f"-Wl,-rpath,{OPENVINO / 'libs'}"]
    run(compiler, "-std=c++17", "-Wall", "-Werror", includes, EXAMPLES / "openvino.cpp", *linking, "-o", program)
    text = run(program, folder / "detector.xml", folder / "part.ppm", 0.5)
    assert score_of(text) == pytest.approx(expected.score, abs=1e-4)
    assert ("anomalous" in text) == expected.label
    highest = float(re.search(r"map: (\S+)", text)[1])
    assert highest == pytest.approx(float(np.max(expected.map)), abs=1e-3)
    wrong = subprocess.run(
        [program, folder / "detector.xml", folder / "part.png", "0.5"], capture_output=True, text=True
    )
    assert (wrong.returncode, wrong.stderr) == (2, f"error: {folder}/part.png is not a binary PPM file of 8 bits\n")


def test_onnxruntime_in_cpp(folder, expected):
    compiler = shutil.which("g++")
    headers = [Path(place) for place in HEADERS if place and (Path(place) / "onnxruntime_cxx_api.h").is_file()]
    libraries = sorted(ONNXRUNTIME.glob("libonnxruntime.so.*"))
    if compiler is None or not headers or not libraries:
        pytest.skip("needs g++, and ONNXRUNTIME_INCLUDE=FOLDER with onnxruntime_cxx_api.h of ONNX Runtime's release")
    assert export([f"model={folder}/model", "fixed_size=[70,100]", f"output={folder}/pixels.onnx"]) == 0
    program, linked = folder / "score_onnxruntime", folder / "libonnxruntime.so.1"
    linked.symlink_to(libraries[0])  # the pip package has the library without the name that programs look for
    linking = [linked, f"-Wl,-rpath,{folder}"]
    run(compiler, "-std=c++17", "-Wall", f"-I{headers[0]}", EXAMPLES / "onnxruntime.cpp", *linking, "-o", program)
    text = run(program, folder / "pixels.onnx", folder / "part.ppm", 0.5)
    assert score_of(text) == pytest.approx(expected.score, abs=1e-4)
    assert ("anomalous" in text) == expected.label
    highest = float(re.search(r"map: (\S+)", text)[1])
    assert highest == pytest.approx(float(np.max(expected.map)), abs=1e-3)


def test_csharp_against_a_stand_in_of_the_package(folder):
    """The package is not on the registries that tests may use; what it computes is not tested here."""
    compiler, runtime = shutil.which("mcs"), shutil.which("mono")
    if compiler is None or runtime is None:
        pytest.skip("needs Mono: apt-get install mono-mcs")
    program = folder / "Score.exe"
    run(compiler, "-warnaserror", f"-out:{program}", EXAMPLES / "Score.cs", STAND_IN)
    text = run(runtime, program, folder / "detector.onnx", folder / "part.ppm", 0.5)
    pixels = draw_pixels(0, 70, 100)
    assert score_of(text) == pytest.approx(pixels.mean() / 255, abs=1e-5)
    assert ("anomalous" in text) == (pixels.mean() / 255 >= 0.5)
    assert float(re.search(r"map: (\S+)", text)[1]) == pytest.approx(pixels[..., 0].max() / 255, abs=1e-5)
