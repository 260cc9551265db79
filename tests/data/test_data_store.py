"""The store of training images: the same pixels from memory and from disk, made once, made anew when a file changes."""

import errno
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dmdd.core.errors import UserError
from dmdd.core.resize import resize_images
from dmdd.data import store
from dmdd.data.images import read_image
from dmdd.data.store import ImagesInMemory, ImagesOnDisk, open_images
from dmdd.pairs import estimate_foreground
from patience import PATIENCE_S

SIZE = (64, 96)


@pytest.fixture
def paths(demo_category) -> list[Path]:
    return [sample.path for sample in demo_category.train[:6]]


def on_disk(paths, folder, **changes) -> ImagesOnDisk:
    opened = open_images(paths, SIZE, memory_gb=0, cache_dir=folder, **changes)
    assert isinstance(opened, ImagesOnDisk)
    return opened


def copies(paths, folder) -> list[Path]:
    folder.mkdir()
    return [Path(folder / path.name) for path in paths if (folder / path.name).write_bytes(path.read_bytes())]


def test_images_and_parts_are_those_of_the_files(paths):
    opened = open_images(paths, SIZE)
    assert isinstance(opened, ImagesInMemory)
    images, parts = opened.read(torch.tensor([4, 1]))
    assert images.is_contiguous(memory_format=torch.channels_last)
    for image, part, path in zip(images, parts, (paths[4], paths[1]), strict=True):
        whole = torch.from_numpy(read_image(path).copy()).permute(2, 0, 1)[None]
        assert torch.equal(image, resize_images(whole, SIZE)[0])
        assert np.array_equal(part[0].numpy(), estimate_foreground(image.permute(1, 2, 0).contiguous().numpy()))
    assert opened.shares[4] == pytest.approx(parts[0].float().mean())


def test_disk_and_memory_give_the_same(paths, tmp_path):
    memory, disk = open_images(paths, SIZE), on_disk(paths, tmp_path)
    index = torch.tensor([5, 0, 5])
    for one, other in zip(memory.read(index), disk.read(index), strict=True):
        assert torch.equal(one, other)
    assert disk.pixels(index).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(memory[1:3], disk[1:3])
    assert torch.equal(memory.shares, disk.shares)
    again = pickle.loads(pickle.dumps(disk))  # as a loader's worker gets it where processes are spawned
    assert torch.equal(again[:], memory[:])


def test_without_parts_all_of_an_image_counts(paths, tmp_path):
    assert on_disk(paths, tmp_path, find_parts=False).read(torch.tensor([0]))[1].all()


def test_a_file_is_made_once_and_the_choice_is_told(paths, tmp_path, monkeypatch, capsys):
    on_disk(paths, tmp_path)
    made = next(tmp_path.glob("*.images"))
    told = "6 images of 64 x 96 px need more than data.memory_gb"
    assert capsys.readouterr().err == f"{told}: decoding them once into {made} (0.0 GB)\n"
    monkeypatch.setattr(store, "read_image", None)
    on_disk(paths, tmp_path)
    assert capsys.readouterr().err == f"{told}: reading them from {made} (0.0 GB)\n"
    monkeypatch.setenv("LOCAL_RANK", "1")
    on_disk(paths, tmp_path)
    assert capsys.readouterr().err == ""


def test_processes_that_come_together_decode_once(paths, tmp_path, monkeypatch):
    decoded = []
    monkeypatch.setattr(store, "read_image", lambda path: decoded.append(path) or read_image(path))
    both = [threading.Thread(target=on_disk, args=(paths, tmp_path)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert sorted(decoded) == sorted(paths)


def test_a_changed_file_makes_the_images_anew_and_the_old_ones_go(paths, tmp_path):
    own = copies(paths, tmp_path / "images")
    first = on_disk(own, tmp_path / "cache")
    before = first[2:3]
    Image.new("RGB", (40, 30), (9, 8, 7)).save(own[2])
    second = on_disk(own, tmp_path / "cache")
    assert torch.equal(second[2:3].unique(), torch.tensor([7, 8, 9], dtype=torch.uint8))
    assert torch.equal(first[2:3], before)  # who reads the old ones goes on
    assert torch.equal(second[:2], first[:2])
    assert [file.name for file in (tmp_path / "cache").glob("*.images")] == [second.file.name]
    os.utime(own[0], ns=(1, 1))
    assert on_disk(own, tmp_path / "cache").file != second.file


def test_a_damaged_record_is_told(paths, tmp_path):
    disk = on_disk(paths, tmp_path)
    content = bytearray(disk.file.read_bytes())
    content[store.record_bytes(SIZE) + 100] ^= 1
    disk.file.write_bytes(content)
    opened = on_disk(paths, tmp_path)
    opened.pixels(torch.tensor([0]))
    with pytest.raises(
        UserError, match=r"image 1 in .*\.images is damaged: delete that file, and the next run makes it"
    ):
        opened.pixels(torch.tensor([0, 1]))
    os.truncate(disk.file, len(content) - 1)
    with pytest.raises(UserError, match=r"image 5 in .*\.images is damaged"):
        opened.pixels(torch.tensor([5]))


def test_a_file_that_lost_its_end_is_made_anew(paths, tmp_path):
    disk = on_disk(paths, tmp_path)
    os.truncate(disk.file, 1000)
    assert torch.equal(on_disk(paths, tmp_path)[:], open_images(paths, SIZE)[:])


def test_another_version_of_what_decodes_makes_the_images_anew(paths, tmp_path, monkeypatch):
    first = on_disk(paths, tmp_path)
    monkeypatch.setattr(store, "VERSIONS", ("another",))
    assert on_disk(paths, tmp_path).file != first.file


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive"])
def test_an_index_that_is_not_whole_makes_the_images_anew(paths, tmp_path, content):
    index = on_disk(paths, tmp_path).file.with_suffix(".npz")
    index.write_bytes(content)
    assert len(on_disk(paths, tmp_path)[:]) == 6


def test_what_cannot_be_decoded_is_told_and_leaves_nothing(paths, tmp_path):
    own = copies(paths, tmp_path / "images")
    own[1].write_bytes(b"not a picture")
    for settings in ({}, {"memory_gb": 0, "cache_dir": tmp_path / "cache"}):
        with pytest.raises(UserError, match=rf"cannot read image .*{own[1].name}"):
            open_images(own, SIZE, **settings)
    own[1].unlink()
    with pytest.raises(UserError, match=rf"no such image file: .*{own[1].name}"):
        on_disk(own, tmp_path / "cache")
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".lock"]


def test_memory_does_not_grow_with_the_number_of_images(paths, tmp_path, monkeypatch):
    def resident_mb() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    if not Path("/proc/self/statm").is_file():
        pytest.skip("no /proc on this system")
    image, part = np.full((*SIZE, 3), 7, np.uint8), np.ones(SIZE, bool)
    monkeypatch.setattr(store, "read_image", lambda path: image)
    monkeypatch.setattr(store, "resize_images", lambda batch, size: batch)
    monkeypatch.setattr(store, "estimate_foreground", lambda image: part)
    on_disk(paths, tmp_path)[:]  # what is imported and allocated once
    many = [path for _ in range(400) for path in paths]
    before = resident_mb()
    disk = on_disk(many, tmp_path / "many")
    for first in range(0, len(disk), 100):
        assert int(disk.pixels(torch.arange(first, first + 100)).max()) == 7
    assert disk.file.stat().st_size > 44e6
    assert resident_mb() - before < 15


def test_a_disk_that_is_full(paths, tmp_path, monkeypatch):
    monkeypatch.setattr(store.shutil, "disk_usage", lambda folder: FreeSpace)
    told = (
        r"images cannot be kept in .* \(0.0 GB free\): set data.cache_dir= to a folder with 0.0 GB free, or data.memory"
    )
    with pytest.raises(UserError, match=told):
        on_disk(paths, tmp_path)


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left on device"), 5])
def test_a_disk_that_fills_up_leaves_nothing(paths, tmp_path, monkeypatch, fault):
    def write(*arguments) -> int:
        if isinstance(fault, OSError):
            raise fault
        return fault  # bytes written of more

    with monkeypatch.context() as patched:
        patched.setattr(store.os, "pwrite", write)
        told = r"images cannot be kept in .* \((No space left on device|the disk is full)\): set data.cache_dir="
        with pytest.raises(UserError, match=told):
            on_disk(paths, tmp_path)
    assert [file.suffix for file in tmp_path.iterdir()] == [".lock"]
    assert len(on_disk(paths, tmp_path)) == 6


MAKER = """
import sys, time, filelock
with filelock.FileLock(sys.argv[1]):
    open(sys.argv[2], "w").write("half a file")
    print("locked", flush=True)
    time.sleep(600)
"""


def test_the_maker_is_killed_while_another_waits(paths, tmp_path, capsys):
    lock = on_disk(paths, tmp_path / "other").file.name.partition("-")[0] + ".lock"
    partial = tmp_path / lock.replace(".lock", "-0123456789abcdef.images.partial")
    maker = subprocess.Popen([sys.executable, "-c", MAKER, tmp_path / lock, partial], stdout=subprocess.PIPE, text=True)
    try:
        assert maker.stdout.readline() == "locked\n"
        waiting = threading.Thread(target=on_disk, args=(paths, tmp_path))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
    finally:
        maker.kill()
        maker.communicate()
    waiting.join(PATIENCE_S)
    assert "waiting for another process that decodes these images" in capsys.readouterr().err
    assert torch.equal(on_disk(paths, tmp_path)[:], open_images(paths, SIZE)[:])
    assert not partial.exists()


class FreeSpace:
    free = 1000


def test_a_folder_that_is_none(paths, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"images cannot be kept in .*file.*: set data.cache_dir= to a folder"):
        on_disk(paths, tmp_path / "file")
