"""What a run writes and prints, whatever its files are called."""

import csv
import os
from pathlib import Path

from dmdd.data.listing import Sample
from dmdd.experiment.outputs import print_summary, write_scores


def test_scores_keep_the_bytes_of_a_name_that_is_no_text(tmp_path):
    path = Path(os.fsdecode(bytes(tmp_path / "test/dent/Stra") + b"\xdfe.png"))
    write_scores(tmp_path / "scores.csv", (Sample(path, 1, "dent", None),), [(0, 1, 0.5)], tmp_path)
    with (tmp_path / "scores.csv").open("rb") as file:
        assert b"test/dent/Stra\xdfe.png,dent,1,0.5\n" in file.read()
    with (tmp_path / "scores.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        (row,) = csv.DictReader(file)
    assert os.fsencode(tmp_path / row["file"]) == os.fsencode(path)


def test_names_are_printed_as_they_are(tmp_path, capsys):
    types = {"crack [deep]": {"images": 1}, "Stra\udcdfe": {"images": 2}}
    result = {"dataset": "folder", "category": "part[a]", "wall_time_s": {"total": 60.0}, "device": "a processor"}
    print_summary(result | {"test": {"metrics": {"image_auroc": 0.5}, "types": types}}, tmp_path)
    shown = capsys.readouterr().out
    for name in ("folder / part[a]", "crack [deep]", "Stra?e"):
        assert name in shown
