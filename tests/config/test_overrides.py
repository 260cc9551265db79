"""One grammar for every command line: any name, any value, no riddle."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from dmdd.config.command import run
from dmdd.config.names import rename
from dmdd.config.overrides import split_arguments
from dmdd.config.schema import FORMER_NAMES, BenchSettings, EvaluateSettings, PredictSettings, TrainSettings
from dmdd.core.errors import UserError
from dmdd.experiment.resume import read_settings

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("prefix", ["", "+", "++", "--"])
@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("sead=3", "did you mean seed?"),
        ("distilation.steps=3", "did you mean distillation.steps?"),
        ("evaluation.native_mask=true", "did you mean evaluation.native_masks?"),
        ("experiment=ablation/aim_only", "write +experiments/ablation=aim_only"),
        ("ckpt_path=none.ckpt", "use resume=true, which continues the run with the same settings"),
        ("distillation.lr=0.1", "use distillation.learning_rate=0.002 (and segmentation_training.learning_rate)"),
        ("lr=0.1", "use distillation.learning_rate=0.002 (and segmentation_training.learning_rate)"),
        ("data.persistent_workers=true", "did you mean data.num_workers?"),
        ("epochs=3", "use distillation.steps=1000"),
        ("größe=3", "--help lists them"),
        ("trainer.=3", "did you mean trainer?"),
    ],
)
def test_an_unknown_setting_is_refused_whatever_its_prefix(prefix, given, meant):
    name = given.partition("=")[0]
    _, overrides = split_arguments([f"{prefix}{given}"])
    with pytest.raises(UserError) as refusal:
        TrainSettings.compose(*overrides)
    assert str(refusal.value) == f"unknown setting {name}; {meant}"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("pairs.forground=false", r"unknown setting pairs.forground; did you mean pairs.foreground\?"),
        ("student.width=3", r"unknown setting student.width; did you mean student.widths\?"),
        ("trainer.devicess=2", r"unknown setting trainer.devicess; did you mean trainer.devices\?"),
        ("logger.csv.nam=3", r"unknown setting logger.csv.nam; did you mean logger.csv.name\?"),
        ("pairs.foreground=1", "pairs.foreground=1: give true or false"),
        ("student.widths=3", "student.widths=3: give a list"),
        (
            "augmentation.transforms=[{_target_:albumentations.Affine,scal:3}]",
            r"unknown setting augmentation.transforms.0.scal; did you mean augmentation.transforms.0.scale\?",
        ),
        ("~teacher.backbone", "teacher.backbone is missing: dmdd.models.weights.build_teacher needs it"),
        ("+experiments/ablatio=aim_only", r"unknown group experiments/ablatio; did you mean experiments/ablation\?"),
        ("+experiments/ablation=aim", "experiments/ablation=aim: there is no such option.* aim_only"),
        ("teacher=resnet19", r"teacher=resnet19: there is no such option; did you mean teacher=resnet18\?"),
        ("seed=0,1", r"seed=0,1: several values need -m; a list is written seed=\[0,1\]"),
        ("hydra.sweeper.n_trials=3", "hydra.sweeper.n_trials=3 counts only in a sweep: add -m"),
        ("seed={a", "seed={a: give a whole number from 0"),
        ("distillation.steps=${nosuch}", "Interpolation key 'nosuch' not found"),
    ],
)
def test_what_is_wrong_is_named(given, message):
    with pytest.raises(UserError, match=message):
        TrainSettings.compose(given)


@pytest.mark.parametrize(
    "name",
    [
        "2024_01",
        "1e5",
        "true",
        "01",
        "a=b",
        "lr=0.1",
        "a b",
        "[x]",
        "{x}",
        "größe",
        "o'ring",
        'a "b"',
        "x,y",
        "#1",
        "a\\",
    ],
)
def test_a_name_is_taken_letter_by_letter(name):
    settings = TrainSettings.compose(f"category={name}", f"name={name}", f"data_dir=parts/{name}")
    assert (settings.category, settings.name, settings.data_dir) == (name, name, f"parts/{name}")
    assert settings.dataset.layout["root"] == f"parts/{name}/mvtec_ad"
    assert settings.run_dir == os.path.abspath(f"runs/mvtec_ad/{name}/{name}")


def test_home_null_and_quotes():
    home = os.path.expanduser("~")
    settings = TrainSettings.compose("category=null", "data_dir=~/parts", "run_dir=~", "name=null")
    assert (settings.category, settings.data_dir, settings.run_dir) == (None, f"{home}/parts", home)
    assert settings.name == "null"
    assert TrainSettings.compose("category='null'").category == "null"


def test_what_no_file_mentions_needs_no_plus():
    settings = TrainSettings.compose("launcher.wait_s=3", "pairs.foreground=false", "distillation.cache_limit_gb=1")
    assert settings.launcher.wait_s == 3
    assert settings.pairs["foreground"] is False
    assert settings.distillation.cache_limit_gb == 1
    assert TrainSettings.compose("+seed=3").seed == 3


def test_a_list_or_a_path_is_an_input():
    def given(text: str) -> object:
        return PredictSettings.compose("model=m", f"input={text}", "output=2024").input

    assert given("[a,b c]") == ("a", "b c")
    assert given("p/batch[1]/*.png") == "p/batch[1]/*.png"
    assert given("01") == "01"


@pytest.mark.parametrize(
    ("schema", "arguments", "code", "message"),
    [
        (TrainSettings, ["plate"], 2, "error: 'plate' is not a setting; write NAME=VALUE, as in category=plate\n"),
        (TrainSettings, ["--seed"], 2, "error: '--seed' is not a setting; write NAME=VALUE, as in seed=1\n"),
        (
            BenchSettings,
            ["-m", "model=a,b"],
            2,
            "error: -m is for dmdd train and dmdd evaluate; give one value a setting\n",
        ),
        (EvaluateSettings, ["model=x", "evaluation.pictures=3"], 2, "did you mean pictures?\n"),
        (PredictSettings, ["model=x", "input=a", "output=b", "watch=1"], 2, "error: watch=1: give true or false\n"),
    ],
)
def test_every_command_says_it_in_one_line(schema, arguments, code, message, capsys):
    assert run(lambda settings: None, schema, arguments) == code
    error = capsys.readouterr().err
    assert error.endswith(message)
    assert error.count("\n") == 1


def test_settings_are_taken_as_wandb_agent_passes_them():
    given = []
    assert run(given.append, TrainSettings, ["--seed=1", "--distillation.steps=7", "--category=a=b"]) == 0
    assert (given[0].seed, given[0].distillation.steps, given[0].category) == (1, 7, "a=b")


def unpacked_wheel(folder: Path) -> Path:
    """What a wheel holds, unpacked; put together by the rules of pyproject.toml where nothing here builds one."""
    site = folder / "site"
    if importlib.util.find_spec("hatchling"):
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
        subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
            archive.extractall(site)
        return site
    rules = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    places = {package: Path(package).name for package in rules["packages"]} | rules["force-include"]
    for source, target in places.items():
        shutil.copytree(REPOSITORY / source, site / target, ignore=shutil.ignore_patterns("__pycache__"))
    return site


def test_a_wheel_holds_the_experiments(tmp_path):
    """It composes an experiment and the search of docs/training.md far from any checkout."""
    site = unpacked_wheel(tmp_path)
    code = f"""
from dmdd.config.compose import home
from dmdd.config.schema import TrainSettings
assert str(home()) == {str(site / "dmdd")!r}, home()
assert TrainSettings.compose("+experiments/ablation=aim_only").distillation.ngm_weight == 0
search = TrainSettings.compose("+experiments/search=optuna")
assert search.objective == "synthetic_validation.metrics.aupro_30"
"""
    variables = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


FORMER = list(FORMER_NAMES.items())


@pytest.mark.parametrize(("former", "name"), FORMER)
def test_a_former_name_works_and_a_warning_names_the_new_one(former, name, tmp_path, capsys):
    told = f"warning: the setting {former} is now called {name}"
    given = TrainSettings.compose(f"{former}=0.25")
    assert told in capsys.readouterr().err
    assert given.detector == TrainSettings.compose(f"{name}=0.25").detector
    group, key = former.split(".")
    plain = {group: {key: 0.25, name.split(".")[1]: 0.5}}  # from a file of one's own, over that of conf/
    rename(TrainSettings, plain)
    assert plain == {group: {name.split(".")[1]: 0.25}}
    assert told in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text(f"{group}:\n  {key}: 0.25\n")
    assert read_settings(tmp_path)[name] == 0.25
    assert former not in read_settings(tmp_path)
    assert capsys.readouterr().err == ""


def test_a_former_name_is_unknown_where_there_is_no_such_setting():
    with pytest.raises(UserError, match=r"unknown setting detector.level_power"):
        PredictSettings.compose("detector.level_power=1", model="m", input="i", output="o")
