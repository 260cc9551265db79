"""Parts from a package outside the repository: the examples of docs/extending.md, as they stand there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dmdd.config.targets import find_target
from dmdd.core.doors import find_opened, opened_packages
from dmdd.core.errors import UserError
from dmdd.models.detector import Detector
from dmdd.models.student import Student

REPOSITORY = Path(__file__).resolve().parents[2]
TEXT = (REPOSITORY / "docs/extending.md").read_text()


@pytest.fixture(scope="module")
def outside(tmp_path_factory) -> Path:
    """The package and the configuration of the page, written to a folder of their own."""
    folder = tmp_path_factory.mktemp("outside")
    blocks = re.findall(r"```\w+\n# (my\S+)\n(.*?)```", TEXT, re.DOTALL)
    assert [name for name, _ in blocks] == [
        "mypkg/bodies.py",
        "mypkg/anomalies.py",
        "mypkg/data.py",
        "myconf/dataset/line.yaml",
    ]
    for name, content in blocks:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    (folder / "mypkg/__init__.py").write_text("")
    return folder


@pytest.fixture
def opened(outside, monkeypatch) -> Path:
    monkeypatch.syspath_prepend(str(outside))
    monkeypatch.setenv("DMDD_TARGET_PACKAGES", "mypkg")
    return outside


def test_all_three_examples_train_one_model(outside, demo_root, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for kind, folder in (("ok", "train/good"), ("nok", "test/dent")):
        for number, file in enumerate(sorted((demo_root / "demo/plate" / folder).iterdir())[:10]):
            shutil.copy(file, photos / f"lid_{kind}_{number}.png")
    commands = re.findall(r"^    DMDD_TARGET_PACKAGES=mypkg dmdd train (.*)$", TEXT, re.MULTILINE)
    body, source, dataset, _ = (command.split() for command in commands)
    given = [*body[1:], *source[1:], *dataset[:2], f"data_dir={photos}", "category=lid"]
    smoke = ["teacher=resnet18", "teacher.random_weights=true", "recipe=smoke", "evaluation.pictures=0"]
    command = [sys.executable, "-m", "dmdd.train", *smoke, "run_dir=run"]
    command += [part.replace("$PWD", str(outside)) for part in given]
    known = os.pathsep.join(filter(None, [str(outside), os.environ.get("PYTHONPATH")]))
    variables = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": known}
    opened = variables | {"DMDD_TARGET_PACKAGES": "mypkg"}
    done = subprocess.run(command, cwd=tmp_path, env=opened, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert (result["dataset"], result["category"]) == ("line", "lid")
    assert result["images"]["listed"] == 2 + 2  # a fifth of ten good ones, and the two dents of the demo
    assert json.loads((tmp_path / "run/model/detector.json").read_text())["student"]["body"] == "mypkg.bodies.Direct"
    with pytest.raises(UserError, match=r"mypkg.bodies.Direct is not allowed; .* set DMDD_TARGET_PACKAGES=mypkg"):
        Detector.load(tmp_path / "run/model")


def test_a_body_is_a_module_of_an_allowed_package(opened):
    student = Student(channels=(4, 6, 8), body="mypkg.bodies.Direct", widths=(5, 6, 7))
    features = [torch.rand(1, c, s, s) for c, s in ((4, 16), (6, 8), (8, 4))]
    normality, _ = student(torch.rand(1, 3, 64, 64), features)
    assert [tuple(level.shape) for level in normality] == [tuple(level.shape) for level in features]
    with pytest.raises(UserError, match=r"student.body=mypkg.data.read_line: expected a subclass of torch.nn.Module"):
        Student(channels=(4, 6, 8), body="mypkg.data.read_line")


def test_own_anomalies_cover_the_mask_in_rust(opened):
    from dmdd.pairs import PairSynthesis, draw_plan

    synthesis = find_target("mypkg.anomalies.RustPairs")(own=1.0, blob=1.0, blend_max=0.0, min_change=0.0)
    images = torch.full((4, 3, 64, 64), 0.9)
    anomalous, mask = synthesis(images, draw_plan(0, 0, range(4)), others=images)
    inside = anomalous.permute(0, 2, 3, 1)[mask[:, 0] > 0]
    assert len(inside) > 0
    assert bool((inside[:, 0] >= inside[:, 2]).all())
    assert torch.equal(anomalous * (1 - mask), images * (1 - mask))
    with pytest.raises(NotImplementedError, match=r"PairSynthesis has the weight own=1.0 but no own_source"):
        PairSynthesis(own=1.0, blob=1.0)(images, draw_plan(0, 0, range(4)), others=images)


def test_only_what_a_package_defines_itself_is_found(opened):
    assert find_target("mypkg.data.read_line").__name__ == "read_line"
    with pytest.raises(UserError, match=r"mypkg.bodies.torch is not allowed: it is not defined in mypkg"):
        find_opened("mypkg.bodies.torch")
    with pytest.raises(UserError, match=r"mypkg.data.Path is not allowed: it is not defined in mypkg"):
        find_opened("mypkg.data.Path")
    with pytest.raises(UserError, match=r"mypkg.nosuch.X cannot be imported"):
        find_opened("mypkg.nosuch.X")


def test_packages_are_closed_unless_opened(outside, monkeypatch):
    monkeypatch.syspath_prepend(str(outside))
    for given in ("", "my.pkg", "../mypkg", "other"):
        monkeypatch.setenv("DMDD_TARGET_PACKAGES", given)
        with pytest.raises(UserError, match=r"_target_=mypkg.data.read_line is refused.*DMDD_TARGET_PACKAGES=PACKAGE"):
            find_target("mypkg.data.read_line")
        with pytest.raises(UserError, match=r"mypkg.bodies.Direct is not allowed"):
            Student(channels=(4, 6, 8), body="mypkg.bodies.Direct")


def test_an_installed_package_opens_itself(tmp_path, monkeypatch):
    metadata = tmp_path / "mypkg-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mypkg\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[dmdd.targets]\nmypkg = mypkg.things:Thing\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("DMDD_TARGET_PACKAGES", "other, other")
    assert opened_packages() == ("other", "mypkg")
