"""What prediction remembers of a million files: the latest outcome of each, in little memory."""

import pytest

from dmdd.inference.folder import known
from dmdd.inference.folder.inputs import Listing
from dmdd.inference.folder.known import KnownFiles

OUTCOMES = ("normal", "bad")


@pytest.mark.parametrize("merged_at", [1, 3, 100])
def test_the_latest_line_of_a_file_counts(monkeypatch, merged_at):
    monkeypatch.setattr(known, "MERGED_AT", merged_at)
    files = KnownFiles(OUTCOMES)
    for name, version, outcome, score in [
        ("a.png", (1, 5), "normal", 0.1),
        ("b.png", (1, 5), "bad", None),
        ("a.png", (2, 5), "bad", None),
        ("umlaut-\udce4.png", (None, None), "normal", None),
        ("b.png", (1, 6), "normal", 0.25),
    ]:
        files.note(name, version, outcome, score)
    assert files.outcome("a.png", (2, 5)) == "bad"
    assert files.outcome("a.png", (1, 5)) is None
    assert files.outcome("b.png", (1, 6)) == "normal"
    assert files.outcome("umlaut-\udce4.png", (None, None)) == "normal"
    assert files.outcome("c.png", (1, 5)) is None
    assert files.counts() == {"normal": 2, "bad": 1}
    assert files.scores("normal").tolist() == [0.25]
    assert files.outcome("a.png", (2, 5)) == "bad"


def test_many_files_take_little_memory():
    files = KnownFiles(OUTCOMES)
    for number in range(3 * known.MERGED_AT // 2):
        files.note(f"{number}.png", (number, 7), "normal")
    assert files.outcome("65535.png", (65535, 7)) == files.outcome("65536.png", (65536, 7)) == "normal"
    assert files.counts()["normal"] == 3 * known.MERGED_AT // 2
    kept = (files._names, files._versions, files._found, files._scores)
    assert sum(part.nbytes for part in kept) == 25 * 3 * known.MERGED_AT // 2
    assert not files._latest


def test_a_listing_gives_each_image_once_and_anew_at_each_pass(tmp_path):
    for name in ("b/2.png", "b/10.png", "a.png", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    entries = [str(tmp_path), str(tmp_path / "b" / "*.png")]
    listing = Listing(entries, base=tmp_path, recursive=True, skip=tmp_path / "out")
    assert [item.name for item in listing] == ["a.png", "b/10.png", "b/2.png"]
    (tmp_path / "a.png").unlink()
    assert [item.name for item in listing] == ["b/10.png", "b/2.png"]
