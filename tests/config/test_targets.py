"""What a configuration may construct: all that ours name, the usual of a few packages, and nothing that runs code."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dmdd.config.targets import HYDRA_PREFIXES, build, check_config, find_target
from dmdd.core.errors import UserError
from patience import PATIENCE_S

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = sorted([*(REPOSITORY / "conf").rglob("*.yaml"), *(REPOSITORY / "experiments").rglob("*.yaml")])


def entries(node: Any, name: str) -> Iterator[Any]:
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if key == name:
            yield value
        yield from entries(value, name)


def test_every_target_of_every_yaml_can_be_built():
    assert FILES
    named = [(file, name) for file in FILES for name in entries(yaml.safe_load(file.read_text()), "_target_")]
    assert {file.parent.name for file, _ in named} >= {
        "augmentation",
        "callbacks",
        "dataset",
        "logger",
        "pairs",
        "student",
        "teacher",
    }
    hydras = [name for _, name in named if name.startswith(HYDRA_PREFIXES)]
    assert hydras == ["hydra_plugins.dmdd_category_sweeper.CategorySweeper"]
    for file, name in named:
        if name not in hydras:
            assert callable(find_target(name)), file


@pytest.mark.parametrize(
    "name",
    [
        "albumentations.Compose",
        "albumentations.GaussNoise",
        "lightning.Trainer",
        "lightning.pytorch.callbacks.EarlyStopping",
        "lightning.pytorch.callbacks.LearningRateMonitor",
        "lightning.pytorch.callbacks.RichProgressBar",
        "lightning.pytorch.loggers.CSVLogger",
        "lightning.pytorch.loggers.MLFlowLogger",
        "lightning.pytorch.loggers.TensorBoardLogger",
        "lightning.pytorch.loggers.WandbLogger",
        "lightning.pytorch.profilers.SimpleProfiler",
        "timm.layers.LayerNorm2d",
        "torch.nn.Conv2d",
        "torch.optim.AdamW",
        "torchmetrics.AUROC",
    ],
)
def test_what_users_may_add(name):
    assert find_target(name).__name__ == name.rpartition(".")[2]


FOREIGN = (
    "os.system",
    "subprocess.Popen",
    "builtins.eval",
    "builtins.exec",
    "numpy.load",
    "pickle.loads",
    "shutil.rmtree",
    "torch",
    "torch.utils.cpp_extension.load",
    "torch.utils.data.DataLoader",
    "torch.jit.load",
    "torch.package.PackageImporter",
    "torch.distributed.launcher.api.elastic_launch",
    "torch._inductor.codecache.load_by_key_path",
    "torch.__builtins__",
    "dmdd.core.errors.__loader__",
    "torch.nn.Module.__init__.__globals__",
    "torch.os system",
    "hydra.utils.instantiate",
    "",
    None,
    7,
    ["os.system"],
    {"_target_": "os.system"},
)
"""Refused by name alone."""

UNFIT = (
    "torch.load",
    "torch.save",
    "torch.hub.load",
    "torch.hub.load_state_dict_from_url",
    "torch.nn.Module.load_state_dict",
    "torch.os.system",
    "torch.serialization.pickle.loads",
    "torch.fx.GraphModule",
    "timm.create_model",
    "timm.models.load_checkpoint",
    "lightning.pytorch.callbacks.ModelCheckpoint.__init__.__globals__",
    "lightning.fabric.utilities.cloud_io.torch.load",
    "lightning.pytorch.LightningModule.load_from_checkpoint",
    "lightning.LightningDataModule",
    "albumentations.load",
    "dmdd.config.command.run",
    "dmdd.data.download.archives.extract_archive",
    "dmdd.config.targets.importlib.import_module",
    "dmdd.models.weights.urllib.request.urlopen",
    "dmdd.models.weights.Path",
    "dmdd.train.main",
    "dmdd.nosuch.Thing",
    "torch.nosuch",
)
"""Refused by what is found under the name, or for nothing being there."""


@pytest.mark.parametrize("name", [*FOREIGN, *UNFIT], ids=str)
def test_what_is_refused(name):
    with pytest.raises(UserError) as refusal:
        find_target(name)
    assert "\n" not in str(refusal.value)
    with pytest.raises(UserError, match="_target_"):
        build({"_target_": name})


@pytest.mark.parametrize("name", FOREIGN, ids=str)
def test_a_whole_configuration_is_searched(name):
    for node in ({"a": {"b": [{"_target_": name}]}}, {"_target_": name}, {"callbacks": {"x": {"_target_": name}}}):
        with pytest.raises(UserError, match="is refused"):
            check_config(node)
    check_config({"a": {"_target_": "${b}"}, "b": "torch.nn.ReLU"})  # looked at when it is resolved


@pytest.mark.parametrize(
    "part",
    [
        {"callbacks": {"x": {"_target_": "os.system"}}},
        {"callbacks": {"x": {"_target_": "torch.load"}}},
        {"launcher": {"_target_": "subprocess.Popen"}},
        {"job_logging": {"handlers": {"x": {"class": "logging.handlers.SocketHandler"}}}},
        {"job_logging": {"handlers": {"x": {"()": "os.system"}}}},
        {"hydra_logging": {"formatters": {"x": {"()": "builtins.eval"}}}},
        {"job_logging": {"handlers": {"x": {"stream": "ext://os.environ"}}}},
    ],
    ids=str,
)
def test_hydras_own_part_names_hydras_own_parts_only(part):
    with pytest.raises(UserError, match="Hydra's settings may name Hydra's own parts only"):
        check_config({"hydra": part})


def test_inner_nodes_are_built_first_and_arguments_count_before_the_nodes():
    inner = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}
    found = build({"_target_": "torch.nn.Sequential", "_args_": [inner]})
    assert isinstance(found[0], torch.nn.Linear)
    waiting = build({"_target_": "torch.nn.Linear", "_partial_": True, "in_features": 2, "bias": False})
    assert waiting(out_features=5).weight.shape == (5, 2)
    assert build({"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 9}, out_features=4).out_features == 4
    assert build(None) is None
    with pytest.raises(UserError, match=r"os\.system is refused"):
        build({"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "os.system"}]})


@pytest.mark.parametrize("node", [{}, {"a": 1}, [], "torch.nn.ReLU", 3])
def test_what_is_no_node(node):
    with pytest.raises(UserError, match="cannot be built: a mapping with _target_ is wanted"):
        build(node)


def test_what_does_not_fit_is_told_with_the_name():
    with pytest.raises(UserError, match=r"torch\.nn\.Linear: .*unexpected keyword argument 'size'"):
        build({"_target_": "torch.nn.Linear", "size": 3})
    with pytest.raises(UserError, match=r"lightning.pytorch.loggers.CSVLogger: .*missing 1 required"):
        build({"_target_": "lightning.pytorch.loggers.CSVLogger"})


def test_an_override_is_refused_in_one_line(tmp_path):
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dmdd.train", "category=x", "+callbacks.x._target_=os.system"]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "os.system is refused" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


NAMES = (
    "subprocess.Popen",
    "builtins.eval",
    "torch.load",
    "torch.hub.load",
    "torch.utils.cpp_extension.load",
    "numpy.load",
)
PLACES = ("+logger.x._target_={}", "teacher._target_={}", "pairs._target_={}")


@pytest.mark.parametrize(
    ("place", "name"),
    [*((place, "torch.load") for place in PLACES), *(("dataset.layout._target_={}", name) for name in NAMES)],
)
def test_overrides_of_a_training(tmp_path, monkeypatch, capsys, demo_root, place, name):
    from dmdd.train import main

    monkeypatch.chdir(tmp_path)
    smoke = ["dataset=demo", "category=plate", f"data_dir={demo_root}", "teacher=resnet18", "recipe=smoke"]
    assert main([*smoke, "teacher.random_weights=true", place.format(name)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert f"_target_={name} is refused" in error
    assert list(tmp_path.iterdir()) == []


def test_a_yaml_from_elsewhere_is_held_to_the_list(tmp_path, monkeypatch, capsys):
    from dmdd.train import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs/callbacks").mkdir(parents=True)
    for name, said in (("os.system", "os.system is refused"), ("numpy.load", "numpy.load is refused")):
        (tmp_path / "theirs/callbacks/bad.yaml").write_text(f"x:\n  _target_: {name}\n")
        arguments = ["category=x", "callbacks=bad", f"hydra.searchpath=[file://{tmp_path}/theirs]"]
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert said in error, error
        assert error.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["theirs"]
