"""The predict command as a user runs it: its files, its settings, and what it does after a kill."""

import csv
import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import dmdd
from dmdd.core.errors import UserError
from dmdd.inference.folder.ledger import COLUMNS, Ledger, Record
from dmdd.predict import main
from patience import PATIENCE_S
from processes import KILL_SEED, count_lines, start
from tiny import draw_pixels, save_image, save_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("run") / "model")


@pytest.fixture
def parts(tmp_path) -> Path:
    """Two folders with equal file names."""
    for place, name in enumerate(("one/0.png", "one/1.png", "two/0.png", "top.png")):
        save_image(tmp_path / "parts" / name, seed=place)
    return tmp_path / "parts"


def predict(model: Path, source: object, output: Path, *more: str) -> int:
    return main([f"model={model}", f"input={source}", f"output={output}", "device=cpu", *more])


def lines(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "scores.jsonl").read_text().splitlines()]


def rows(output: Path) -> list[dict]:
    with (output / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_both_files_hold_every_image_and_agree_with_the_api(model, parts, tmp_path, capsys):
    out = tmp_path / "out"
    assert predict(model, parts, out, "batch_size=3") == 0
    assert sorted(file.name for file in out.iterdir()) == [".lock", "predict.json", "scores.csv", "scores.jsonl"]
    found = lines(out)
    names = ["top.png", "one/0.png", "one/1.png", "two/0.png"]
    assert [line["file"] for line in found] == names
    assert all(tuple(line) == COLUMNS for line in found)
    predictor = dmdd.load(model, device="cpu")
    expected = [detection.score for detection in predictor([parts / name for name in names], batch_size=3)]
    assert [line["score"] for line in found] == expected
    assert all(line["label"] == ("anomalous" if line["score"] >= 0.5 else "normal") for line in found)
    assert all((line["width"], line["height"], line["image_threshold"]) == (40, 60, 0.5) for line in found)
    assert [line["bytes"] for line in found] == [(parts / name).stat().st_size for name in names]
    for row, line in zip(rows(out), found, strict=True):
        assert list(row) == list(COLUMNS)
        assert row["score"] == f"{line['score']:.9g}"
        assert all(row[key] == ("" if line[key] is None else str(line[key])) for key in ("file", "label", "mtime_ns"))
    printed = capsys.readouterr()
    normal = sum(line["label"] == "normal" for line in found)
    assert printed.out.splitlines()[-1] == f"4 images: {normal} normal, {4 - normal} anomalous, 0 bad"
    assert re.search(r"predict 4/4  [\d.]+ images/s  left 0:00", printed.err)


def test_pictures_mirror_the_input_and_hold_what_the_api_gives(model, parts, tmp_path):
    out = tmp_path / "out"
    assert predict(model, parts, out, "maps=png16", "masks=true", "overlays=true", "pixel_threshold=0.2") == 0
    files = sorted(file.relative_to(out).as_posix() for file in out.rglob("*/*") if file.is_file())
    names = ["one/0.png", "one/1.png", "top.png", "two/0.png"]
    assert files == [
        f"{kind}/{name}.{end}" for kind, end in zip(KINDS, ("png", "png", "jpg"), strict=True) for name in names
    ]
    detection = dmdd.load(model, device="cpu", pixel_threshold=0.2)(parts / "two/0.png")
    written = cv2.imread(str(out / "maps/two/0.png.png"), cv2.IMREAD_UNCHANGED)
    assert written.dtype == np.uint16
    assert np.abs(written / 65535 - detection.map).max() < 1e-5
    mask = cv2.imread(str(out / "masks/two/0.png.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(mask, detection.mask * np.uint8(255))
    with Image.open(out / "overlays/two/0.png.jpg") as overlay:
        assert overlay.size == (40, 60)


KINDS = ("maps", "masks", "overlays")


def test_npy_maps_are_the_apis_to_the_bit(model, parts, tmp_path):
    assert predict(model, parts / "top.png", tmp_path / "out", "maps=npy") == 0
    written = np.load(tmp_path / "out/maps/top.png.npy")
    assert np.array_equal(written, dmdd.load(model, device="cpu")(parts / "top.png").map)


def test_every_kind_and_size_of_image(model, tmp_path):
    pixels = draw_pixels(0, 300, 500)
    images = {
        "300x500.png": Image.fromarray(pixels),
        "4000x3000.jpg": Image.fromarray(draw_pixels(1, 30, 40)).resize((4000, 3000)),
        "grey.png": Image.fromarray(pixels[..., 0]),
        "rgba.png": Image.fromarray(np.dstack([pixels, pixels[..., :1]])),
        "deep.png": Image.fromarray(pixels[..., 0].astype(np.uint16) * 257),
        "dot.png": Image.fromarray(pixels[:1, :1]),
        "Ä (1) [2], c.png": Image.fromarray(pixels),
    }
    for name, image in images.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        image.save(tmp_path / "in" / name)
    assert predict(model, tmp_path / "in", tmp_path / "out", "maps=png16", "overlays=true", "batch_size=2") == 0
    by_name = {line["file"]: line for line in lines(tmp_path / "out")}
    assert set(by_name) == set(images)
    for name, image in images.items():
        assert (by_name[name]["width"], by_name[name]["height"]) == image.size
        with Image.open(tmp_path / "out/overlays" / f"{name}.jpg") as overlay:
            assert overlay.size == image.size
    scores = {name: line["score"] for name, line in by_name.items()}
    assert scores["rgba.png"] == pytest.approx(scores["300x500.png"], abs=1e-6)
    assert scores["deep.png"] == pytest.approx(scores["grey.png"], abs=1e-6)


def test_an_overlay_longer_than_a_jpeg_can_be_is_made_smaller():
    from dmdd.inference.folder.pictures import draw_overlay

    rgb, heat = np.zeros((2, 130_000, 3), np.uint8), np.zeros((2, 130_000), np.float32)
    assert draw_overlay(rgb, heat, heat > 1, middle=0.5).shape == (1, 65_000, 3)


def test_overlay_colours_and_outline():
    from dmdd.inference.folder.pictures import draw_overlay

    heat = np.zeros((20, 20), np.float32)
    heat[5:15, 5:15] = 1
    overlay = draw_overlay(np.full((20, 20, 3), 100, np.uint8), heat, heat > 0.5, middle=0.5)
    assert overlay[5, 10].tolist() == [255, 255, 255]
    assert overlay[0, 0].tolist() == [60, 60, 62]  # 0.6 of the grey, 0.4 of the palest colour of the scale
    assert overlay[10, 10].sum() > overlay[0, 0].sum()


def test_large_images_that_are_kept_for_overlays_end_a_batch_early(model, parts, tmp_path, monkeypatch):
    sizes, whole = [], dmdd.Predictor.predict

    def watched(self, prepared, inside=None):
        sizes.append(len(prepared))
        return whole(self, prepared, inside)

    monkeypatch.setattr(dmdd.Predictor, "predict", watched)
    monkeypatch.setattr("dmdd.inference.folder.pipeline.BATCH_BYTES", 2 * 40 * 60 * 3 - 1)
    assert predict(model, parts, tmp_path / "a", "overlays=true") == 0
    assert predict(model, parts, tmp_path / "b") == 0
    assert sizes == [2, 2, 4]


def test_bad_images_are_recorded_and_skipped(model, parts, tmp_path, capsys):
    whole = (parts / "top.png").read_bytes()
    (parts / "torn.png").write_bytes(whole[: len(whole) // 2])
    (parts / "text.jpg").write_text("hello")
    (parts / "notes.txt").write_text("no image, passed over")
    assert predict(model, parts, tmp_path / "out", "maps=npy") == 3
    bad = {line["file"]: line for line in lines(tmp_path / "out") if line["error"]}
    assert set(bad) == {"torn.png", "text.jpg"}
    assert re.search("damaged or truncated", bad["torn.png"]["error"])
    assert [bad["torn.png"][key] for key in ("score", "label", "width", "height")] == [None] * 4
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1].endswith("2 bad")
    assert printed.err.count("bad image: ") == 2
    # The same command again repeats nothing, and still says so.
    assert predict(model, parts, tmp_path / "out", "maps=npy") == 3
    assert len(lines(tmp_path / "out")) == 6


def test_the_same_command_again_scores_only_what_is_new_or_changed(model, parts, tmp_path, capsys):
    out = tmp_path / "out"
    assert predict(model, parts, out) == 0
    before = (out / "scores.jsonl").read_bytes()
    assert predict(model, parts, out) == 0
    assert (out / "scores.jsonl").read_bytes() == before
    assert "4 found, 4 of them scored before" in capsys.readouterr().err
    save_image(parts / "new.png", seed=7)
    save_image(parts / "top.png", seed=8, height=50)
    assert predict(model, parts, out) == 0
    assert (out / "scores.jsonl").read_bytes().startswith(before)
    assert [line["file"] for line in lines(out)[4:]] == ["new.png", "top.png"]
    assert [row["file"] for row in rows(out)] == [line["file"] for line in lines(out)]
    assert capsys.readouterr().out.splitlines()[-1].startswith("5 images: ")


def test_another_model_or_setting_is_refused_unless_overwrite(model, parts, tmp_path, capsys):
    out = tmp_path / "out"
    assert predict(model, parts, out, "maps=png16") == 0
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    other = save_tiny_model(tmp_path / "other", seed=1)
    for settings, message in [
        ([], r"was written with maps=png16 \(now none\); give another folder, or overwrite=true"),
        (["maps=png16", "image_threshold=0.25"], r"image_threshold=0.5 \(now 0.25\)"),
        (["maps=png16", "pixel_threshold=0.25"], r"pixel_threshold=0.5 \(now 0.25\)"),
        (["maps=png16", "precision=bfloat16"], r"precision=float32 \(now bfloat16\)"),
        (["maps=png16", "tile=true"], r"tile=false \(now true\)"),
        (["maps=png16", f"input={parts / 'one'}"], r"input=.*parts \(now .*one\)"),
        (["maps=png16", f"model={other}"], r"was written with another model \(.*model\)"),
    ]:
        assert predict(model, parts, out, *settings) == 2
        assert re.search(message, capsys.readouterr().err)
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before
    assert predict(other, parts / "one", out, "overwrite=true") == 0
    assert [line["file"] for line in lines(out)] == ["0.png", "1.png"]
    assert not (out / "maps").exists()


def test_a_moved_model_is_still_the_same(model, parts, tmp_path):
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in model.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    assert predict(model, parts, tmp_path / "out") == 0
    assert predict(moved, parts, tmp_path / "out") == 0
    assert len(lines(tmp_path / "out")) == 4


def test_settings_reach_the_model(model, parts, tmp_path, capsys):
    assert (
        predict(model, parts, tmp_path / "all", "image_threshold=0.0", "tile=true", "tile_px=[32,40]", "overlap=0.1")
        == 0
    )
    assert capsys.readouterr().out.splitlines()[-1] == "4 images: 0 normal, 4 anomalous, 0 bad"
    tiled = dmdd.load(model, device="cpu", tile=True, tile_px=[32, 40], overlap=0.1)
    assert [line["score"] for line in lines(tmp_path / "all")] == [
        tiled(parts / line["file"]).score for line in lines(tmp_path / "all")
    ]
    assert predict(model, parts, tmp_path / "flat", "recursive=false", "precision=bfloat16") == 0
    assert [line["file"] for line in lines(tmp_path / "flat")] == ["top.png"]


def test_a_model_without_thresholds_gives_scores_only(parts, tmp_path, capsys):
    model = save_tiny_model(tmp_path / "model", calibration={})
    assert predict(model, parts, tmp_path / "out") == 0
    assert [line["label"] for line in lines(tmp_path / "out")] == [None] * 4
    expected = "4 images: 0 normal, 0 anomalous, 4 without a threshold, 0 bad"
    assert capsys.readouterr().out.splitlines()[-1] == expected


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("{}/one/0.png", ["0.png"]),
        ("{}/*/0.png", ["one/0.png", "two/0.png"]),
        ("{}/**/*.png", ["one/0.png", "one/1.png", "top.png", "two/0.png"]),
        ("[{0}/two,{0}/one/1.png,{0}/one]", ["two/0.png", "one/1.png", "one/0.png"]),
    ],
)
def test_files_patterns_and_lists(model, parts, tmp_path, source, names):
    (parts / "one/.hidden.png").write_bytes(b"")
    assert predict(model, source.format(parts), tmp_path / "out") == 0
    assert [line["file"] for line in lines(tmp_path / "out")] == names


def test_an_output_inside_the_input_is_no_input(model, parts, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(parts)
    for source in (parts, parts, link):
        # The second time pictures of the first lie there; the third the input has another name.
        more = ["overwrite=true"] if source == link else []
        assert predict(model, source, parts / "out", "overlays=true", *more) == 0
        assert len(lines(parts / "out")) == 4


def test_a_torn_last_line_is_dropped_and_its_image_scored_once(model, parts, tmp_path):
    out = tmp_path / "out"
    assert predict(model, parts, out) == 0
    whole, table = lines(out), (out / "scores.csv").read_bytes()
    content = (out / "scores.jsonl").read_bytes()
    cut = content[:-1].rfind(b"\n") + 1
    for length in (cut + 1, cut + 40, len(content) - 1):
        (out / "scores.jsonl").write_bytes(content[:length])
        (out / "scores.csv").write_bytes(table[: len(table) - 7])
        with Ledger(out) as ledger:
            assert sum(ledger.counts().values()) == 3
        assert (out / "scores.jsonl").read_bytes() == content[:cut]
        assert [row["file"] for row in rows(out)] == [line["file"] for line in whole[:3]]
        assert predict(model, parts, out) == 0
        assert [line["file"] for line in lines(out)] == [line["file"] for line in whole]
        assert len(rows(out)) == 4


def test_a_name_that_is_no_unicode_is_recorded_and_found_again(model, tmp_path):
    folder = os.fsencode(tmp_path / "in")
    os.mkdir(folder)
    try:
        with open(folder + b"/a\xff\n.png", "wb") as file:
            file.write(save_image(tmp_path / "a.png").read_bytes())
    except OSError:
        pytest.skip("this file system takes only Unicode names")
    for _ in range(2):
        assert predict(model, tmp_path / "in", tmp_path / "out", "maps=npy") == 0
        assert len(lines(tmp_path / "out")) == 1
    assert b'"a\xff\n.png"' in (tmp_path / "out/scores.csv").read_bytes()


def test_a_file_written_to_while_it_is_read_is_not_taken(model, tmp_path):
    from dmdd.inference.folder.inputs import stat_item
    from dmdd.inference.folder.pipeline import decode

    predictor = dmdd.load(model, device="cpu")
    item = stat_item(save_image(tmp_path / "a.png", height=20), base=tmp_path)
    assert decode(item, predictor, keep_rgb=True).error is None
    save_image(tmp_path / "a.png", height=30)
    assert "was written to while it was read" in (decode(item, predictor, keep_rgb=False).error or "")


BAD_INPUT = [
    (["model="], r"model is missing: give model=..."),
    (["input="], r"input is missing"),
    (["output="], r"output is missing"),
    (["model=nowhere"], r"no detector.json in .*nowhere"),
    (["input=nowhere"], r"input=nowhere: no such file or folder"),
    (["input=nowhere/*.png"], r"input=nowhere/\*.png: no image matches this pattern"),
    (["input=empty"], r"input=empty: no images \(.*.png.*\) in this folder"),
    (["input=empty", "recursive=false"], r"recursive=true looks into its subfolders too"),
    (["output=."], r"output=. is or holds the input's folder"),
    (["output=empty/file"], r"output=empty/file is a file; give a folder"),
    (["output=empty/file/below"], r"output=.*below cannot be written: Not a directory"),
    (["maps=tiff"], r"maps=tiff: choose one of none, png16, npy"),
    (["masks=1"], r"masks=1: give true or false"),
    (["settle_s=0"], r"settle_s=0: give a number of seconds above 0"),
    (["batch_size=0"], r"batch_size=0: give a positive whole number"),
    (["workers=-1"], r"workers=-1: give a positive whole number"),
    (["tile_px=64"], r"tile_px=64 counts only with tile=true"),
    (["tile=true", "tile_px=0"], r"tile_px=0: give a number of pixels"),
    (["tile=true", "overlap=2"], r"overlap=2: give a number from 0"),
    (["image_threshold=2"], r"image_threshold=2: give a number from 0 to 1"),
    (["precision=half"], r"precision=half: choose one of"),
    (["device=warp"], r"device=warp is not on this machine"),
    (["watch=true", "input=parts/top.png"], r"watch=true follows one folder, which must exist"),
    (["colour=red"], r"colour"),
    (["--fast"], r"'--fast' is not a setting; write NAME=VALUE"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_INPUT, ids=lambda v: "_".join(v) if isinstance(v, list) else "")
def test_bad_input_is_one_line_and_leaves_nothing(model, parts, tmp_path, monkeypatch, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    base = {"model": str(model), "input": "parts", "output": "out"}
    given = {argument.partition("=")[0] for argument in arguments}
    assert main([*(f"{name}={value}" for name, value in base.items() if name not in given), *arguments]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert re.search(f"^error: .*{message}", errors[0]), errors[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_masks_need_a_threshold(parts, tmp_path, capsys):
    model = save_tiny_model(tmp_path / "model", calibration={})
    assert predict(model, parts, tmp_path / "out", "masks=true") == 2
    assert "masks=true: this model has no pixel threshold" in capsys.readouterr().err


def test_scores_of_something_else_are_never_touched(model, parts, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "scores.csv").write_text("file,defect,label,score\n")
    assert predict(model, parts, run, "overwrite=true") == 2
    assert "holds a scores.csv that predict has not written" in capsys.readouterr().err
    assert (run / "scores.csv").read_text() == "file,defect,label,score\n"


def test_damaged_records_are_told(model, parts, tmp_path, capsys):
    out = tmp_path / "out"
    assert predict(model, parts, out) == 0
    content = (out / "scores.jsonl").read_bytes()
    for damage in (b"\0\0\n" + content, b'{"file": "a"}\n' + content):
        (out / "scores.jsonl").write_bytes(damage)
        assert predict(model, parts, out) == 2
        assert "scores.jsonl: line 1 is damaged; overwrite=true begins anew" in capsys.readouterr().err
    (out / "predict.json").write_text("[")
    assert predict(model, parts, out) == 2
    assert "predict.json is damaged; overwrite=true begins anew" in capsys.readouterr().err
    assert predict(model, parts, out, "overwrite=true") == 0


def test_two_processes_do_not_share_an_output(model, parts, tmp_path, capsys):
    from filelock import FileLock

    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out/.lock"):
        assert predict(model, parts, tmp_path / "out") == 2
    assert "another process is writing to this folder" in capsys.readouterr().err


def test_a_full_disk_is_told_and_the_same_command_goes_on(model, parts, tmp_path, monkeypatch, capsys):
    def full(file: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    for place in ("output", "pictures"):  # predict.json comes before any image
        with monkeypatch.context() as patch:
            patch.setattr(f"dmdd.inference.folder.{place}.write_atomically", full)
            assert predict(model, parts, tmp_path / "out", "maps=npy") == 2
        assert "cannot be written: No space left on device; the same command goes on" in capsys.readouterr().err
    assert lines(tmp_path / "out") == []
    assert predict(model, parts, tmp_path / "out", "maps=npy") == 0
    assert len(lines(tmp_path / "out")) == 4
    with Ledger(tmp_path / "out") as ledger:
        os.close(ledger._files[0].fileno())
        with pytest.raises(UserError, match="out cannot be written: Bad file"):
            ledger.append(Record("a.png", 0.5, "normal", 0.6, 1, 1, 1.0, None, 1, 1, "now"))


def test_too_little_memory_is_told(model, parts, tmp_path, monkeypatch, capsys):
    def out_of_memory(*arguments: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(dmdd.Predictor, "predict", out_of_memory)
    assert predict(model, parts, tmp_path / "out") == 2
    assert "prediction on cpu: memory does not suffice for batch_size=16, workers=" in capsys.readouterr().err


def test_an_input_that_cannot_be_listed_is_told(model, parts, tmp_path, monkeypatch, capsys):
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("dmdd.inference.folder.inputs.os.scandir", refuse)
    assert predict(model, parts, tmp_path / "out") == 2
    assert re.search("input=.*parts cannot be listed: Permission denied: .*parts", capsys.readouterr().err)


def test_inputs_on_different_drives(monkeypatch):
    from dmdd.inference.folder.inputs import find_base

    def refuse(paths: list[str]) -> None:
        raise ValueError("Paths don't have the same drive")

    monkeypatch.setattr("dmdd.inference.folder.inputs.os.path.commonpath", refuse)
    with pytest.raises(UserError, match="don't have the same drive; score them one after the other"):
        find_base(["a", "b"])


def test_help_is_quick_and_an_installed_command_runs(model, parts, tmp_path):
    code = "import sys; from dmdd.predict import main; assert main(['--help']) == 0; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
    command = [
        sys.executable,
        "-m",
        "dmdd",
        "predict",
        f"model={model}",
        f"input={parts}",
        f"output={tmp_path / 'out'}",
    ]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("4 images: ")


def test_kills_at_random_moments_lose_and_repeat_nothing(model, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    names = [f"{i % 3}/{i:02d}.png" for i in range(60)]
    for place, name in enumerate(names):
        save_image(folder / name, seed=place)
    arguments = [f"model={model}", f"input={folder}", f"output={out}", "device=cpu", "batch_size=2", "maps=png16"]
    random, counts = np.random.default_rng(KILL_SEED), [0]
    for _ in range(4):
        process = start(arguments, tmp_path / "log")
        enough = counts[-1] + int(random.integers(0, 12))
        while process.is_alive() and count_lines(out / "scores.jsonl") < enough:
            process.join(timeout=0.002)
        process.join(timeout=float(random.uniform(0, 0.05)))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, (tmp_path / "log").read_text()
        counts.append(count_lines(out / "scores.jsonl"))
    assert 0 < counts[-1] < 60, counts
    process = start(arguments, tmp_path / "log")
    process.join(timeout=PATIENCE_S)
    assert process.exitcode == 0, (tmp_path / "log").read_text()
    assert sorted(line["file"] for line in lines(out)) == sorted(names)
    assert [row["file"] for row in rows(out)] == [line["file"] for line in lines(out)]
    assert sorted(p.relative_to(out / "maps").as_posix() for p in (out / "maps").rglob("*.png")) == sorted(
        f"{name}.png" for name in names
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_the_batch_in_hand(model, tmp_path, number):
    folder, out = tmp_path / "in", tmp_path / "out"
    for place in range(150):
        save_image(folder / f"{place:03d}.png", seed=0)
    arguments = [f"model={model}", f"input={folder}", f"output={out}", "device=cpu", "batch_size=2", "maps=npy"]
    process = start(arguments, tmp_path / "log")
    while process.is_alive() and not (out / "maps").exists():
        process.join(timeout=0.01)
    os.kill(process.pid, number)
    process.join(timeout=PATIENCE_S)
    log = (tmp_path / "log").read_text()
    assert process.exitcode == 128 + number, log
    assert "stopped before the end; the same command goes on from here" in log
    assert 2 <= len(lines(out)) < 150
    assert len(lines(out)) == len(rows(out)) == len(list((out / "maps").iterdir()))
    assert len(lines(out)) % 2 == 0


def test_an_image_whose_pictures_cannot_be_written_is_one_bad_image(model, tmp_path, capsys):
    source, out = tmp_path / "in", tmp_path / "out"
    too_long, longest = "a" * 248 + ".png", "b" * 247 + ".png"  # with an ending more 256 and 255 bytes
    for place, name in enumerate((too_long, longest, "blocked.png", "sub/blocked.png", "good.png")):
        save_image(source / name, seed=place)
    (out / "masks/blocked.png.png").mkdir(parents=True)  # a folder where the mask of one image should go
    (out / "masks/sub").write_bytes(b"")  # a file where a folder should be
    assert predict(model, source, out, "masks=true") == 3
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1].endswith(", 3 bad")
    found = {line["file"]: line for line in lines(out)}
    assert len(found) == 5
    assert found[too_long]["error"] == f"{out}/masks/{too_long}.png cannot be written: File name too long"
    assert found["blocked.png"]["error"].endswith("blocked.png.png cannot be written: Is a directory")
    assert "masks/sub" in found["sub/blocked.png"]["error"]
    assert [found[name]["error"] for name in (longest, "good.png")] == [None, None]
    assert all(line["score"] is not None for line in found.values())  # what is known is not thrown away
    assert (out / f"masks/{longest}.png").is_file()
    assert not list(out.rglob("*.partial"))
    assert printed.err.count("bad image: ") == 3
    assert predict(model, source, out, "masks=true") == 3  # recorded, and not tried for ever
    assert len(lines(out)) == 5


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 2), (errno.EROFS, 2), (errno.EINVAL, 3)])
def test_a_full_disk_ends_the_command_and_a_name_that_is_not_taken_does_not(
    model, parts, tmp_path, monkeypatch, capsys, number, code
):
    write = Path.write_bytes

    def failing(file: Path, content: bytes) -> int:
        if file.suffix == ".partial" and "masks/one" in str(file):
            raise OSError(number, os.strerror(number), str(file))
        return write(file, content)

    monkeypatch.setattr(Path, "write_bytes", failing)
    assert predict(model, parts, tmp_path / "out", "masks=true") == code
    error = capsys.readouterr().err
    assert f"cannot be written: {os.strerror(number)}" in error
    assert ("the same command goes on from here" in error) == (code == 2)
    if code == 3:
        assert [line["file"] for line in lines(tmp_path / "out") if line["error"]] == ["one/0.png", "one/1.png"]


def test_an_encoder_that_refuses_one_picture_fails_one_image(model, parts, tmp_path, monkeypatch):
    encode, calls = cv2.imencode, []

    def refusing(ending: str, pixels: np.ndarray, options: list[int]) -> object:
        calls.append(ending)
        if len(calls) == 2:
            raise cv2.error("OpenCV: picture is too wide\n")
        return encode(ending, pixels, options)

    monkeypatch.setattr(cv2, "imencode", refusing)
    assert predict(model, parts, tmp_path / "out", "masks=true", "workers=1") == 3
    errors = [line["error"] for line in lines(tmp_path / "out")]
    assert sum(error is not None for error in errors) == 1
    assert "picture is too wide" in next(error for error in errors if error)


def test_a_folder_whose_name_has_brackets_may_stand_before_a_pattern(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_image(tmp_path / "p/batch[1]/a.png")
    save_image(tmp_path / "p/batch1/b.png")
    assert predict(model, "p/batch[1]/*.png", tmp_path / "out") == 0
    assert [line["file"] for line in lines(tmp_path / "out")] == ["a.png"]
    assert predict(model, "p/batch?/*.png", tmp_path / "out2") == 0  # still a pattern
    assert [line["file"] for line in lines(tmp_path / "out2")] == ["batch1/b.png"]
    assert predict(model, "p/part[1]/*.png", tmp_path / "out3") == 2
    assert "no image matches this pattern; brackets match one of the signs in them, [[]" in capsys.readouterr().err


def test_pictures_of_kinds_that_are_not_read_are_counted(model, parts, tmp_path, capsys):
    for name in ("a.HEIC", "one/b.heic", "c.dng", "notes.txt", ".hidden.heic"):
        (parts / name).write_bytes(b"")
    assert predict(model, parts, tmp_path / "out") == 0
    told = "3 pictures of a kind that is not read passed over (1 x .dng, 2 x .heic); convert them to PNG, TIFF or JPEG"
    assert f"warning: {told}\n" in capsys.readouterr().err
    assert predict(model, f"{parts}/o*/*", tmp_path / "out2") == 0
    assert "warning: 1 picture of a kind that is not read passed over (1 x .heic)" in capsys.readouterr().err
    for file in (*parts.rglob("*.png"), parts / "c.dng"):
        file.unlink()
    assert predict(model, parts, tmp_path / "out3") == 2
    assert "in this folder; 2 pictures of a kind that is not read passed over" in capsys.readouterr().err
