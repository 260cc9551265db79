"""One command over many categories and data sets, with every launcher that runs here."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from dmdd.config.overrides import quoted
from dmdd.config.sweep import announce, free_memory
from dmdd.core.errors import UserError
from dmdd.data.layouts import category_names
from hydra_plugins.dmdd_category_sweeper import _combinations
from patience import PATIENCE_S
from processes import run_command

SMOKE = [
    "teacher=resnet18",
    "teacher.random_weights=true",
    "recipe=smoke",
    "image_size=[64,64]",
    "distillation.steps=2",
    "segmentation_training.steps=2",
    "evaluation.pictures=0",
    "evaluation.resamples=0",
    "evaluation.study_maps=false",
]


def sweep(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess:
    # Workers of a launcher are other processes again, and must not find this test's variables.
    return run_command("train", "-m", *SMOKE, *arguments, cwd=cwd, PYTHONWARNINGS="ignore", **variables)


@pytest.fixture(scope="module")
def two_sets(tmp_path_factory, demo_root) -> Path:
    """A data folder with two data sets: demo with plate, and mpdd with two categories, one of them damaged."""
    root = tmp_path_factory.mktemp("two")
    shutil.copytree(demo_root / "demo/plate", root / "demo/plate")
    for name in ("bracket_black", "bracket_white"):
        shutil.copytree(demo_root / "demo/plate", root / "mpdd" / name)
    victim = sorted((root / "mpdd/bracket_white/test/dent").iterdir())[0]
    victim.write_bytes(b"")
    return root


def seeds_of(folder: Path) -> list[int]:
    return sorted(json.loads(file.read_text())["seed"] for file in folder.glob("*/result.json"))


def test_each_data_set_trains_its_own_categories_and_a_bad_one_stops_none(two_sets, tmp_path):
    done = sweep("dataset=mpdd,demo", "category=all_each", f"data_dir={two_sets}", "resume=true", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "error: 1 of 3 runs failed: dataset=mpdd category='bracket_white'" in done.stderr.replace('"', "'")
    assert "sweep: 1 of 3, mpdd bracket_black seed 0" in done.stderr
    assert "sweep: 3 of 3, demo plate seed 0, about" in done.stderr
    assert seeds_of(tmp_path / "runs/mpdd/bracket_black") == [0]
    assert seeds_of(tmp_path / "runs/demo/plate") == [0]
    assert not (tmp_path / "runs/mpdd/bracket_white").exists()
    assert "bracket_black" in done.stdout.split("test sets, percent")[1]
    # Again, with the damage repaired and a second seed: what is finished is skipped.
    repaired = two_sets / "mpdd/bracket_white/test/dent"
    shutil.copy(sorted(repaired.iterdir())[1], sorted(repaired.iterdir())[0])
    again = ["dataset=mpdd", "category=bracket_*", "seed=0,1", f"data_dir={two_sets}", "resume=true"]
    done = sweep(*again, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished already: ") == 1
    for name in ("bracket_black", "bracket_white"):
        assert seeds_of(tmp_path / "runs/mpdd" / name) == [0, 1]


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_members_run_beside_each_other_and_a_failed_one_is_told(two_sets, tmp_path, launcher):
    pytest.importorskip({"joblib": "hydra_plugins.hydra_joblib_launcher"}.get(launcher, "submitit"))
    jobs = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    arguments = ["dataset=demo", "category=nosuch,plate", "seed=3", f"data_dir={two_sets}", f"launcher={launcher}"]
    done = sweep(*arguments, *jobs, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "error: 1 of 2 runs failed: " in done.stderr
    assert "unknown category 'nosuch'" in done.stderr.splitlines()[-1]
    assert seeds_of(tmp_path / "runs/demo/plate") == [3]


RAY = {"RAY_AUTH_MODE": "disabled", "RAY_agent_register_timeout_ms": "600000", "PYTHONWARNINGS": "ignore"}
RAY_TRIES = 4


@pytest.fixture
def ray_cluster(tmp_path):
    """The address of a Ray cluster of this machine, of as few processes as can be: each imports Ray at the start."""
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="dmdd[ray] is not installed")
    # Not below the test's own folder: names of sockets must be short.
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    for _ in range(RAY_TRIES):  # Ray itself gives its processes 15 s, which a busy machine may not have
        with socket.socket() as first, socket.socket() as second:
            for one in (first, second):
                one.bind(("127.0.0.1", 0))
            port, agent = (one.getsockname()[1] for one in (first, second))
        few = ("--num-cpus=2", "--include-dashboard=false", "--no-monitor", "--include-log-monitor=false")
        own = (f"--port={port}", f"--runtime-env-agent-port={agent}", f"--temp-dir={folder}", "--disable-usage-stats")
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *few, *own],
            cwd=tmp_path,
            env=os.environ | RAY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started = any("Ray runtime started" in line for line in process.stdout)
        if started:
            yield f"127.0.0.1:{port}"
        process.terminate()  # and with it all that it has started
        process.communicate(timeout=PATIENCE_S)
        if started:
            shutil.rmtree(folder, ignore_errors=True)
            return
    pytest.fail(f"Ray did not start in {RAY_TRIES} tries, see {folder}/session_latest/logs/raylet.err")


def test_a_ray_cluster_that_is_there_trains_two_members(ray_cluster, demo_root, tmp_path):
    settings = ("dataset=demo", "category=plate", f"data_dir={demo_root}", "trainer.accelerator=cpu", "seed=0,1")
    ray = (f"hydra.launcher.ray.init.address={ray_cluster}", "hydra.launcher.ray.remote.num_gpus=0")
    done = sweep("launcher=ray", *ray, *settings, cwd=tmp_path, RAY_AUTH_MODE=RAY["RAY_AUTH_MODE"])
    assert done.returncode == 0, done.stderr
    assert seeds_of(tmp_path / "runs/demo/plate") == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "category=metal_*"], r"no category matches 'metal_\*': there are plate"),
        (["category=all_each"], "category=all_each trains one model a category: add -m"),
        (["category='metal_*'"], r"no category matches 'metal_\*': there are plate"),
        (["category=plate", "objective=test.metrics.pixel_auroc"], "nothing may be chosen on test data"),
        (["category=plate", "objective=pixel_auroc"], "as in objective=synthetic_validation.metrics.aupro_30"),
    ],
)
def test_what_cannot_be_swept(demo_root, tmp_path, monkeypatch, capsys, arguments, message):
    from dmdd.train import main

    monkeypatch.chdir(tmp_path)
    assert main(["dataset=demo", *SMOKE, f"data_dir={demo_root}", *arguments]) == 2
    error = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert re.search(message, error), error
    assert not list(tmp_path.rglob("result.json"))


def test_every_combination_of_values_is_a_member():
    parse = OverridesParser.create().parse_overrides
    members = _combinations(parse(["a=1,2", "b=x", "+c=range(0,2)"]))
    assert members == [[f"a={a}", "b=x", f"+c={c}"] for a in (1, 2) for c in (0, 1)]
    with pytest.raises(UserError, match=r"a=interval\(1,5\): give values, as in a=1,2,3; hydra/sweeper=optuna"):
        _combinations(parse(["a=interval(1,5)"]))


def test_an_experiment_may_choose_the_data_set(two_sets, tmp_path, monkeypatch, capsys):
    from dmdd.train import main

    monkeypatch.chdir(tmp_path)
    assert main(["-m", "+experiments/mpdd=paper", f"data_dir={two_sets}", "category=x*"]) == 2
    assert "no category matches 'x*': there are bracket_black, bracket_white" in capsys.readouterr().err
    added = ["pairs=prototype", "+pairs.area_max=0.8"]  # one needs the other
    assert main(["-m", "dataset=mpdd", *added, f"data_dir={two_sets}", "category=x*"]) == 2
    assert "no category matches 'x*'" in capsys.readouterr().err


def test_categories_by_layout(tmp_path, demo_root):
    layout = {"_target_": "dmdd.data.layouts.read_mvtec_ad", "root": str(demo_root / "demo"), "dataset": "demo"}
    assert category_names(layout) == ["plate"]
    for name in ("b", "a"):
        (tmp_path / name / "fine").mkdir(parents=True)
    folder = {"_target_": "dmdd.data.layouts.read_folder", "root": str(tmp_path), "good": "fine"}
    assert category_names(folder) == ["a", "b"]
    with pytest.raises(UserError, match=r"the categories of my\.reader are not known .*; list them"):
        category_names({"_target_": "my.reader", "root": "."})


class Held:
    """Something that should not outlast the member that made it."""


def test_what_a_failed_member_held_is_let_go():
    """Hydra keeps the error to the end of the sweep; with it the GPU's memory would be kept."""
    seen = []

    def step() -> None:
        batch = Held()
        seen.append(weakref.ref(batch))
        raise ZeroDivisionError

    def train() -> None:
        networks = Held()
        seen.append(weakref.ref(networks))
        try:
            step()
        except ZeroDivisionError as error:
            raise UserError("told") from error

    try:
        train()
    except UserError as error:
        kept = error
    assert [ref() is None for ref in seen] == [False, False]
    free_memory(kept)
    assert [ref() is None for ref in seen] == [True, True]
    assert kept.__traceback__ is not None


def test_a_member_says_how_much_is_left(monkeypatch, capsys):
    announce(1, "outside a sweep")
    monkeypatch.setenv("DMDD_SWEEP_SIZE", "5")
    monkeypatch.setattr("dmdd.config.sweep._started", 0.0)
    monkeypatch.setattr("time.monotonic", lambda: 600.0)
    announce(0, "first")
    announce(2, "third")
    # two in 600 s, three to go
    assert capsys.readouterr().err == "sweep: 1 of 5, first\nsweep: 3 of 5, third, about 15 min left\n"


def test_optuna_searches_on_the_synthetic_validation(demo_root, tmp_path):
    pytest.importorskip("optuna")
    arguments = ["dataset=demo", "category=plate", f"data_dir={demo_root}", "hydra.sweeper.n_trials=2"]
    done = sweep("hydra/sweeper=optuna", "+experiments/search=optuna", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = [json.loads(file.read_text()) for file in (tmp_path / "runs/demo/plate").glob("*/result.json")]
    assert len(results) == 2
    best = max(result["synthetic_validation"]["metrics"]["aupro_30"] for result in results)
    assert f"best_value: {best!r}" in (tmp_path / "runs/optimization_results.yaml").read_text()


@pytest.mark.parametrize(
    "name", ["plate", "o'ring", "back\\slash", "ends in \\", "\\'", "größe 2", 'a "b"', "a,b", "[x]", "#1"]
)
def test_any_name_of_a_folder_is_quoted_for_an_override(name):
    assert OverridesParser.create().parse_override(f"category={quoted(name)}").value() == name
