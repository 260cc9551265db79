"""The suite's commands and its table, on results made up by hand."""

import json
import sys
from importlib import util
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def suite():
    spec = util.spec_from_file_location("suite", REPOSITORY / "benchmarks" / "suite.py")
    module = util.module_from_spec(spec)
    sys.modules["suite"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["suite"]


def write_run(suite, top: Path, member, seed: int, figures: tuple[float, float, float]) -> None:
    folder = suite.run_folder(top, member, seed)
    folder.mkdir(parents=True)
    types = {"good": {"images": 10, "images_found": 0.1}, "hole": {"images": 4, "images_found": 0.5}}
    metrics = dict(zip(suite.METRICS, figures, strict=True))
    (folder / "result.json").write_text(json.dumps({"test": {"metrics": metrics, "types": types}}))


def write_peers(folder: Path) -> None:
    def result(method, seed, *figures):
        metrics = dict(zip(("pixel_auroc", "aupro_30", "image_auroc"), figures, strict=True))
        return {"method": method, "dataset": "a", "category": "b", "seed": seed, "metrics": metrics}

    folder.mkdir()
    first = [result("padim", 0, 0.9, 0.6, 0.8), result("padim", 1, 0.92, 0.7, 0.8), result("rd", 0, 0.8, 0.9, 0.85)]
    failed = {"method": "stfpm", "dataset": "a", "category": "b", "seed": 0, "error": "killed"}
    (folder / "one.json").write_text(json.dumps([*first, failed, result("dmdd", 0, 1.0, 1.0, 1.0)]))


def test_the_table_has_means_and_gaps_to_the_best_peer_in_hindsight(suite, tmp_path):
    write_peers(tmp_path / "peers")
    peers = suite.read_peers(tmp_path / "peers")
    # padim's mean of two seeds is the best pixel AUROC, rd the best AUPRO and image AUROC.
    assert peers == {
        ("a", "b"): {
            "pixel_auroc": (pytest.approx(0.91), "padim"),
            "aupro_30": (0.9, "rd"),
            "image_auroc": (0.85, "rd"),
        }
    }
    members = [suite.Member("a", "b"), suite.Member("a", "c"), suite.Member("a", "d")]
    write_run(suite, tmp_path / "runs", members[0], 0, (0.95, 0.80, 0.90))
    write_run(suite, tmp_path / "runs", members[0], 1, (0.97, 0.84, 1.00))
    write_run(suite, tmp_path / "runs", members[1], 0, (0.90, 0.70, 0.60))
    lines = suite.table(tmp_path / "runs", members, [0, 1], peers).splitlines()
    assert lines[2] == (
        "| a/b | 2 | 96.00 ± 1.41 | 82.00 ± 2.83 | 95.00 ± 7.07 | +5.00 / -8.00 / +10.00 | 50.0 / 10.0 |"
    )
    assert lines[3] == "| a/c | 1 | 90.00 | 70.00 | 60.00 | - | 50.0 / 10.0 |"
    assert lines[4] == "| a/d | 0 | - | - | - | - | - |"
    assert lines[5] == "| mean | | 93.00 | 76.00 | 77.50 | | |"
    assert lines[7] == "Mean gap to the best peer in hindsight, 1 sets: +5.00 / -8.00 / +10.00."
    assert lines[8] == "Worst gap: -8.00 (a/b, aupro_30, rd)."


def test_members_become_commands_that_can_be_resumed(suite, tmp_path, monkeypatch):
    run, commands = tmp_path / "runs" / "short", []
    monkeypatch.setattr(
        suite.subprocess, "run", lambda command, check: commands.append(command) or type("Done", (), {"returncode": 0})
    )
    write_run(suite, run, suite.Member("mpdd", "bracket"), 0, (0.9, 0.9, 0.9))  # finished: not run again
    sets = ["--sets", "mpdd/bracket", "more/paper@128", "recipe=cpu", "--root", f"more={tmp_path}/more"]
    places = ["--runs", str(tmp_path / "runs"), "--name", "short", "--data-dir", str(tmp_path), "--seeds", "0,1"]
    assert suite.main([*sets, *places, "teacher=efficientnet_lite0"]) == 0
    assert [command[-1] for command in commands] == ["resume=true"] * 3
    assert commands[0][3:] == [
        *("dataset=mpdd", "recipe=cpu", "teacher=efficientnet_lite0", "category=bracket", "seed=1"),
        *(f"data_dir='{tmp_path}'", f"hydra.run.dir='{run}/mpdd/bracket/seed1'", "resume=true"),
    ]
    assert commands[1][3:8] == [
        *("dataset=mvtec_ad", "dataset.name=more", f"dataset.layout.root='{tmp_path}/more'"),
        *("image_size=[128,128]", "recipe=cpu"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sets", "screw"], "--sets screw: give DATASET/CATEGORY or DATASET/CATEGORY@SIDE"),
        (["--sets", "a/b@big"], "--sets a/b@big: give DATASET/CATEGORY or DATASET/CATEGORY@SIDE"),
        (["--sets", "a/b", "--faster"], "--faster is neither an option nor a setting NAME=VALUE"),
    ],
)
def test_what_cannot_be_read_is_refused(suite, capsys, arguments, message):
    with pytest.raises(SystemExit):
        suite.main(arguments)
    assert message in capsys.readouterr().err


def test_the_peers_of_the_repository_can_be_read(suite):
    peers = suite.read_peers(REPOSITORY / "experiments" / "peers")
    assert peers["mvtec_ad", "screw"]["aupro_30"] == (0.9271, "padim")
    assert all(set(found) == set(suite.METRICS) for found in peers.values())
