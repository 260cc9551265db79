"""What the page takes from beside a result: reduced, ranked, and named where it is damaged."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import report_trees as trees
from PIL import Image

from dmdd.report import gallery
from dmdd.report import page as report_page
from dmdd.report.collect import Run
from dmdd.report.detail import CURVE_TOLERANCE, LOSS_POINTS, Score, histogram, read_curves, read_losses, read_scores
from dmdd.report.gallery import disorder, pictures


@pytest.fixture
def folder(tmp_path):
    return trees.write_details(trees.write_run(tmp_path / "run"))


def shown(folder, *, threshold=0.5, count=9, max_bytes=10**6, unreadable=None):
    problems = [] if unreadable is None else unreadable
    scores = read_scores(folder, problems)
    return pictures(folder, scores, threshold=threshold, count=count, max_bytes=max_bytes, unreadable=problems)


def test_scores_know_whether_they_are_on_the_scale_for_people(folder):
    assert not any(score.readable for score in read_scores(folder, []))
    text = "file,defect,label,score,raw_score,false_alarm_probability\na.png,good,0,0.25,0.31,0.2\n"
    (folder / "scores.csv").write_text(text)
    assert read_scores(folder, []) == [Score("a.png", "good", 0, 0.25, readable=True)]


def test_histogram_counts_every_image_and_spans_the_threshold(folder):
    counted = histogram(read_scores(folder, []), 1.0)
    assert (counted["low"], counted["high"]) == (0.1, 1.0)
    assert (sum(counted["normal"]), sum(counted["anomalous"])) == (2, 3)
    assert counted["normal"][0] == 1
    equal = histogram([Score("a", "good", 0, 0.3)] * 2, None)
    assert sum(equal["normal"]) == 2
    assert histogram([], 0.5) is None


def test_reduced_curves_stay_within_the_tolerance(folder):
    rng = np.random.default_rng(0)
    x, y = np.sort(rng.random(1000)), np.sort(rng.random(1000)) ** 0.1
    x[[0, -1]], y[[0, -1]] = (0, 1), (0, 1)
    (folder / "curves.json").write_text(json.dumps({"image_roc": {"x": x.tolist(), "y": y.tolist()}}))
    xs, ys = read_curves(folder, [])["image_roc"]
    assert len(xs) < 1000
    assert (xs[0], ys[0], xs[-1], ys[-1]) == (0, 0, 1, 1)
    # Distance of each point to the nearest of many points on the reduced line.
    fine = np.linspace(0, len(xs) - 1, 200_000)
    line = np.stack([np.interp(fine, np.arange(len(xs)), v) for v in (xs, ys)], axis=1)
    for point in np.stack([x, y], axis=1)[::20]:
        assert np.hypot(*(line - point).T).min() < CURVE_TOLERANCE + 1e-4


def test_losses_by_stage_are_thinned_and_keep_their_ends(folder):
    losses = read_losses(folder, [])
    assert {stage: sorted(names) for stage, names in losses.items()} == {
        "distillation": ["aim", "loss", "ngm"],
        "segmentation": ["loss"],
    }
    assert losses["segmentation"]["loss"] == [[0, 1, 2, 3, 4], [0.1, 0.05, 0.033333, 0.025, 0.02]]
    rows = "".join(f"{1 / (s + 1)},{s}\n" for s in range(1234))
    (folder / "metrics.csv").write_text("segmentation/loss,step\n" + rows)
    steps, _ = read_losses(folder, [])["segmentation"]["loss"]
    assert len(steps) <= LOSS_POINTS + 1
    assert (steps[0], steps[-1]) == (0, 1233)


def test_absent_files_are_no_problem(tmp_path):
    problems: list = []
    assert (read_scores(tmp_path, problems), read_curves(tmp_path, problems), read_losses(tmp_path, problems)) == (
        [],
        {},
        {},
    )
    assert shown(tmp_path, unreadable=problems) == []
    assert problems == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("scores.csv", "file,defect\na,b\n"),
        ("scores.csv", "file,defect,label,score\na,b,0,high\n"),
        ("scores.csv", "file,defect,label,score\na,b,0,nan\n"),
        ("scores.csv", "file,defect,label,score\na,b,2,0.1\n"),
        ("scores.csv", "file,defect,label,score\na,b\n"),
        ("curves.json", "{"),
        ("curves.json", '{"pro": {"x": [], "y": []}}'),
        ("curves.json", '{"pro": {"x": [0, 1], "y": [0]}}'),
        ("curves.json", '{"pro": [1]}'),
        ("curves.json", "[1]"),
        ("metrics.csv", "segmentation/loss,step\n0.1,one\n"),
        ("metrics.csv", "segmentation/loss\n0.1\n"),
        ("images/00_dent_000.png", "no picture"),
    ],
)
def test_damaged_files_are_named(folder, name, text):
    (folder / name).write_text(text)
    problems: list = []
    read_curves(folder, problems)
    read_losses(folder, problems)
    shown(folder, unreadable=problems)
    assert [problem.file for problem in problems] == [folder / name]
    assert problems[0].reason.startswith("damaged: ")


def test_a_file_name_that_is_no_text_is_read(folder):
    from dmdd.report.__main__ import main

    lines = (folder / "scores.csv").read_bytes().replace(b"test/dent/001.png", b"test/dent/Stra\xdfe.png")
    (folder / "scores.csv").write_bytes(lines)
    unreadable = []
    names = [score.file for score in read_scores(folder, unreadable)]
    assert "test/dent/Stra\udcdfe.png" in names
    assert not unreadable
    assert main([str(folder), "--output", str(folder / "report")]) == 0
    assert (folder / "report/report.html").read_text(encoding="utf-8")


def test_disorder_averages_to_one_minus_auroc():
    rng = np.random.default_rng(1)
    values = rng.integers(0, 12, 60) / 12  # with ties
    scores = [Score(str(i), "x", int(i % 3 == 0), float(v)) for i, v in enumerate(values)]
    pairs = [(a.score > n.score) + 0.5 * (a.score == n.score) for a in scores if a.label for n in scores if not n.label]
    for label in (0, 1):
        own = [disorder(score, scores) for score in scores if score.label == label]
        assert np.mean(own) == pytest.approx(1 - np.mean(pairs))
    assert disorder(Score("a", "x", 1, 0.1), []) == 0


def test_pictures_know_their_image_and_verdict(folder):
    verdicts = {entry["name"]: (entry["verdict"], entry["score"], entry["disorder"]) for entry in shown(folder)}
    assert verdicts == {
        "test/good/000.png": ("passed", 0.1, 0.0),
        "test/good/001.png": ("false alarm", 0.7, 0.3333),
        "test/dent/000.png": ("found", 0.9, 0.0),
        "test/dent/001.png": ("missed", 0.3, 0.5),
        "test/scratch/000.png": ("found", 0.8, 0.0),
    }
    assert {entry["verdict"] for entry in shown(folder, threshold=None)} == {None}


def test_pictures_come_type_by_type_worst_and_best_in_turn_within_the_limits(folder):
    names = [entry["name"] for entry in shown(folder, count=4)]
    assert names == ["test/dent/001.png", "test/good/001.png", "test/scratch/000.png", "test/dent/000.png"]
    size = len(shown(folder)[0]["source"])
    assert len(shown(folder, max_bytes=int(2.5 * size))) == 2
    assert shown(folder, count=0) == []


def test_a_picture_is_not_made_small_when_there_is_no_room_left(folder, monkeypatch):
    size = max(len(entry["source"]) for entry in shown(folder))
    made = []
    monkeypatch.setattr(gallery, "_encode", lambda file, encode=gallery._encode: made.append(file) or encode(file))
    assert len(shown(folder, max_bytes=size + 10)) == len(made) == 1
    assert shown(folder, max_bytes=0) == []
    assert len(made) == 1


def test_among_many_runs_the_first_of_each_row_have_pictures(monkeypatch):
    monkeypatch.setattr(report_page, "LEAST_SHARE", 100)
    made = [trees.result(category=category, seed=seed) for seed in range(3) for category in ("cap", "plate")]
    runs = [Run(Path(str(place)), result) for place, result in enumerate(made)]
    assert report_page._picture_shares(runs, [""] * 6, 600) == [100] * 6
    assert report_page._picture_shares(runs, [""] * 6, 250) == [125, 125, 0, 0, 0, 0]
    assert report_page._picture_shares(runs, ["b", "", "", "", "a", ""], 450) == [112, 112, 112, 0, 112, 0]
    assert report_page._picture_shares(runs, [""] * 6, 50) == [50, 0, 0, 0, 0, 0]
    assert report_page._picture_shares([], [], 600) == []


def test_pictures_are_cut_and_reduced(folder):
    Image.new("RGB", (4 * 512, 512 + 22)).save(folder / "images/00_dent_000.png")
    entry = next(entry for entry in shown(folder) if entry["name"] == "test/dent/000.png")
    content = base64.b64decode(entry["source"].removeprefix("data:image/webp;base64,"))
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.size == (entry["width"], entry["height"]) == (4 * 224, 224)


def test_a_name_that_two_images_share_gets_no_verdict(folder):
    with (folder / "scores.csv").open("a") as file:
        file.write("other/dent/000.png,dent,1,0.2\n")
    assert [e["name"] for e in shown(folder) if e["score"] is None] == ["dent_000"]


def test_the_strip_of_text_is_as_high_as_it_is_drawn():
    from dmdd.experiment.pictures import CAPTION_PX

    assert gallery.CAPTION_PX == CAPTION_PX
