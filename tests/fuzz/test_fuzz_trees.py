"""Folder trees and archives in bulk: a whole category, or one line that says what is wrong."""

import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import fuzz_kit
import numpy as np
import pytest
from fuzz_kit import count, one_line, rounds
from PIL import Image

from dmdd.core.errors import UserError
from dmdd.data.__main__ import main
from dmdd.data.check import LAYOUTS
from dmdd.data.download.archives import extract_archive

ODD_NAMES = (
    *("ü.png", "e\u0301.png", " .png", "a b.png", "'quoted'.png", "-rf.png", "$(id).png", "%s.png", "{x}.png"),
    *("[1].png", "new\nline.png", "tab\t.png", "x" * 200 + ".png", ".png", "..png", "noending", "two.tar.png"),
    *("a.PNG", "\u202e.png", "000", "000_mask.png", "000.jpg", "good", "NUL.png", os.fsdecode(b"\xff\xfe.png")),
)


def save(file: Path, seed: int = 0) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 10, 3), np.uint8)).save(file)


def save_mask(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((12, 10), np.uint8)
    mask[3:6, 2:7] = 255
    Image.fromarray(mask).save(file)


# Layouts that make_tree draws; tests/data/trees.py draws the others.
NOT_MADE = {"mvtec_ad_2", "mvtec_3d", "real_iad", "kolektor_sdd", "kolektor_sdd2", "dagm", "bsdata", "aitex"}
MADE = [name for name in LAYOUTS if name not in NOT_MADE]


def make_tree(layout: str, root: Path) -> None:
    """A good category `part` in any layout, as small as it may be."""
    if layout == "visa":
        rows = ["object,split,label,image,mask"]
        for split, label, number in (("train", "normal", 0), ("train", "normal", 1), ("test", "normal", 2)):
            save(root / f"part/Data/Images/Normal/{number}.png", number)
            rows.append(f"part,{split},{label},part/Data/Images/Normal/{number}.png,")
        save(root / "part/Data/Images/Anomaly/0.png", 9)
        save_mask(root / "part/Data/Masks/Anomaly/0.png")
        rows.append("part,test,anomaly,part/Data/Images/Anomaly/0.png,part/Data/Masks/Anomaly/0.png")
        (root / "split_csv").mkdir()
        (root / "split_csv/1cls.csv").write_text("\n".join(rows) + "\n")
        return
    folder, normal = root / "part", "ok" if layout == "btad" else "good"
    if layout == "folder":
        for number in range(4):
            save(folder / f"good/{number:03d}.png", number)
        save(folder / "bad/dent/000.png", 8)
        save_mask(folder / "masks/dent/000_mask.png")
        return
    for number in range(2):
        save(folder / f"train/{normal}/{number:03d}.png", number)
        save(folder / f"test/{normal}/{number:03d}.png", 4 + number)
    save(folder / "test/dent/000.png", 8)
    save_mask(folder / "ground_truth/dent" / ("000/000.png" if layout == "mvtec_loco" else "000_mask.png"))


def everything(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*"))


def spoil(root: Path, generator: np.random.Generator) -> None:
    """One thing that happens to folders: something missing, empty, double, of another kind, linked, or oddly named."""
    there = everything(root)
    if not there:
        return
    path = there[generator.integers(0, len(there))]
    name = ODD_NAMES[generator.integers(0, len(ODD_NAMES))]
    folder = path if path.is_dir() and not path.is_symlink() else path.parent
    match generator.integers(0, 12):
        case 0:
            remove(path)
        case 1:  # a file where a folder should be, or the other way round
            was_folder = path.is_dir()
            remove(path)
            path.touch() if was_folder else path.mkdir()
        case 2:
            for inner in [p for p in everything(folder) if p.is_file()]:
                inner.unlink()
        case 3:
            if not (folder / name).exists():
                save_any(folder / name)
        case 4:
            if not (folder / name).exists():
                path.rename(folder / name) if path not in (folder / name).parents else None
        case 5:
            if not (folder / "link").is_symlink():
                target = there[generator.integers(0, len(there))]
                (folder / "link").symlink_to(target, target_is_directory=target.is_dir())
        case 6:
            if not (folder / "loop.png").is_symlink():
                (folder / "loop.png").symlink_to(folder / "loop.png")
        case 7:
            if not (folder / "gone.png").is_symlink():
                (folder / "gone.png").symlink_to(root / "nowhere.png")
        case 8:
            if path.is_file():
                path.write_bytes(fuzz_kit.damaged(path.read_bytes(), generator))
        case 9:
            if not (folder / "pipe.png").exists():
                os.mkfifo(folder / "pipe.png")
        case 10:
            if not (folder / name).exists():
                (folder / name).mkdir()
        case 11:
            if path.is_file() and not (folder / f"{path.stem}.jpg").exists():
                (folder / f"{path.stem}.jpg").write_bytes(path.read_bytes())


def save_any(file: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (10, 12)).save(buffer, "PNG")
    file.write_bytes(buffer.getvalue())


def remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    for inner in path.iterdir():
        remove(inner)
    path.rmdir()


def read(layout: str, root: Path) -> str:
    """Read strictly and with a list of problems; both must agree."""
    reader = LAYOUTS[layout].read
    problems: list[str] = []
    try:
        lenient = reader(root=root, category="part", problems=problems)
    except UserError as error:
        one_line(error)
        with pytest.raises(UserError):
            reader(root=root, category="part")
        return "refused"
    if problems:
        with pytest.raises(UserError) as refusal:
            reader(root=root, category="part")
        assert str(refusal.value) == problems[0]
        assert all(problems)
        return "refused"
    strict = reader(root=root, category="part")
    assert strict == lenient
    train, test = {s.path for s in strict.train}, {s.path for s in strict.test}
    assert train
    assert test
    assert not train & test
    assert all(sample.path.is_file() for sample in (*strict.train, *strict.test))
    assert all(sample.label == 0 for sample in strict.train)
    for sample in strict.test:
        assert (sample.label == 0) == (sample.defect == "good")
        if sample.mask_path is not None:  # paired by name
            assert sample.mask_path.stem.removesuffix("_mask") == sample.path.stem or sample.mask_path.is_dir()
    return "read"


@pytest.mark.parametrize("layout", MADE)
def test_spoilt_trees_are_read_whole_or_refused(tmp_path, generator, layout, capsys):
    for number in range(rounds(10, 200)):
        data = tmp_path / str(number)
        root = data / LAYOUTS[layout].folder
        root.mkdir(parents=True)
        make_tree(layout, root)
        if number == 0:
            assert read(layout, root) == "read"
        for _ in range(int(generator.integers(1, 4))):
            spoil(root, generator)
        count(f"trees, {layout}", read(layout, root))
        code = main(["check", f"data_dir={data}", f"dataset={layout}"])
        output = capsys.readouterr()
        assert code in (0, 1, 2)
        assert output.err.count("\n") == (code == 2)
        assert code != 2 or output.err.startswith("error: ")
        count("trees, data check", ("no problems", "problems named", "refused")[code])


def test_a_folder_that_may_not_be_listed_is_named(tmp_path, monkeypatch, capsys):
    make_tree("mvtec_ad", tmp_path / "mvtec_ad")
    closed = tmp_path / "mvtec_ad/part/test"
    listed = Path.iterdir

    def iterdir(folder: Path) -> object:  # not by chmod, which does not hold for root
        if folder == closed:
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert main(["check", f"data_dir={tmp_path}", "dataset=mvtec_ad"]) == 1
    output = capsys.readouterr()
    assert f"  problem: cannot list the folder {closed}: Permission denied\n" in output.out
    assert output.err == ""
    count("trees, data check", "problems named")


def tar(root: Path, mode: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        archive.add(root, ".")
    return file.getvalue()


def zipped(root: Path) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in everything(root):
            archive.write(path, path.relative_to(root))
    return file.getvalue()


MAKERS: dict[str, Callable[[Path], bytes]] = {
    "tar": lambda root: tar(root, "w"),
    "tar.gz": lambda root: tar(root, "w:gz"),
    "tar.xz": lambda root: tar(root, "w:xz"),
    "tar.bz2": lambda root: tar(root, "w:bz2"),
    "zip": zipped,
}


@pytest.mark.parametrize("kind", MAKERS)
def test_damaged_archives_unpack_inside_their_folder_or_are_refused(tmp_path, generator, kind):
    make_tree("mpdd", tmp_path / "source")
    whole = MAKERS[kind](tmp_path / "source")
    archive = tmp_path / "archive"
    for number in range(rounds(12, 500)):
        archive.write_bytes(fuzz_kit.damaged(whole, generator))
        target = tmp_path / "place" / "target"
        target.mkdir(parents=True)
        try:
            extract_archive(archive, target, max_bytes=1_000_000)
            found = "unpacked"
        except UserError as error:
            one_line(error)
            found = "refused"
        assert [path.name for path in (tmp_path / "place").iterdir()] == ["target"], number
        assert not any(path.is_symlink() for path in everything(target))
        remove(tmp_path / "place")
        count("archives, damaged", found)
