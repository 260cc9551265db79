"""Finding runs: nothing is dropped in silence, and one bad file does not stop the rest."""

import json
import os
import re

import pytest
import report_trees as trees

from dmdd.core.errors import UserError
from dmdd.report import collect, scan


def test_runs_are_found_at_any_depth_and_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trees.write_run(tmp_path / "runs/demo/plate/a")
    trees.write_run(tmp_path / "runs/demo/plate/sweep/b", trees.result(seed=1))
    trees.write_run(tmp_path / "other", trees.result(seed=2))
    (tmp_path / "runs/link").symlink_to(tmp_path / "other")
    (tmp_path / "runs/demo/back").symlink_to(tmp_path / "runs")
    runs = collect(["runs", "runs/demo", "runs/demo/*/a", "runs/demo/plate/a/result.json", "other"])
    assert [(str(run.folder), run.seed) for run in runs] == [
        ("runs/demo/plate/a", 0),
        ("runs/demo/plate/sweep/b", 1),
        ("runs/link", 2),
    ]


def test_categories_may_be_called_like_the_folders_of_a_run(tmp_path):
    for name in ("model", "images", "wandb"):
        trees.write_run(tmp_path / "runs/folder" / name / "a", trees.result(category=name))
    trees.write_run(tmp_path / "runs/folder/model/a/wandb/b")  # W&B's own
    assert sorted(run.category for run in collect([tmp_path])) == ["images", "model", "wandb"]


def test_a_folder_named_like_a_pattern_is_a_folder(tmp_path):
    trees.write_run(tmp_path / "runs[1]/a")
    assert len(collect([tmp_path / "runs[1]"])) == 1


def test_unfinished_runs_are_listed_with_how_far_they_got(tmp_path):
    for name in ("begun", "distilling", "segmenting", "rubbish"):
        trees.write_run(tmp_path / name)
        (tmp_path / name / "result.json").unlink()
    head = "distillation/loss,segmentation/loss,step\n"
    (tmp_path / "distilling/metrics.csv").write_text(f"{head}1.5,,4\n1.25,,9\n")
    (tmp_path / "segmenting/metrics.csv").write_text(f"{head}1.5,,9\n,0.5,3\n")
    (tmp_path / "rubbish/metrics.csv").write_bytes(b"\xff\xfe\x00")
    found = scan([tmp_path])
    assert [(run.folder.name, run.progress) for run in found.unfinished] == [
        ("begun", "nothing logged"),
        ("distilling", "last logged: distillation, step 9"),
        ("rubbish", "nothing logged"),
        ("segmenting", "last logged: segmentation, step 3"),
    ]
    assert (found.runs, found.unreadable) == ([], [])


def test_other_programs_files_are_no_runs(tmp_path):
    for folder in ("model", "wandb/run/files", ".hydra", "app"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.yaml").write_text("port: 80\n")
    found = scan([tmp_path])
    assert (found.runs, found.unfinished, found.unreadable) == ([], [], [])


def test_an_evaluation_is_told_from_a_run(tmp_path):
    made = trees.result(model="/runs/a/model")
    del made["seed"]
    trees.write_run(tmp_path / "e", made)
    (run,) = collect([tmp_path])
    assert (run.is_evaluation, run.seed, run.config) == (True, None, None)


def changed(**entries):
    return json.dumps(trees.result() | entries)


def with_test(**entries):
    return changed(test={"metrics": {}} | entries)


BAD = {
    "cut off": ('{"dataset": "de', r"damaged: no JSON"),
    "deep": ("[" * 100_000, r"damaged: no JSON"),
    "a list": ("[1]", r"no result of dmdd: not an object"),
    "no dataset": (changed(dataset=None), r"'dataset' is no text; written by dmdd 0\.1\.0"),
    "no category": (changed(category=3), r"'category' is no text"),
    "no seed": (changed(seed=None), r"neither 'seed' \(a run\) nor 'model' \(an evaluation\)"),
    "a true seed": (changed(seed=True), r"neither 'seed'"),
    "another layout": (changed(test=None, versions=None), r"'test' is missing; written by an unknown version"),
    "no metrics": (changed(test={}), r"'test.metrics' is missing"),
    "percent": (
        changed(test={"metrics": {"pixel_auroc": 98.3}}),
        r"'test.metrics.pixel_auroc' is no number in \[0, 1\]",
    ),
    "NaN": (changed(test={"metrics": {"pixel_auroc": float("nan")}}), r"is no number in \[0, 1\]"),
    "maps": (with_test(maps=[]), r"'test.maps' is no object"),
    "a map": (with_test(maps={"both": 1}), r"'test.maps.both' is no object"),
    "types": (with_test(types={"dent": {"images": 2, "images_found": "all"}}), r"'test.types.dent.images_found' is no"),
    "bounds": (with_test(bounds=[]), r"'test.bounds' is no object"),
    "categories": (with_test(categories=[]), r"'test.categories' is no object"),
    "a category": (with_test(categories={"lid": 1}), r"'test.categories.lid' is no object"),
    "a category's metrics": (with_test(categories={"lid": {}}), r"'test.categories.lid.metrics' is no object"),
    "a pair of a type": (
        with_test(type_intervals_95={"dent": {"aupro_30": [0.1]}}),
        r"'test.type_intervals_95.dent.aupro_30' is no pair of numbers",
    ),
    "a list of types": (with_test(type_intervals_95=[]), r"'test.type_intervals_95' is no object"),
    "decisions": (with_test(decisions=[1]), r"'test.decisions' is no object"),
    "a pair": (with_test(intervals_95={"aupro_30": [0.1]}), r"'test.intervals_95.aupro_30' is no pair of numbers"),
    "protocol": (changed(protocol="none"), r"'protocol' is no object"),
    "command": (changed(command="python"), r"'command' is no list of text"),
    "threshold": (changed(calibration={"image_threshold": "high"}), r"'calibration.image_threshold' is no number"),
    "suspicious": (changed(suspicious={}), r"'suspicious' is no list"),
    "a suspicious one": (changed(suspicious=[{"file": "a"}]), r"'suspicious' holds an entry without file and strange"),
    "time": (changed(wall_time_s={"total": "long"}), r"'wall_time_s.total' is no number"),
}


@pytest.mark.parametrize(("text", "reason"), BAD.values(), ids=BAD.keys())
def test_a_bad_result_is_named_with_its_reason_and_the_rest_goes_on(tmp_path, text, reason):
    trees.write_run(tmp_path / "good")
    trees.write_run(tmp_path / "bad")
    (tmp_path / "bad/result.json").write_text(text)
    found = scan([tmp_path])
    assert [run.folder.name for run in found.runs] == ["good"]
    (bad,) = found.unreadable
    assert bad.file == tmp_path / "bad/result.json"
    assert re.search(reason, bad.reason), bad.reason


def test_a_result_that_may_not_be_read(tmp_path, monkeypatch):
    folder = trees.write_run(tmp_path / "a")

    def closed(*arguments, **keywords):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(folder), "read_text", closed)
    bad = {found.file.name: found.reason for found in scan([tmp_path]).unreadable}
    assert bad["result.json"] == "cannot be read: Permission denied"


@pytest.mark.parametrize("text", ["a: [", "- 1\n", "\x00"])
def test_a_damaged_configuration_is_named_and_the_result_still_counts(tmp_path, text):
    trees.write_run(tmp_path / "a")
    (tmp_path / "a/config.yaml").write_text(text)
    found = scan([tmp_path])
    assert [run.config for run in found.runs] == [None]
    (bad,) = found.unreadable
    assert bad.file.name == "config.yaml"
    assert bad.reason.startswith("damaged: ")
    assert "\n" not in bad.reason


def test_a_closed_folder_is_named(tmp_path, monkeypatch):
    def closed(top, followlinks, onerror):
        onerror(PermissionError(13, "Permission denied", str(tmp_path / "secret")))
        return iter(())

    monkeypatch.setattr(os, "walk", closed)
    (bad,) = scan([tmp_path]).unreadable
    assert (bad.file, bad.reason) == (tmp_path / "secret", "cannot be read: Permission denied")


@pytest.mark.parametrize("path", ["nowhere", "nowhere/*"])
def test_a_path_that_is_not_there(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no folder nowhere"):
        scan([path])


def test_overrides_are_read_from_the_command(tmp_path):
    made = trees.result(overrides=("+experiments/ablation=aim_l1", "a.b=c=d", "~logger.csv"))
    trees.write_run(tmp_path / "a", made)
    (run,) = collect([tmp_path])
    assert run.overrides == {
        "dataset": "demo",
        "category": "plate",
        "experiments/ablation": "aim_l1",
        "a.b": "c=d",
        "logger.csv": "",
    }


@pytest.mark.parametrize(
    ("entries", "trainer", "reason"),
    [
        ({"images": {"listed": 12, "tested": 8}}, {}, "measured on 8 of 12 test images"),
        ({}, {"limit_test_batches": 2}, "trainer.limit_test_batches=2: not measured on all test images"),
        ({}, {"limit_test_batches": 0}, "trainer.limit_test_batches=0: not measured on all test images"),
        ({"overrides": ("+trainer.fast_dev_run=1",)}, None, "trainer.fast_dev_run=1: not measured on all test images"),
        (
            {"synthetic_validation": {"metrics": {"pixel_auroc": 0.5}}, "test": {"metrics": {"pixel_auroc": 0.5}}},
            {},
            "are those of the synthetic validation",
        ),
    ],
)
def test_figures_of_a_part_of_the_test_images_are_not_reported(tmp_path, entries, trainer, reason):
    made = trees.result(**entries)
    settings = trees.config() if trainer is None else trees.config(trainer=trainer)
    trees.write_run(tmp_path / "part", made, settings)
    trees.write_run(
        tmp_path / "whole",
        trees.result(images={"listed": 12, "tested": 12}),
        trees.config(trainer={"limit_test_batches": 1.0}),
    )
    found = scan([tmp_path])
    assert [run.folder.name for run in found.runs] == ["whole"]
    (bad,) = found.unreadable
    assert bad.file == tmp_path / "part/result.json"
    assert reason in bad.reason
