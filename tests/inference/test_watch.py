"""Following a folder: what counts as complete, how soon it is scored, and what a kill costs."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from dmdd.inference.folder.inputs import Item, stat_item
from dmdd.inference.folder.watching import Watcher
from patience import PATIENCE_S
from processes import KILL_SEED, count_lines, start
from tiny import save_image, save_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("run") / "model")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def watcher(tmp_path, said) -> Watcher:
    (tmp_path / "in").mkdir()
    return Watcher(
        tmp_path / "in",
        recursive=True,
        skip=tmp_path / "in/out",
        is_done=lambda item: item.name == "done.png",
        poll_s=0.01,
        settle_s=0.2,
        say=said.append,
    )


def names(items: list[Item]) -> list[str]:
    return [item.name for item in items]


def test_a_file_is_given_when_two_looks_see_it_the_same(watcher, tmp_path):
    file = tmp_path / "in/a.png"
    file.write_bytes(b"begin")
    assert watcher.look() == []
    file.write_bytes(b"begin and more")
    assert watcher.look() == []
    assert names(watcher.look()) == ["a.png"]
    os.utime(file, ns=(1, 1))  # same size, written again
    assert watcher.look() == []
    assert names(watcher.look()) == ["a.png"]
    file.unlink()
    assert watcher.look() == []


def test_recorded_hidden_and_own_files_are_not_given_and_the_oldest_comes_first(watcher, tmp_path):
    for place, name in enumerate(("sub/z.png", "b.png", "done.png", ".a.png", "out/maps/m.png", "c.png.partial")):
        file = tmp_path / "in" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
        os.utime(file, ns=(place, place))
    watcher.look()
    assert names(watcher.look()) == ["sub/z.png", "b.png"]
    watcher.recursive = False
    assert names(watcher.look()) == ["b.png"]


def test_a_file_that_does_not_decode_is_bad_only_after_it_has_settled(watcher, tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    file = tmp_path / "in/a.png"
    file.write_bytes(b"half")
    watcher.look()
    item = watcher.look()[0]
    assert not watcher.is_final(item)
    now[0] += 0.2
    file.write_bytes(b"half and half")
    assert not watcher.is_final(item)  # it grew: look again
    watcher.look()
    item = watcher.look()[0]
    now[0] += 0.15
    assert not watcher.is_final(item)
    now[0] += 0.15
    assert watcher.is_final(item)
    file.unlink()
    assert not watcher.is_final(item)
    assert stat_item(file, base=tmp_path / "in").version == (None, None)


def test_a_folder_that_goes_away_is_told_once_and_waited_for(watcher, tmp_path, said):
    folder = tmp_path / "in"
    (folder / "a.png").write_bytes(b"x")
    watcher.look()
    folder.rename(tmp_path / "away")
    assert watcher.look() == watcher.look() == []
    assert said == [f"{folder} cannot be listed (No such file or directory); trying again until it can"]
    (tmp_path / "away").rename(folder)
    assert names(watcher.look()) == ["a.png"]
    assert said[1:] == [f"{folder} can be listed again"]


def test_looks_are_apart_by_the_poll_time_and_end_when_told(watcher):
    watcher.poll_s, rounds = 0.05, []

    def stopped() -> bool:
        rounds.append(time.monotonic())
        return len(rounds) > 4

    assert list(watcher.items(stopped)) == [None] * 4
    assert min(np.diff(rounds)) >= 0.05


class Following:
    """A watch in a process of its own."""

    def __init__(self, model: Path, root: Path, *more: str) -> None:
        self.folder, self.out, self.log = root / "in", root / "out", root / "log"
        self.folder.mkdir(exist_ok=True)
        places = [f"model={model}", f"input={self.folder}", f"output={self.out}"]
        self.process = start([*places, "watch=true", "device=cpu", "poll_s=0.1", *more], self.log)

    def lines(self) -> list[dict]:
        file = self.out / "scores.jsonl"
        content = file.read_text() if file.exists() else ""
        return [json.loads(line) for line in content[: content.rfind("\n") + 1].splitlines()]

    def wait(self, count: int, seconds: float = PATIENCE_S) -> None:
        end = time.monotonic() + seconds
        while count_lines(self.out / "scores.jsonl") < count and self.process.is_alive() and time.monotonic() < end:
            time.sleep(0.005)
        assert count_lines(self.out / "scores.jsonl") >= count, self.log.read_text()

    def ready(self) -> None:
        while self.process.is_alive() and "following" not in (self.log.read_text() if self.log.exists() else ""):
            time.sleep(0.01)

    def end(self, number: int) -> None:
        os.kill(self.process.pid or 0, number)
        self.process.join(timeout=PATIENCE_S)
        assert self.process.exitcode == 0, self.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_new_images_are_scored_as_they_come_and_a_signal_ends_it_cleanly(model, tmp_path, number):
    save_image(tmp_path / "in/0.png")
    following = Following(model, tmp_path, "masks=true")
    following.wait(1)
    for place in range(1, 4):
        save_image(tmp_path / "elsewhere.png", seed=place).rename(following.folder / f"{place}.png")
        following.wait(place + 1)
    (following.folder / "bad.png").write_text("no image")
    following.end(number)
    assert [line["file"] for line in following.lines()] == ["0.png", "1.png", "2.png", "3.png"]
    assert len(list((following.out / "masks").iterdir())) == 4
    assert "4 images: " in following.log.read_text().splitlines()[-1]


def test_a_slowly_written_file_is_never_read_half_and_a_broken_one_becomes_bad(model, tmp_path):
    content = save_image(tmp_path / "whole.png", height=200, width=300).read_bytes()
    following = Following(model, tmp_path, "settle_s=5")  # far longer than a pause, also on a busy machine
    following.ready()
    (following.folder / "broken.png").write_bytes(content[:1000])
    quarter = len(content) // 4 + 1
    with (following.folder / "slow.png").open("wb", buffering=0) as file:
        for place in range(4):
            file.write(content[place * quarter : (place + 1) * quarter])
            time.sleep(0.2)  # two looks long
    following.wait(2)
    following.end(signal.SIGTERM)
    found = {line["file"]: line for line in following.lines()}
    assert set(found) == {"slow.png", "broken.png"}
    assert len(following.lines()) == 2
    assert found["slow.png"]["error"] is None
    assert (found["slow.png"]["width"], found["slow.png"]["bytes"]) == (300, len(content))
    assert "truncated" in found["broken.png"]["error"]


def test_kills_while_images_arrive_lose_and_repeat_nothing(model, tmp_path):
    random, made = np.random.default_rng(KILL_SEED), 0
    for kill in range(5):
        following = Following(model, tmp_path, "batch_size=2", "maps=png16")
        for _ in range(8):
            save_image(tmp_path / "elsewhere.png", seed=made).rename(following.folder / f"{made}.png")
            made += 1
        if kill < 4:
            following.wait(min(made - 8 + int(random.integers(0, 7)), made - 1))
            time.sleep(float(random.uniform(0, 0.05)))
            following.process.kill()
            following.process.join()
    following.wait(made)
    following.end(signal.SIGTERM)
    found = [line["file"] for line in following.lines()]
    assert sorted(found) == sorted(f"{place}.png" for place in range(made))
    assert (following.out / "scores.csv").read_bytes().count(b"\n") == made + 1
    assert len(list((following.out / "maps").iterdir())) == made
