"""What a run writes and prints, whatever its files are called."""

import csv
import os
from pathlib import Path

from dmdd.data.listing import Sample
from dmdd.experiment.outputs import decision_lines, print_summary, write_scores
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


def test_the_promise_and_odd_images_are_told():
    assert decision_lines({"calibration": {}}) == []
    odd = [{"file": f"{place}.png", "strangeness": 9.0} for place in range(7)]
    lines = decision_lines({"calibration": {"promise": "3 good images: ..."}, "suspicious": odd})
    assert lines[0] == "threshold 3 good images: ..."
    assert lines[1] == "look at   0.png: given as good, but like none of the others"
    assert lines[-1] == "          and 2 more, see result.json"
    assert len(lines) == 7


def test_names_are_printed_as_they_are(tmp_path, capsys):
    types = {"crack [deep]": {"images": 1}, "Stra\udcdfe": {"images": 2}}
    result = {"dataset": "folder", "category": "part[a]", "wall_time_s": {"total": 60.0}, "device": "a processor"}
    print_summary(result | {"test": {"metrics": {"image_auroc": 0.5}, "types": types}}, tmp_path)
    shown = capsys.readouterr().out
    for name in ("folder / part[a]", "crack [deep]", "Stra?e"):
        assert name in shown
