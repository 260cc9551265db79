"""Odd settings in bulk: a configuration, or one line and exit code 2; never a traceback, never a run folder left."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz_kit import count, rounds

from dmdd.config import schema
from dmdd.config.check import plain_of
from dmdd.config.command import run
from tiny import save_image, save_tiny_model

pytestmark = pytest.mark.filterwarnings("ignore")

COMMANDS = ("train", "evaluate", "predict", "export", "serve", "bench")
SCHEMAS = {command: getattr(schema, f"{command.title()}Settings") for command in COMMANDS}
NEEDED = {command: ["model=x"] for command in COMMANDS if command != "train"}
NEEDED["predict"] = ["model=x", "input=a", "output=b"]
VALUES = (
    *("", "null", "true", "false", "-1", "0", "1", "3", "0.5", "-0.5", "1e-9", "1e400", "nan", ".inf", "-inf", "NaN"),
    *("1000000000000", "99999999999999999999999", "0x10", "1_000", "1..2", "1,2", ",", "1,", "[]", "[1,2]", "[[]]"),
    *(
        "[64,64]",
        "['a',b]",
        "[1",
        "{}",
        "{a:1}",
        "{a:{b:[c]}}",
        "{a",
        "}",
        "x",
        "'x y'",
        '"x"',
        "'open",
        "a=b",
        "=",
        "?",
    ),
    *("???", "${nosuch}", "${category}", "${oc.env:NOSUCH}", "${oc.env:HOME}", "${seed}", "${", "$", "${now:%Y}"),
    *(
        "${hydra:runtime.cwd}",
        "${data}",
        "../..",
        "/etc/passwd",
        "~",
        "os.system",
        "torch.load",
        "größe",
        "\u202e",
        "\x00",
    ),
    *(
        "\n",
        "a\nb",
        "\\",
        "'\\'",
        "x" * 3000,
        "[" * 60,
        "{a:" * 60,
        "range(0,3)",
        "choice(1,2)",
        "glob(*)",
        "int(x)",
        "%s",
    ),
    *(
        "{_target_:os.system}",
        "{_target_:torch.load,f:x}",
        "[{_target_:builtins.eval}]",
        "${eval:1}",
        "!!python/name:os.system",
    ),
)
OPERATIONS = ("", "", "", "", "+", "++", "~")
ODD_NAMES = (
    "",
    "nosuch",
    "a.b.c",
    "trainer.",
    ".x",
    "hydra",
    "hydra.sweeper",
    "hydra.run.dir",
    "trainer.a.b",
    "category@x",
)
ODD_NAMES += (
    "dataset@teacher",
    "defaults",
    "_target_",
    "experiments",
    "experiments/ablation",
    "größe",
    "a b",
    "-x",
    "--x",
)


def leaves(node: Any, prefix: str = "") -> list[str]:
    """Every setting at any depth, groups included."""
    if not isinstance(node, dict):
        return [prefix]
    inner = [place for name, part in node.items() for place in leaves(part, f"{prefix}.{name}".lstrip("."))]
    return [*([prefix] if prefix else []), *inner]


@pytest.fixture(scope="module")
def names() -> dict[str, list[str]]:
    return {command: leaves(plain_of(SCHEMAS[command].compose(*NEEDED.get(command, [])))) for command in COMMANDS}


def odd(names: list[str], generator: np.random.Generator) -> str:
    """One override."""
    everything = [*names, *ODD_NAMES] if generator.random() < 0.2 else names
    name = everything[generator.integers(0, len(everything))]
    operation = OPERATIONS[generator.integers(0, len(OPERATIONS))]
    value = VALUES[generator.integers(0, len(VALUES))]
    if generator.random() < 0.15:  # letters left out, doubled and swapped
        letters = list(f"{name}={value}"[:200])
        for place in generator.integers(0, len(letters), 2):
            letters[place] = letters[generator.integers(0, len(letters))] * int(generator.integers(0, 3))
        return "".join(letters)
    return f"{operation}{name}" if operation == "~" and generator.random() < 0.5 else f"{operation}{name}={value}"


def told(code: int, capsys: pytest.CaptureFixture[str], what: Any) -> str:
    """Exit code 0, or 2 with one line."""
    errors = capsys.readouterr().err.splitlines()
    assert code in (0, 2), what
    said = [line for line in errors if line.startswith("error: ")]
    assert len(said) == (code == 2), (what, errors)
    assert not any("Traceback" in line for line in errors), what
    assert code == 0 or len(said[0]) > len("error: "), what
    return "refused" if code else "taken"


def test_every_command_composes_or_refuses_in_one_line(names, generator, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for _ in range(rounds(16, 300)):
        command = COMMANDS[generator.integers(0, len(COMMANDS))]
        overrides = [odd(names[command], generator) for _ in range(int(generator.integers(1, 3)))]
        code = run(lambda settings: None, SCHEMAS[command], [*NEEDED.get(command, []), *overrides])
        count(f"settings, {command} composed", told(code, capsys, (command, overrides)))
    assert list(tmp_path.iterdir()) == []


SAFE_TO_TRY = ("run_dir", "name", "launcher", "hydra", "logger", "image_size")
"""Left alone where a training is prepared: they decide where something is written, or how much memory is taken."""


def test_a_training_is_prepared_or_refused_and_leaves_nothing(
    names, generator, tmp_path, demo_root, monkeypatch, capsys
):
    """All of a training but the two stages: files read, networks built, images decoded."""
    from dmdd.experiment.category import read_category
    from dmdd.experiment.experiment import Experiment
    from dmdd.train import main

    def prepare(job: Any, settings: Any, decoded: Any = None, *, devices: int) -> None:
        Experiment(settings, read_category(settings.dataset, settings.category))

    monkeypatch.setattr("dmdd.experiment.launch.launch", prepare)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    base = ["dataset=demo", "category=plate", f"data_dir={demo_root}", "teacher=resnet18", "recipe=smoke"]
    base.append("teacher.random_weights=true")
    tried = [name for name in names["train"] if name.partition(".")[0] not in SAFE_TO_TRY]
    for _ in range(rounds(4, 60)):
        override = odd(tried, generator)
        if any(override.lstrip("+~").startswith(name) for name in SAFE_TO_TRY):
            continue
        code = main([*base, override])
        outcome = told(code, capsys, override)
        count("settings, training prepared", outcome)
        if outcome == "refused":
            assert [path for path in tmp_path.rglob("*") if path.is_file()] == [], override
            assert list(tmp_path.iterdir()) == [], override
        for path in sorted(tmp_path.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()


@pytest.fixture(scope="module")
def model_and_image(tmp_path_factory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("predict")
    save_image(root / "in/a.png")
    return save_tiny_model(root / "model"), root / "in"


def test_a_prediction_is_made_or_refused(names, generator, tmp_path, monkeypatch, capsys, model_and_image):
    from dmdd.predict import main

    model, folder = model_and_image
    monkeypatch.chdir(tmp_path)
    tried = [name for name in names["predict"] if name not in ("model", "input", "output", "watch")]
    for number in range(rounds(6, 150)):
        output = tmp_path / str(number)
        override = odd(tried, generator)
        if any(override.lstrip("+~").startswith(name) for name in ("watch", "output", "input", "model")):
            continue
        code = main([f"model={model}", f"input={folder}", f"output={output}", "device=cpu", override])
        outcome = told(code, capsys, override)
        count("settings, predictions", outcome)
        written = sorted(os.listdir(output)) if output.exists() else []
        assert ("scores.csv" in written) == (outcome == "taken"), (override, written)
        if outcome == "taken":
            rows = (output / "scores.csv").read_text().splitlines()
            assert len(rows) == 2
