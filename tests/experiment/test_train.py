"""The main job as a user runs it: on one device and on two, and with input that cannot be used."""

import csv
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from scipy.integrate import trapezoid  # numpy has one of that name from version 2 on
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from dmdd.core.drawing import CAPTION_PX
from dmdd.core.files import file_sha256
from dmdd.data.listing import listing_digest
from dmdd.experiment.initial import trained_before
from dmdd.models.detector import MAP_NAMES, Detector
from processes import run_command
from reference.wandb_log import read_records

SMOKE = ["dataset=demo", "category=plate", "teacher=resnet18", "teacher.random_weights=true", "recipe=smoke"]


def dmdd(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    return run_command("train", *arguments, cwd=cwd, **environment)


@pytest.fixture(scope="module")
def run(tmp_path_factory, demo_root) -> Path:
    """A finished smoke run."""
    cwd = tmp_path_factory.mktemp("cwd")
    done = dmdd(*SMOKE, f"data_dir={demo_root}", "name=one", "evaluation.pictures=8", cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert "test set, percent" in done.stdout
    assert "distillation 6/6" in done.stderr
    return cwd / "runs/demo/plate/one"


def test_everything_of_the_run_lies_in_its_folder(run):
    assert sorted(file.name for file in run.iterdir()) == [
        "config.yaml",
        "curves.json",
        "curves.png",
        "images",
        "metrics.csv",
        *(["mistakes.jpg"] if _mistakes(run) else []),
        "model",
        "pairs.jpg",
        "result.json",
        "scores.csv",
        "trained_on.txt",
        "training.png",
    ]
    assert [p.name for p in run.parents[3].iterdir()] == ["runs"]
    page = (Path(__file__).resolve().parents[2] / "docs/reference/files.md").read_text(encoding="utf-8")
    assert all(f"`{file.name}{'/' * file.is_dir()}" in page for file in run.iterdir())


def _mistakes(run: Path) -> int:
    decisions = json.loads((run / "result.json").read_text())["test"]["decisions"]
    return decisions["false_positive"] + decisions["false_negative"]


def test_contact_sheets_have_a_place_for_every_pair_and_mistake(run):
    with Image.open(run / "pairs.jpg") as sheet:
        assert sheet.size == (6 * 200, 2 * 3 * 200)
    if _mistakes(run):  # as many as there are pictures of
        with Image.open(run / "mistakes.jpg") as sheet:
            strip = round(1024 * (128 + CAPTION_PX) / (4 * 128))
            assert (sheet.size[0], sheet.size[1] % strip) == (1024, 0)
            assert sheet.size[1] // strip <= _mistakes(run)


def test_result_records_what_the_protocol_asks_for(run, demo_category):
    result = json.loads((run / "result.json").read_text())
    assert {"protocol", "seed", "commit", "versions", "device", "wall_time_s", "teacher", "command"} <= set(result)
    assert set(result["wall_time_s"]) == {"distillation", "segmentation", "evaluation", "total"}
    assert result["teacher"]["weights"] == "random (no pretraining)"
    assert len(result["teacher"]["sha256"]) == 64
    images = result["images"]
    assert images.pop("listing") == listing_digest((*demo_category.train, *demo_category.test))
    assert 0 < images.pop("part_share") < 1
    counts = {"trained_on": 11, "held_out": 1, "listed": 12, "tested": 12, "part_found_on": 11}
    assert images == {**counts, "augmented": False}  # seen twice each
    assert set(result["test"]["maps"]) == set(MAP_NAMES)
    for name in ("pixel_auroc", "aupro_30", "image_auroc"):
        assert 0 <= result["test"]["metrics"][name] <= 1
    assert set(result["test"]["intervals_95"]) == set(result["test"]["metrics"])
    assert sum(result["test"]["decisions"].values()) == images["tested"]
    for name, (low, high) in result["test"]["intervals_95"].items():
        assert low <= result["test"]["metrics"][name] <= high, name
    assert torch.__version__.startswith(result["versions"]["torch"])


def test_scores_agree_with_the_saved_model_and_the_metric(run, demo_category):
    with (run / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [
        s.path.relative_to(demo_category.root).as_posix() for s in demo_category.test
    ]
    detector = Detector.load(run / "model")
    for row, sample in zip(rows, demo_category.test, strict=True):
        with Image.open(sample.path) as picture:
            image = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None]
        with torch.no_grad():
            assert detector(image).score.item() == pytest.approx(float(row["raw_score"]), abs=1e-6)
    normal = [float(row["score"]) for row in rows if row["label"] == "0"]
    anomalous = [float(row["score"]) for row in rows if row["label"] == "1"]
    auroc = np.mean([(a > n) + 0.5 * (a == n) for a in anomalous for n in normal])
    assert json.loads((run / "result.json").read_text())["test"]["metrics"]["image_auroc"] == pytest.approx(auroc)


def test_model_folder_holds_no_pickle_and_nothing_of_hydra(run):
    assert sorted(file.name for file in (run / "model").iterdir()) == ["detector.json", "weights.safetensors"]
    assert "_target_" not in (run / "model/detector.json").read_text()


def test_pictures_cover_every_defect_type(run):
    files = sorted((run / "images").iterdir())
    assert len(files) == 8
    for name in ("good", "scratch", "dent", "stain", "missing_piece"):
        assert any(name in file.name for file in files), name
    for file in files:
        with Image.open(file) as picture:
            assert picture.size == (4 * 128, 128 + CAPTION_PX)


def test_curves_begin_and_end_where_they_must(run):
    curves = json.loads((run / "curves.json").read_text())
    assert set(curves) == {"image_roc", "image_pr", "pixel_roc", "pixel_pr", "pro"}
    for name in ("image_roc", "pixel_roc", "pro"):
        x, y = curves[name]["x"], curves[name]["y"]
        assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
        assert x == sorted(x)
        assert y == sorted(y)
    area = trapezoid(curves["image_roc"]["y"], curves["image_roc"]["x"])
    assert area == pytest.approx(
        json.loads((run / "result.json").read_text())["test"]["metrics"]["image_auroc"], abs=1e-4
    )
    with Image.open(run / "curves.png") as picture:
        assert picture.size[0] > 4 * picture.size[1]


def test_log_has_the_losses_of_both_stages(run):
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for column in ("distillation/ngm", "distillation/aim", "segmentation/loss", "distillation/learning_rate"):
        assert any(row[column] for row in rows), column


def test_evaluate_gives_the_runs_figures_from_the_saved_model_alone(run, tmp_path, demo_root, monkeypatch):
    from dmdd.evaluate import main

    monkeypatch.chdir(tmp_path)
    arguments = ["dataset=demo", "category=plate", f"data_dir={demo_root}", f"model={run / 'model'}", "pictures=1"]
    assert main([*arguments, f"hydra.run.dir={tmp_path / 'out'}"]) == 0
    old, new = (json.loads((folder / "result.json").read_text()) for folder in (run, tmp_path / "out"))
    assert new["test"] == old["test"]
    assert new["training"] == {name: old[name] for name in ("dataset", "category", "seed", "teacher", "commit")}
    assert new["calibration"] == old["calibration"]
    assert (tmp_path / "out/scores.csv").read_text() == (run / "scores.csv").read_text()
    (tmp_path / "out/images/99_good_000.png").write_bytes(b"")  # of an earlier evaluation
    assert main([*arguments, "anomaly_map=normality", f"hydra.run.dir={tmp_path / 'out'}"]) == 0
    other = json.loads((tmp_path / "out/result.json").read_text())
    of_map = old["test"]["maps"]["normality"]["pixel_auroc"]  # from histograms; the detector's own map is exact
    assert other["test"]["metrics"]["pixel_auroc"] == pytest.approx(of_map, abs=1e-4)
    assert other["test"]["metrics"]["image_auroc"] == old["test"]["metrics"]["image_auroc"]
    assert other["calibration"] == {}
    shutil.copytree(run / "model", tmp_path / "model")
    assert (
        main([*arguments[:-2], f"model={tmp_path / 'model'}", "pictures=0", f"hydra.run.dir={tmp_path / 'out'}"]) == 0
    )
    assert json.loads((tmp_path / "out/result.json").read_text())["training"] is None  # nothing beside it tells
    shutil.rmtree(tmp_path / "model")
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out/images/99_good_000.png").exists()


def test_training_starts_from_a_trained_model(run, tmp_path, demo_root, monkeypatch):
    from dmdd.train import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    steps = ["distillation.steps=1", "segmentation_training.steps=1", "distillation.learning_rate=1e-12"]
    given = [*SMOKE, f"data_dir={demo_root}", "evaluation.resamples=0", "evaluation.pictures=0", "name=more", *steps]
    given.append("evaluation.study_maps=false")
    assert main([*given, f"init={run / 'model'}"]) == 0
    result = json.loads(Path("runs/demo/plate/more/result.json").read_text())
    assert result["init"] == {"model": str(run / "model"), "sha256": file_sha256(run / "model/weights.safetensors")}
    assert trained_before("runs/demo/plate/more/model") == trained_before(str(run / "model"))
    assert len(trained_before(str(run / "model"))) == 11
    before, after = (load_file(folder / "model/weights.safetensors") for folder in (run, Path("runs/demo/plate/more")))
    weights = [name for name in before if name.startswith("student.") and name.endswith("weight")]
    assert weights
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in weights)


def test_doubts_of_masks_are_told_before_training_and_evaluation(run, tmp_path, demo_root, monkeypatch, capsys):
    from dmdd.evaluate import main as evaluate
    from dmdd.train import main as train

    shutil.copytree(demo_root / "demo/plate", tmp_path / "data/demo/plate")
    masks = sorted((tmp_path / "data/demo/plate/ground_truth/dent").iterdir())
    pixels = np.zeros((128, 128), np.uint8)
    Image.fromarray(pixels).save(masks[0])
    pixels[9, 9] = 255  # between the pixels that are kept
    Image.fromarray(255 - pixels).save(masks[1])
    told = [
        f"warning: the mask {masks[0]} marks nothing, so",
        f"warning: the mask {masks[1]} marks most of the image and",
    ]
    given = ["dataset=demo", "category=plate", f"data_dir={tmp_path / 'data'}"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert train([*SMOKE[2:], *given, "trainer.devices=4096"]) == 2  # which is told next
    error = capsys.readouterr().err
    assert all(line in error for line in told)
    assert evaluate([*given, f"model={run / 'model'}", "accelerator=gpu"]) == 2
    error = capsys.readouterr().err
    assert all(line in error for line in told)


def test_evaluate_does_not_write_over_a_training_run(run, demo_root, capsys):
    from dmdd.evaluate import main

    before = (run / "result.json").read_bytes()
    arguments = ["dataset=demo", "category=plate", f"data_dir={demo_root}", f"model={run / 'model'}"]
    assert main([*arguments, f"hydra.run.dir={run}"]) == 2
    assert "holds a training run, whose result would be lost; give another run_dir=" in capsys.readouterr().err
    assert (run / "result.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "model is missing: give model=FOLDER"),
        (["model={model}", "score_map=best"], "score_map=best: choose one of relative, overall"),
        (["model=nowhere"], "no detector.json in .*nowhere; give the model folder of a finished run"),
        (["model=nowhere", "batch_size=0"], "batch_size=0: give a positive whole number"),
    ],
)
def test_evaluate_with_bad_input(run, tmp_path, demo_root, monkeypatch, capsys, arguments, message):
    from dmdd.evaluate import main

    arguments = [argument.format(model=run / "model") for argument in arguments]

    monkeypatch.chdir(tmp_path)
    assert main(["dataset=demo", "category=plate", f"data_dir={demo_root}", *arguments]) == 2
    assert re.search(f"error: .*{message}", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_one_model_for_two_categories(tmp_path, demo_root):
    """All of it: training, figures and thresholds by category, and a decision by those of one."""
    for name in ("front", "back"):
        shutil.copytree(demo_root / "demo/plate", tmp_path / "parts" / name)
    cheap = ["image_size=[64,64]", "evaluation.resamples=0", "evaluation.pictures=0", "evaluation.study_maps=false"]
    pooled = ["dataset=mvtec_layout", "data_dir=parts", "category=all", "name=both", *cheap]
    done = dmdd(*SMOKE[2:], *pooled, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "by category, each at its own threshold, percent" in done.stdout
    run = tmp_path / "runs/parts/all/both"
    result = json.loads((run / "result.json").read_text())
    assert result["images"]["categories"] == ["back", "front"]
    figures = result["test"]["categories"]
    assert figures.keys() == {"back", "front"}
    of_both = [one["metrics"]["pixel_auroc"] for one in figures.values()]
    assert of_both[0] == pytest.approx(of_both[1], abs=1e-4)  # they show the same
    assert result["test"]["category_mean"]["pixel_auroc"] == pytest.approx(np.mean(of_both))
    known = json.loads((run / "model/detector.json").read_text())
    assert known["image_kinds"] == 2
    assert known["category_calibrations"].keys() == {"back", "front"}
    with (run / "scores.csv").open() as file:
        assert {row["category"] for row in csv.DictReader(file)} == {"back", "front"}
    scored = [f"model={run}/model", "input=parts/back/test/good", "category=back", "output=out"]
    assert run_command("predict", *scored, cwd=tmp_path).returncode == 0
    with (tmp_path / "out/scores.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4
    scored[2:] = ["category=side", "output=other"]
    wrong = run_command("predict", *scored, cwd=tmp_path)
    assert wrong.returncode == 2
    assert "category=side: the model is for back, front" in wrong.stderr


@pytest.fixture(scope="module")
def swept(tmp_path_factory, demo_root) -> tuple[Path, subprocess.CompletedProcess]:
    """The folder with the runs of a sweep over devices and a category that there is not, and what it printed."""
    if (os.cpu_count() or 1) < 2:
        pytest.skip("one CPU core")
    cwd = tmp_path_factory.mktemp("swept")
    smoke = [argument for argument in SMOKE if not argument.startswith("category")]
    # In float64, where the order of sums does not matter: in float32 AdamW turns the last bits of a small gradient
    # into whole steps, and two runs part by one part in ten thousand a step.
    common = [f"data_dir={demo_root}", "trainer.accelerator=cpu", "trainer.precision=64-true", "name=s"]
    common += ["trainer.log_every_n_steps=1", *(f"evaluation.{name}" for name in ("pictures=0", "resamples=20"))]
    members = ["category=nosuch,plate", "trainer.devices=2,1"]  # one device finds nothing left of two
    done = dmdd("-m", *smoke, *common, "evaluation.study_maps=false", *members, cwd=cwd)
    return cwd / "runs/demo", done


def test_two_devices_train_as_one_does_and_score_every_image(swept, demo_category):
    folder, alone = (swept[0] / "plate" / name for name in ("s_2_seed0", "s_3_seed0"))
    one, two = (load_file(run / "model/weights.safetensors") for run in (alone, folder))
    for name, tensor in one.items():
        assert tensor.dtype != torch.float64  # what is saved can be loaded, whatever it was trained in
        assert torch.allclose(two[name].double(), tensor.double(), atol=1e-6), name
    losses = [list(csv.DictReader((run / "metrics.csv").read_text().splitlines())) for run in (alone, folder)]
    assert len(losses[0]) == 10
    for row, other in zip(*losses, strict=True):
        assert {k: float(v or 0) for k, v in row.items()} == pytest.approx({k: float(v or 0) for k, v in other.items()})
    tests = [json.loads((run / "result.json").read_text())["test"] for run in (alone, folder)]
    figures = [test["metrics"] for test in tests]
    # Only as far as its 200 thresholds lie apart: a pixel on one of them falls to either side.
    coarse = [each.pop("aupro_per_image_200") for each in figures]
    assert coarse[0] == pytest.approx(coarse[1], abs=1e-3)
    assert figures[0] == pytest.approx(figures[1], abs=1e-6)
    # Drawn by the first process from the images of both.
    intervals = [test["intervals_95"] | test["type_intervals_95"]["dent"] for test in tests]
    assert intervals[0].keys() == intervals[1].keys() >= {"pixel_auroc", "image_auroc", "pixels_found"}
    for name, interval in intervals[0].items():
        assert interval == pytest.approx(intervals[1][name], abs=1e-3), name
    with (folder / "scores.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(demo_category.test)


def test_sweep_over_devices_trains_each_member_once_and_goes_on_after_a_bad_one(swept):
    folder, done = swept
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error: unknown category 'nosuch'") == 2
    told = r"error: 2 of 4 runs failed: category=nosuch \+*trainer.devices=2: unknown category 'nosuch'"
    assert re.search(told, done.stderr), done.stderr
    assert sorted(p.name for p in folder.iterdir()) == ["plate"]
    folders = sorted((folder / "plate").iterdir())
    assert [folder.name for folder in folders] == ["s_2_seed0", "s_3_seed0"]
    assert [json.loads((folder / "result.json").read_text())["devices"] for folder in folders] == [2, 1]
    assert done.stdout.count("test set, percent") == 2


def test_dashboards_hold_both_stages_settings_tables_pictures_and_the_model(tmp_path, demo_root, demo_category):
    arguments = ["logger=many", "name=w", "evaluation.pictures=2", "upload_model=true"]
    done = dmdd(*SMOKE, f"data_dir={demo_root}", *arguments, cwd=tmp_path, WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs/demo/plate/w"
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]
    metrics = json.loads((folder / "result.json").read_text())["test"]["metrics"]

    logs = list((folder / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(logs) == 1
    records = read_records(logs[0])
    by_kind = {kind: [r for r in records if r.WhichOneof("record_type") == kind] for kind in ("run", "history")}
    run = by_kind["run"][0].run
    group, digest = run.run_group.split()
    assert (group, len(digest), run.job_type, list(run.tags)) == ("demo/plate", 8, "plate", ["demo", "seed-0"])
    rows = [{i.key or i.nested_key[0]: i.value_json for i in r.history.item} for r in by_kind["history"]]
    logged = {name: json.loads(value) for row in rows for name, value in row.items()}
    assert {"distillation/loss", "distillation/learning_rate", "segmentation/loss"} <= set(logged)
    steps = [json.loads(row["trainer/global_step"]) for row in rows if "trainer/global_step" in row]
    assert steps == sorted(steps)  # one step over both stages
    assert steps[-1] == 10
    assert logged["test/pixel_auroc"] == pytest.approx(metrics["pixel_auroc"])  # a panel, not the summary alone
    assert {name for name in logged if name.endswith("/pairs")} == {"distillation/pairs", "segmentation/pairs"}
    assert {"test/curves", "test/training", "test/pictures", "test/types", "test/images"} <= set(logged)
    plots = {"image_roc", "image_pr", "pixel_roc", "pixel_pr", "pro"}
    assert {f"test/{name}_table" for name in plots} <= set(logged)
    summary = {
        i.key: i.value_json for r in records if r.WhichOneof("record_type") == "summary" for i in r.summary.update
    }
    assert json.loads(summary["test/pixel_auroc"]) == pytest.approx(metrics["pixel_auroc"])
    assert "validation/image_auroc" in summary
    assert "test_normality/aupro_30" in summary
    settings = {i.key for r in records if r.WhichOneof("record_type") == "config" for i in r.config.update}
    assert {"dataset", "seed", "distillation"} <= settings
    assert "model" in [r.artifact.type for r in records if r.WhichOneof("record_type") == "artifact"]
    (table,) = logs[0].parent.glob("files/media/table/test/images_*.table.json")
    table = json.loads(table.read_text())
    assert table["columns"] == ["file", "type", "label", "score", "verdict", "picture"]
    assert len(table["data"]) == len(demo_category.test)
    artifacts = [r.artifact for r in records if r.WhichOneof("record_type") == "artifact"]
    (images,) = (artifact for artifact in artifacts if "testimages" in artifact.name)
    paths = [content.path for content in images.manifest.contents]
    drawn = [path for path in paths if re.fullmatch(r"media/images/[0-9a-f]+\.png", path)]
    assert len(drawn) == len(list((folder / "images").iterdir()))
    assert any("mask" in path for path in paths)

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0}).Reload()
    assert {"distillation/loss", "segmentation/loss"} <= set(events.Tags()["scalars"])
    assert events.Scalars("test/pixel_auroc")[0].value == pytest.approx(metrics["pixel_auroc"])
    assert "hp_metric" not in events.Tags()["scalars"]
    charts = {"test/curves", "test/training"} | ({"test/mistakes"} if (folder / "mistakes.jpg").is_file() else set())
    shown = {f"test/{file.stem}" for file in (folder / "images").iterdir()}
    assert set(events.Tags()["images"]) == shown | charts | {"distillation/pairs", "segmentation/pairs"}
    content = events.SummaryMetadata("_hparams_/experiment").plugin_data.content
    named = {info.name.tag for info in HParamsPluginData.FromString(content).experiment.metric_infos}
    assert {"test/pixel_auroc", "validation/image_auroc"} <= named
    assert not any(name.startswith("test_") for name in named)


def test_a_test_set_without_anomalies_is_scored_without_metrics(tmp_path, demo_category):
    folder = tmp_path / "data/part"
    folder.mkdir(parents=True)
    for sample in demo_category.train[:6]:
        shutil.copy(sample.path, folder)
    arguments = [
        "dataset=folder",
        "category=part",
        f"data_dir={tmp_path / 'data'}",
        "name=n",
    ]
    done = dmdd(*SMOKE[2:], *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "runs/folder/part/n/result.json").read_text())
    assert "image_false_alarm_rate" in result["test"]["metrics"]
    assert not {"image_auroc", "pixel_auroc", "aupro_30", "image_precision"} & set(result["test"]["metrics"])
    tested, held_out = result["images"]["tested"], result["images"]["held_out"]
    assert (tested >= 1, held_out) == (True, 1)
    few = f"warning: 1 of {6 - tested} training images is held out for the threshold, too few to promise "
    assert few + "evaluation.false_alarm_rate=0.01: take more good images, or " in done.stderr
    assert "warning: no anomalous images: AUROC, AUPRO and how many defects are found are not measured" in done.stderr
    assert "threshold of the score 0.5: 1 % false alarms cannot be promised with 1 good image: expect" in done.stdout
    assert f"of {tested} good test images (" in done.stdout
    assert f"scores of {tested} good test images: " in done.stdout
    assert " - " not in done.stdout  # no table of dashes
    assert "AUPRO@0.3" not in done.stdout


def test_a_damaged_test_image_is_told_before_training(tmp_path, demo_root, monkeypatch, capsys):
    from dmdd.train import main

    shutil.copytree(demo_root / "demo", tmp_path / "data/demo")
    victim = sorted((tmp_path / "data/demo/plate/test/dent").iterdir())[0]
    victim.write_bytes(victim.read_bytes()[:200])
    monkeypatch.chdir(tmp_path)
    assert main([*SMOKE, f"data_dir={tmp_path / 'data'}"]) == 2
    assert victim.name in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


BAD_INPUT = [
    (["category=plat"], r"unknown category 'plat'.*plate"),
    ([], r"category is missing.*plate"),
    (["category=plate", "data_dir=nowhere"], r"no data folder .*nowhere"),
    (["category=plate", "trainer.devices=4096"], r"trainer.devices=4096, but this machine has \d+ CPU core"),
    (["category=plate", "trainer.devices=0"], r"trainer.devices=0: give a number from 1"),
    (["category=plate", "+trainer.accumulate_grad_batches=2"], r"trainer.accumulate_grad_batches=2: a stage has "),
    (["category=plate", "+trainer.max_time=00:00:01:00"], r"trainer.max_time=00:00:01:00: a stage has "),
    (["category=plate", "+trainer.limit_test_batches=0"], r"trainer.limit_test_batches=0: a result is measured on all"),
    (["category=plate", "trainer.accelerator=gpu"], r"no CUDA GPU is visible"),
    (["category=plate", "batch_size=0"], r"batch_size=0: give a positive whole number"),
    (["category=plate", "seed=-1"], r"seed=-1: give a whole number from 0"),
    (["category=plate", "distillation.steps=0"], r"distillation.steps=0: give a positive whole number"),
    (["category=plate", "learning_rte=1"], r"unknown setting learning_rte; did you mean distillation.learning_rate\?"),
    (["category=plate", "recipe=fast"], r"recipe=fast: there is no such option.*cpu.*paper.*smoke"),
    (["category=plate", "student.body=unet"], r"student.body=unet: choose one of"),
    (["category=plate", "distillation.aim=l3"], r"distillation.aim=l3: choose one of margin, l1"),
    (["category=plate", "image_size=[100,100]"], r"image_size=100x100: both sides must be multiples of 32"),
    (["category=plate", "image_size=100"], r"image_size=100: give height and width"),
    (["category=plate", "pairs.procedural=-1"], r"PairSynthesis.*must be >= 0"),
    (["category=plate", "teacher.weights=none.pth"], r"teacher.weights: no file at"),
    (["category=plate", "trainer.nonsense=1"], r"unknown setting trainer.nonsense"),
    (["category=plate", "evaluation.precision=fp32"], r"evaluation.precision=fp32: choose one of 32-true, "),
    (["category=plate", "trainer.precision=bf16-true"], r"trainer.precision=bf16-true: choose one of 32-true, "),
    (["category=plate", "++pairs._target_=${oc.env:NO_SUCH_VARIABLE}"], r"NO_SUCH_VARIABLE"),
    (["category=plate", "evaluation.resamples=${now:%Y}"], r"evaluation.resamples=\d+: give a whole number from 0"),
    (["category=größe"], r"unknown category 'größe'"),
    (["category=2024_01"], r"unknown category '2024_01'"),
    (["category=a,b"], "unknown category 'a'"),
    (["category=plate", "data_dir=a=[b]/'ü"], r"no data folder .*a=\[b\]/'ü"),
    (["plate"], r"'plate' is not a setting; write NAME=VALUE, as in category=plate"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), BAD_INPUT, ids=lambda value: "_".join(value) if isinstance(value, list) else ""
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, demo_root, arguments, message, monkeypatch, capsys):
    from dmdd.train import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    base = [argument for argument in SMOKE if not argument.startswith("category")]
    given = {argument.partition("=")[0] for argument in arguments}
    base = [b for b in [*base, f"data_dir={demo_root}"] if b.partition("=")[0] not in given]
    if "teacher.weights" in given:
        base.remove("teacher.random_weights=true")
    assert main([*base, *arguments]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert re.search(message, errors[0]), errors[0]
    assert list(tmp_path.iterdir()) == []
