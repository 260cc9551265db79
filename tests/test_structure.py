"""Imports flow one way, configurations compose, and what must start quickly does."""

import ast
import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

from dmdd.config import schema
from dmdd.config.check import plain_of
from dmdd.config.compose import config_dir
from dmdd.config.schema import TrainSettings
from dmdd.config.targets import build

REPOSITORY = Path(__file__).resolve().parents[1]
CONF = REPOSITORY / "conf"


def test_imports_go_downwards():
    """The contracts are in pyproject.toml."""
    assert lint_imports(config_filename=str(REPOSITORY / "pyproject.toml")) == 0


def test_import_dmdd_and_help_stay_light():
    code = "import sys, dmdd; assert 'torch' not in sys.modules and 'hydra' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    code = "import sys; from dmdd.__main__ import main; assert main(['--help']) == 0; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


GROUPS = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name != "hydra")


def composed(*overrides: str) -> TrainSettings:
    return TrainSettings.compose(*overrides, category="x", run_dir="x", name="x", data_dir="x")


def test_every_command_has_a_configuration():
    assert set(GROUPS) >= {"augmentation", "callbacks", "dataset", "launcher", "logger", "pairs", "recipe", "teacher"}
    assert all(list((CONF / group).glob("*.yaml")) for group in GROUPS)
    assert [file.name for file in (CONF / "hydra").rglob("*.yaml")] == ["category.yaml"]
    commands = {"bench", "calibrate", "evaluate", "export", "predict", "serve", "train"}
    assert {file.stem for file in CONF.glob("*.yaml")} == commands
    classes = {name: getattr(schema, f"{name.title()}Settings") for name in commands}
    assert {command.COMMAND for command in classes.values()} == commands
    needed = {"predict": ["input=a", "output=b"], "calibrate": ["good=a"]}
    for name in commands - {"train"}:
        assert classes[name].compose("model=y", *needed.get(name, [])).model == "y"
    assert config_dir() == CONF


OPTIONS = sorted((group, file.stem) for group in GROUPS for file in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_opens_with_a_comment(group, option):
    if option == "ray" and importlib.util.find_spec("hydra_plugins.hydra_ray_launcher") is None:
        pytest.skip("dmdd[ray] is not installed")
    settings = composed(f"{group}={option}", *(["dataset.name=x"] if group == "dataset" else []))
    assert (CONF / group / f"{option}.yaml").read_text().startswith("#")
    assert set(plain_of(settings)) == set(plain_of(composed()))


@pytest.mark.parametrize("option", sorted(file.stem for file in (CONF / "pairs").glob("*.yaml")))
def test_every_pairs_option_builds(option):
    assert callable(build(composed(f"pairs={option}").pairs))


@pytest.mark.parametrize("option", sorted(file.stem for file in (CONF / "augmentation").glob("*.yaml")))
def test_every_augmentation_builds(option):
    augmentation = build(composed(f"augmentation={option}").augmentation)
    assert (augmentation is None) is (option == "none")


@pytest.mark.parametrize("option", sorted(file.stem for file in (CONF / "student").glob("*.yaml")))
def test_every_student_and_segmentation_builds(option):
    config = composed(f"student={option}", "recipe=smoke")
    assert build(config.student)(channels=(4, 6, 8)).spec["body"] == option
    assert build(config.segmentation)(channels=(4, 6, 8)).spec["width"] == 16


@pytest.mark.parametrize("option", sorted(file.stem for file in (CONF / "teacher").glob("*.yaml")))
def test_every_teacher_builds_with_random_weights(option):
    teacher, source = build(composed(f"teacher={option}", "teacher.random_weights=true").teacher)
    assert len(teacher.channels) == 3
    assert source.name == "random (no pretraining)"


def test_callbacks_build():
    assert [type(build(entry)).__name__ for entry in composed().callbacks.values()] == ["StageProgress"]


EXPERIMENTS = sorted((REPOSITORY / "experiments").glob("*/*.yaml"))


def test_every_experiment_composes_and_states_its_command():
    assert EXPERIMENTS
    for file in EXPERIMENTS:
        override = f"+experiments/{file.parent.name}={file.stem}"
        settings = composed("recipe=cpu", override)
        plain = composed("recipe=cpu")
        text = file.read_text()
        assert without_command(settings) != without_command(plain) or file.stem == "paper", (
            file
        )  # MVTec AD and its recipe are the defaults
        assert "# Question:" in text
        command = text.partition("# Command: ")[2].partition("\n")[0]
        assert command.startswith("python -m dmdd.train ")
        assert override in command


def test_the_papers_experiments_use_its_teacher_and_recipe():
    for dataset in ("mvtec_ad", "mpdd"):
        settings = composed(f"+experiments/{dataset}=paper")
        paper = composed(f"dataset={dataset}", "teacher=wide_resnet50_2", "recipe=paper")
        assert without_command(settings) == without_command(paper)


def without_command(settings: TrainSettings) -> TrainSettings:
    return replace(settings, overrides=())


def functions() -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    files = (REPOSITORY / "src").rglob("*.py")
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    return [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def lines_without_docstring(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = function.body[0]
    told = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    docstring = first.end_lineno - first.lineno + 1 if told else 0
    return function.end_lineno - function.lineno + 1 - docstring


def test_functions_are_short():
    lengths = [lines_without_docstring(function) for function in functions()]
    assert sum(length <= 30 for length in lengths) >= 0.9 * len(lengths)


def test_no_function_takes_settings_of_any_type():
    for function in functions():
        for argument in (*function.args.args, *function.args.kwonlyargs):
            annotation = argument.annotation and ast.unparse(argument.annotation)
            assert not (argument.arg in ("config", "settings") and annotation == "Any"), function.name


FOREIGN = ("lightning", "torch", "hydra", "omegaconf", "wandb", "torchmetrics", "timm")


def test_private_modules_of_other_libraries_are_not_imported():
    """What private names of theirs remain is in two files, see CONTRIBUTING."""
    for file in (REPOSITORY / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FOREIGN:
                names = [*node.module.split("."), *(alias.name for alias in node.names)]
                assert not any(name.startswith("_") for name in names), f"{file}:{node.lineno}"
