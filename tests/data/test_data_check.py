"""`python -m dmdd.data`: the report of `check`, exit codes, one line for bad input, quick start."""

import os
import subprocess
import sys

import pytest
import trees
from PIL import Image

from dmdd.data.__main__ import main
from dmdd.data.check import LAYOUTS, check_data
from patience import PATIENCE_S


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    monkeypatch.delenv("DMDD_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def test_counts_per_split_and_type(data_dir):
    folder = trees.mvtec_category(data_dir / "mvtec_ad")
    lines, problems = check_data(data_dir=data_dir, dataset="mvtec_ad", category="screw")
    assert problems == 0
    assert lines == [
        f"mvtec_ad/screw  {folder}",
        "  train  good                          3 images              24 x 24 px",
        "  test   good                          2 images              24 x 24 px",
        "  test   dent                          1 images     1 masks  24 x 24 px",
        "  test   scratch                       2 images     2 masks  24 x 24 px",
        "  note: passed over 1 x .txt",
        "no problems found",
    ]


def test_everything_that_is_there_is_checked(data_dir):
    trees.mvtec_category(data_dir / "mvtec_ad", "screw")
    trees.mvtec_category(data_dir / "mvtec_ad", "bottle")
    trees.mvtec_category(data_dir / "demo", "plate")
    for name, (_, write) in trees.PUBLISHED.items():
        if name != "mvtec_ad":
            write(data_dir if name in ("folder", "mvtec_layout") else data_dir / name)
    trees.write_image(data_dir / "mvtec_loco/pushpins/train/good/001.png", seed=7)
    lines, problems = check_data(data_dir=data_dir)
    assert problems == 0
    heads = [line.split()[0] for line in lines if not line.startswith(" ")][:-1]
    published = {f"{name}/{category}" for name, (category, _) in trees.PUBLISHED.items()}
    assert set(heads) == {*published, "mvtec_ad/bottle", "visa/pcb1", "aitex/04", "demo/plate"}
    assert set(LAYOUTS) == {head.split("/")[0] for head in heads}


def test_every_problem_file_is_named_and_the_exit_code_is_1(data_dir, capsys):
    folder = trees.mvtec_category(data_dir / "mvtec_ad")
    wrong = {
        "damaged or truncated": folder / "train" / "good" / "001.png",
        "the file is empty": folder / "test" / "good" / "000.png",
        "image without mask": folder / "test" / "scratch" / "000.png",
        "both must have the same size": folder / "ground_truth" / "scratch" / "001_mask.png",
        "marks no pixel": folder / "ground_truth" / "dent" / "tiefe Delle ü.png",
    }
    image = wrong["damaged or truncated"]
    image.write_bytes(image.read_bytes()[:300])
    wrong["the file is empty"].write_bytes(b"")
    (folder / "ground_truth" / "scratch" / "000_mask.png").unlink()
    Image.new("L", (9, 9), 255).save(wrong["both must have the same size"])
    trees.write_mask(wrong["marks no pixel"], value=0)
    assert main(["check", "--data-dir", str(data_dir)]) == 1
    out, err = capsys.readouterr()
    problems = [line for line in out.splitlines() if line.startswith("  problem: ")]
    assert len(problems) == len(wrong)
    for reason, path in wrong.items():
        assert any(reason in line and str(path) in line for line in problems), reason
    assert out.splitlines()[-1] == "5 problems found"
    assert err == ""


def test_links_to_nothing_and_categories_that_cannot_be_read_leave_the_others_checked(data_dir, capsys):
    screw = trees.mvtec_category(data_dir / "mvtec_ad", "screw")
    links = [screw / "train/good/zzz.png", screw / "test/good/zzz.png"]
    for link in links:
        link.symlink_to(data_dir / "gone.png")
    trees.visa_root(data_dir / "visa")
    (data_dir / "visa/split_csv/1cls.csv").unlink()
    empty = trees.folder_category(data_dir, "open") / "good/shift 0/teil 0.bmp"
    empty.write_bytes(b"")
    assert main(["check", f"data_dir={data_dir}"]) == 1
    out = capsys.readouterr().out
    assert all(f"  problem: {link} is a link to what is not there ({data_dir}/gone.png)" in out for link in links)
    for category in ("candle", "pcb1"):
        head = f"visa/{category}  {data_dir / 'visa' / category}\n"
        assert head + f"  problem: no split table {data_dir}/visa/split_csv/1cls.csv" in out
    assert str(empty) in out
    assert out.splitlines()[-1] == "5 problems found"


def test_names_that_are_no_text_are_told(data_dir, capsys):
    folder = trees.mvtec_category(data_dir / "mvtec_ad")
    try:
        (folder / os.fsdecode(b"train/good/\xff.png")).write_bytes(b"no image")
    except OSError:
        pytest.skip("this file system takes text names only")
    assert main(["check", "dataset=mvtec_ad"]) == 1
    assert "\\udcff.png" in capsys.readouterr().out


def test_notes_are_no_problems(data_dir, capsys):
    folder = trees.folder_category(data_dir, masks=False)
    trees.write_image(folder / "bad" / "copy.png", seed=77)
    # Good images are split by name, so the copy is put where it always trains: test_good names another folder there.
    twin = trees.mvtec_category(data_dir / "mvtec_ad") / "test" / "good" / "000.png"
    twin.write_bytes((twin.parents[2] / "train" / "good" / "000.png").read_bytes())
    good = twin.parents[2] / "train" / "good"
    (good / "copy.png").write_bytes((good / "001.png").read_bytes())
    assert main(["check", "data_dir=" + str(data_dir)]) == 0
    out = capsys.readouterr().out
    assert "note: 1 of 4 training images have the same bytes as others" in out
    assert f"note: {twin} has the same bytes as {twin.parents[2] / 'train' / 'good' / '000.png'}" in out
    assert "note: anomalous images have no masks, so pixel metrics will be absent" in out


def test_many_sizes_are_counted(data_dir):
    folder = trees.mvtec_category(data_dir / "mvtec_ad")
    for side in range(30, 36):
        trees.write_image(folder / "train" / "good" / f"{side}.png", size=(side, 20))
    lines, _ = check_data(data_dir=data_dir)
    assert lines[1].endswith("24 x 24 px, 30 x 20 px, 31 x 20 px, and 4 more sizes")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check"], "no data set in {data}: expected one of the folders mvtec_ad, mpdd,"),
        (["check", "--dataset", "mvtec"], "unknown data set 'mvtec': expected one of mvtec_ad, mpdd,"),
        (["check", "--dataset", "visa"], "no data folder {data}/visa: set data_dir=FOLDER or DMDD_DATA"),
        (["demo", "--size", "10"], "size is 10: it must lie between 64 and 1024 px"),
        (["prepare", "--dataset", "mnist"], "unknown data set 'mnist': expected one of mvtec_ad, mvtec_loco, mpdd,"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(data_dir, capsys, arguments, message):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: " + message.format(data=data_dir))
    assert err.count("\n") == 1
    assert not data_dir.exists()


def test_unknown_category(data_dir, capsys):
    trees.mvtec_category(data_dir / "mvtec_ad")
    assert main(["check", "--dataset", "mvtec_ad", "--category", "srew"]) == 2
    assert "unknown category 'srew'" in capsys.readouterr().err


def test_data_dir_comes_from_the_environment(data_dir, monkeypatch, capsys):
    trees.mvtec_category(data_dir / "elsewhere" / "mvtec_ad")
    monkeypatch.setenv("DMDD_DATA", str(data_dir / "elsewhere"))
    assert main(["check"]) == 0
    assert "mvtec_ad/screw" in capsys.readouterr().out


def test_demo_command_writes_what_check_accepts(data_dir, capsys):
    assert main(["demo", f"output={data_dir}", "size=64"]) == 0
    assert capsys.readouterr().out == f"demo data set written to {data_dir / 'demo'}\n"
    assert main(["check", "--data-dir", str(data_dir), "--dataset", "demo"]) == 0


def test_wrong_option_is_exit_code_2(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["check", "--colour", "red"])
    assert caught.value.code == 2
    assert "unrecognized arguments: --colour red" in capsys.readouterr().err


def test_no_command_needs_torch(data_dir):
    program = (
        "import sys; from dmdd.data.__main__ import main; import dmdd.data.check; "
        "import dmdd.data.demo.generate, dmdd.data.download.prepare; "
        "heavy = {'torch', 'lightning', 'hydra', 'timm', 'albumentations'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ}, timeout=PATIENCE_S)


def test_module_runs_as_a_program(data_dir):
    done = subprocess.run(
        [sys.executable, "-m", "dmdd.data", "check", "--data-dir", str(data_dir)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: no data set in ")
    assert "Traceback" not in done.stderr


def test_what_training_would_refuse_or_leave_out_is_told(data_dir):
    for number in range(2):
        trees.write_image(data_dir / f"bracket/{number}.png", seed=number)  # one is tested, one is left to train on
    lines, problems = check_data(data_dir=data_dir, dataset="folder")
    assert problems == 1
    assert any("  problem: one training image, " in line and "training needs two" in line for line in lines)
    assert any("note: no anomalous images: AUROC, AUPRO" in line for line in lines)
    folder = trees.folder_category(data_dir, "open", masks=False)
    for name in ("old/a.png", "old/b.png", "loose.png"):
        trees.write_image(folder / name, seed=50)
    (folder / "good/c.HEIC").write_bytes(b"")
    lines, problems = check_data(data_dir=data_dir, dataset="folder", category="open")
    assert problems == 0
    assert f"  warning: 3 images are not used, below {folder}: 1 in ./, 2 in old/" in lines
    assert any("warning: 1 picture of a kind that is not read passed over (1 x .heic)" in line for line in lines)
    assert lines[-1] == "no problems found, 2 warnings"


def test_folders_of_loose_images_are_no_categories_unless_asked_for(data_dir):
    trees.mvtec_category(data_dir / "mvtec_ad")
    trees.write_image(data_dir / "textures/0.png")
    lines, _ = check_data(data_dir=data_dir)
    assert not any("textures" in line for line in lines)
