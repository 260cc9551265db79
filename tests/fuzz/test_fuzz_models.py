"""Model folders that are damaged or edited: they load and give numbers, or are refused in one line."""

import copy
import json
import math
import shutil
import struct
from pathlib import Path
from typing import Any

import fuzz_kit
import numpy as np
import pytest
import torch
from fuzz_kit import count, one_line, rounds
from safetensors.torch import load_file, save_file

import dmdd
from dmdd.core.errors import UserError
from dmdd.deploy.serve.model import load_model
from dmdd.models.detector import FORMAT_VERSION
from tiny import draw_pixels, save_tiny_model

pytestmark = pytest.mark.filterwarnings("ignore")

PIXELS = draw_pixels(1)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 64, 100, 10**9, 10**40, -0.0, 0.5, 1e300, -1e-9),
    *(math.nan, math.inf, -math.inf),
    *("", "x", "1", "null", "resnet18", "resnet10t.c3_in1k", "hf-hub:timm/resnet18", "local-dir:/tmp"),
    *("../../etc/passwd", "segmentation", "vit_tiny_patch16_224", "encoder_decoder"),
    *([], [1], [8, 12, 16], [64, 64], [0, 0, 0], [1e9] * 3),
    *([0.5, 0.5, 0.5], [[]], ["a", "b"], [64, 64, 64], {}, {"a": 1}, {"_target_": "os.system"}),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("run") / "model")


@pytest.fixture(scope="module")
def expected(folder) -> float:
    return dmdd.load(folder, device="cpu")(PIXELS).score


def outcome(folder: Path) -> str:
    """Load and use a model: `refused`, or `used` with a map and a score that are numbers in [0, 1]."""
    try:
        model = load_model(folder)
        found = model.predictor(PIXELS)
    except UserError as error:
        one_line(error)
        return "refused"
    assert 0 <= found.score <= 1
    assert found.map.shape == PIXELS.shape[:2]
    assert np.isfinite(found.map).all()
    assert found.map.min() >= 0
    assert found.map.max() <= 1
    return "used"


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every entry of the description at any depth."""
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [place for key, value in entries for place in ((*path, key), *places(value, (*path, key)))]


def edited(spec: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
    """Replace, remove, rename or add an entry anywhere."""
    made = copy.deepcopy(spec)
    everywhere = places(made)
    *path, last = everywhere[generator.integers(0, len(everywhere))]
    node: Any = made
    for key in path:
        node = node[key]
    match generator.integers(0, 6):
        case 0:
            del node[last]
        case 1 if isinstance(node, dict):
            node[f"{last}x"] = node.pop(last)
        case 2 if isinstance(node, dict):
            node["more"] = VALUES[generator.integers(0, len(VALUES))]
        case _:
            node[last] = VALUES[generator.integers(0, len(VALUES))]
    return made


def copied(folder: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(folder, target))


def test_every_entry_with_every_value_gives_numbers_or_a_refusal(folder, tmp_path, generator):
    spec = json.loads((folder / "detector.json").read_text())
    target = copied(folder, tmp_path / "model")
    cases = [(place, value) for place in places(spec) for value in VALUES]
    number = min(len(cases), rounds(40, len(cases)))
    cases = [cases[index] for index in generator.choice(len(cases), number, replace=False)]
    for (*path, last), value in cases:
        made = copy.deepcopy(spec)
        node: Any = made
        for key in path:
            node = node[key]
        node[last] = value
        (target / "detector.json").write_text(json.dumps(made))
        count("models, one entry set", outcome(target))


def test_edited_descriptions(folder, tmp_path, generator):
    spec = json.loads((folder / "detector.json").read_text())
    target = copied(folder, tmp_path / "model")
    for _ in range(rounds(20, 600)):
        made = spec
        for _ in range(int(generator.integers(1, 4))):
            made = edited(made, generator)
        (target / "detector.json").write_text(json.dumps(made))
        count("models, edited", outcome(target))


def test_damaged_files(folder, tmp_path, generator, expected):
    target = copied(folder, tmp_path / "model")
    for _ in range(rounds(30, 800)):
        name = ("detector.json", "weights.safetensors")[generator.integers(0, 2)]
        whole = (folder / name).read_bytes()
        data = fuzz_kit.damaged(whole, generator)
        if name == "weights.safetensors" and generator.random() < 0.5:  # in the header, not among the numbers
            header = 8 + struct.unpack("<Q", whole[:8])[0]
            data = fuzz_kit.damaged(whole[:header], generator) + whole[header:]
        (target / name).write_bytes(data)
        count(f"models, damaged {name.rpartition('.')[2]}", outcome(target))
        shutil.copy(folder / name, target / name)
    assert load_model(target).predictor(PIXELS).score == expected


def test_weights_of_another_shape_or_type_or_that_are_no_numbers(folder, tmp_path, generator):
    target = copied(folder, tmp_path / "model")
    file = target / "weights.safetensors"
    state = load_file(file)
    # Batch counters are not used: PyTorch fills in missing ones and takes a list of one for a number.
    names = sorted(name for name in state if not name.endswith("num_batches_tracked"))
    for _ in range(rounds(16, 400)):
        name = names[generator.integers(0, len(names))]
        tensor = state[name]
        changed: dict[str, torch.Tensor] = dict(state)
        match generator.integers(0, 7):
            case 0:
                changed[name] = tensor[None].contiguous()
            case 1:
                changed[name] = torch.zeros(*tensor.shape, 2)
            case 2:
                other = (torch.float64, torch.float16, torch.int32, torch.bool)[generator.integers(0, 4)]
                changed[name] = tensor.to(other)
            case 3 | 4 if tensor.is_floating_point() and tensor.numel():
                spoilt = tensor.clone()
                spoilt.view(-1)[generator.integers(0, tensor.numel())] = (math.nan, math.inf)[generator.integers(0, 2)]
                changed[name] = spoilt
            case 5:
                changed["more"] = torch.zeros(2)
            case _:
                del changed[name]
        save_file(changed, file)
        found = outcome(target)
        assert found == "refused", name
        count("models, wrong tensors", found)


def test_weights_of_enormous_or_absurd_size_give_numbers_or_a_refusal(folder, tmp_path, generator):
    """Finite numbers that make infinite or undefined ones on the way."""
    target = copied(folder, tmp_path / "model")
    state = load_file(target / "weights.safetensors")
    floats = sorted(name for name, tensor in state.items() if tensor.is_floating_point())
    for _ in range(rounds(8, 200)):
        changed = dict(state)
        for name in generator.choice(floats, 3):
            factor = float((1e30, -1e30, 0.0, -1.0, 1e-38)[generator.integers(0, 5)])
            changed[name] = (state[name] + 1) * factor if generator.random() < 0.5 else state[name] * factor
        save_file(changed, target / "weights.safetensors")
        count("models, absurd numbers", outcome(target))


@pytest.mark.parametrize("name", ["detector.json", "weights.safetensors"])
def test_missing_and_odd_files(folder, tmp_path, name):
    target = copied(folder, tmp_path / "model")
    (target / name).unlink()
    for make in (lambda file: None, Path.mkdir, Path.rmdir, Path.touch, lambda file: file.write_text("[" * 100_000)):
        make(target / name)
        assert outcome(target) == "refused"
        count("models, missing or odd files", "refused")


def test_unknown_versions(folder, tmp_path):
    target = copied(folder, tmp_path / "model")
    spec = json.loads((folder / "detector.json").read_text())
    for version in (0, -1, FORMAT_VERSION + 1, 99, 1.5, "3", True, None, [], {}):
        (target / "detector.json").write_text(json.dumps(spec | {"format_version": version}))
        with pytest.raises(UserError, match="format version"):
            dmdd.load(target)
        count("models, other versions", "refused")
