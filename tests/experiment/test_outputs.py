"""What a run writes and prints, whatever its files are called."""

import csv
import os
from pathlib import Path

from dmdd.data.listing import Sample
from dmdd.experiment.outputs import odd_lines, print_summary, write_scores
from dmdd.models.score_scale import ScoreScale


def test_scores_keep_the_bytes_of_a_name_that_is_no_text(tmp_path):
    path = Path(os.fsdecode(bytes(tmp_path / "test/dent/Stra") + b"\xdfe.png"))
    write_scores(tmp_path / "scores.csv", (Sample(path, 1, "dent", None),), [(0, 1, 0.5)], tmp_path)
    with (tmp_path / "scores.csv").open("rb") as file:
        assert b"test/dent/Stra\xdfe.png,dent,1,0.5\n" in file.read()
    with (tmp_path / "scores.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        (row,) = csv.DictReader(file)
    assert os.fsencode(tmp_path / row["file"]) == os.fsencode(path)


def test_scores_on_the_scale_for_people_keep_the_raw_ones(tmp_path):
    table = ((0.3, 0.4), (0.5, 0.01))
    samples = (Sample(tmp_path / "a.png", 0, "good", None),)
    write_scores(tmp_path / "scores.csv", samples, [(0, 0, 0.4)], tmp_path, ScoreScale(0.4, 0.3, table))
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert lines == ["file,defect,label,score,raw_score,false_alarm_probability", "a.png,good,0,0.5,0.4,0.01"]


def test_scores_of_several_categories_name_them(tmp_path):
    samples = tuple(Sample(tmp_path / f"{name}.png", 0, "good", None, name) for name in ("lid", "rod"))
    write_scores(tmp_path / "scores.csv", samples, [(0, 0, 0.25), (1, 0, 0.5)], tmp_path)
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert lines == ["file,defect,label,score,category", "lid.png,good,0,0.25,lid", "rod.png,good,0,0.5,rod"]


def test_the_terminal_shows_each_category_and_their_mean(tmp_path, capsys):
    categories = {
        "lid": {"metrics": {"image_auroc": 0.5, "image_recall": 1.0}},
        "rod": {"metrics": {"image_auroc": 0.75, "image_recall": 0.5}},
    }
    test = {"metrics": {"image_auroc": 0.6}, "categories": categories, "category_mean": {"image_auroc": 0.625}}
    print_summary(HEAD | {"test": test, "calibration": CALIBRATED}, tmp_path)
    shown = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert ["lid", "-", "-", "50.00", "100.00", "-"] in shown
    assert ["mean of 2", "-", "-", "62.50", "-", "-"] in shown


def test_odd_images_are_told():
    assert odd_lines({}) == []
    odd = [{"file": f"{place}.png", "strangeness": 9.0} for place in range(7)]
    odd[1]["left_out"] = True
    lines = odd_lines({"suspicious": odd})
    assert lines[0] == "look at   0.png: given as good, but like none of the others"
    assert lines[1] == f"{lines[0].replace('0', '1')}; the threshold was set without it"
    assert lines[-1] == "          and 2 more, see result.json"
    assert len(lines) == 6


def test_names_are_printed_as_they_are(tmp_path, capsys):
    types = {"crack [deep]": {"images": 1}, "Stra\udcdfe": {"images": 2}}
    result = {"dataset": "folder", "category": "part[a]", "wall_time_s": {"total": 60.0}, "device": "a processor"}
    print_summary(result | {"test": {"metrics": {"image_auroc": 0.5}, "types": types}}, tmp_path)
    shown = capsys.readouterr().out
    for name in ("folder / part[a]", "crack [deep]", "Stra?e"):
        assert name in shown


CALIBRATED = {"image_threshold": 0.25, "image_false_alarm_rate": 1 / 33, "normal_images": 32}
HEAD = {"dataset": "folder", "category": "part", "wall_time_s": {"total": 60.0}, "device": "a processor"}


def test_the_terminal_says_threshold_and_expected_and_found_false_alarms(tmp_path, capsys):
    types = {
        "dent": {"images": 4, "images_found": 0.75, "aupro_30": 0.5},
        "bend": {"images": 6, "images_found": 1.0},
        "good": {"images": 40, "images_found": 0.05},
    }
    rows = [("a.png", "good", 0, 0.1), ("b.png", "good", 0, 0.3), ("c.png", "dent", 1, 0.9)]
    text = "file,defect,label,score\n" + "".join(f"{','.join(map(str, row))}\n" for row in rows)
    (tmp_path / "scores.csv").write_text(text)
    print_summary(
        HEAD | {"test": {"metrics": {"image_auroc": 0.5}, "types": types}, "calibration": CALIBRATED}, tmp_path
    )
    shown = capsys.readouterr().out
    for line in (
        "threshold of the score 0.25: false alarms expected on 3.03 % of good images, from 32 held-out ones",
        "false alarms on 2 of 40 good test images (5 %)",
        "found 9 of 10 anomalous test images (90 %)",
        "scores of 2 good test images: 0.1 to 0.3, median 0.2",
        "scores of 1 anomalous test images: 0.9 to 0.9, median 0.9",
    ):
        assert line in shown.splitlines(), shown
    (good,) = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "│ good" in line]
    assert good == ["good", "40", "-", "-", "-", "5.00"]
    (dent,) = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "│ dent" in line]
    assert dent == ["dent", "4", "75.00", "-", "50.00", "-"]


def test_of_good_images_alone_no_table_of_dashes_is_shown(tmp_path, capsys):
    test = {"metrics": {}, "maps": {"fused": {}}, "types": {"good": {"images": 2, "images_found": 0.0}}}
    print_summary(HEAD | {"test": test, "calibration": CALIBRATED}, tmp_path)
    shown = capsys.readouterr().out
    assert "no anomalous images: AUROC, AUPRO and how many defects are found are not measured" in shown
    assert "false alarms on 0 of 2 good test images (0 %)" in shown
    assert "│" not in shown
    print_summary(HEAD | {"test": test, "calibration": {}}, tmp_path)
    assert "no image threshold: no good images were held out" in capsys.readouterr().out
