"""A pickle through every door: whatever a user may pass around is read, nothing in it is run."""

import io
import json
import os
import pickle
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import fuzz_kit
import pytest
import torch
import yaml
from fuzz_kit import count, one_line
from PIL import Image
from starlette.testclient import TestClient

from dmdd.core.errors import UserError
from dmdd.core.files import YAML_LOADER
from dmdd.data.check import check_data
from dmdd.data.download.archives import extract_archive
from dmdd.data.images import read_image, read_mask
from dmdd.deploy.serve.api import build_api
from dmdd.deploy.serve.limits import Limits
from dmdd.deploy.serve.model import load_model
from dmdd.models.weights import build_teacher
from dmdd.training.callbacks.interruption import StateSaver
from tiny import draw_pixels, save_tiny_model

pytestmark = pytest.mark.filterwarnings("ignore")

KINDS = tuple(fuzz_kit.pickles(Path("marker")))


@pytest.fixture(params=KINDS)
def payload(request, tmp_path) -> bytes:
    return fuzz_kit.pickles(tmp_path / "marker")[request.param]


@pytest.fixture(autouse=True)
def nothing_ran(tmp_path):
    yield
    assert not (tmp_path / "marker").exists(), "code in a file was run"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("run") / "model")


def refused(read: Callable[[], object], door: str) -> None:
    with pytest.raises(UserError) as refusal:
        read()
    one_line(refusal.value)
    count(f"pickles, {door}", "refused")


def test_the_payloads_do_run_where_they_are_unpickled(tmp_path):
    """Else the rest of this file would show nothing."""
    for name, data in fuzz_kit.pickles(tmp_path / "other").items():
        if name in ("numpy", "bare zip"):
            continue
        read = pickle.loads if name.startswith("protocol") else lambda d: torch.load(io.BytesIO(d), weights_only=False)
        opened = read(data)
        assert (tmp_path / "other").exists(), name
        opened = opened["state_dict"]["a"] if isinstance(opened, dict) else opened
        opened.close()
        (tmp_path / "other").unlink()


@pytest.mark.parametrize("ending", ["png", "tif", "jpg"])
def test_images_and_masks(tmp_path, payload, ending):
    file = tmp_path / f"000.{ending}"
    file.write_bytes(payload)
    refused(lambda: read_image(file), "images")
    refused(lambda: read_mask(file), "masks")


def test_a_data_folder(tmp_path, payload):
    for place in ("good", "bad/dent", "masks/dent"):
        (tmp_path / "data/part" / place).mkdir(parents=True)
        (tmp_path / "data/part" / place / "000.png").write_bytes(payload)
    (tmp_path / "data/part/good/cache.pkl").write_bytes(payload)
    (tmp_path / "data/part/good/001.png").write_bytes(payload)
    _, problems = check_data(data_dir=tmp_path / "data", dataset="folder")
    assert problems == 4  # three files, and one training image is too few
    count("pickles, data folders", "refused")


@pytest.mark.parametrize("name", ["weights.safetensors", "detector.json"])
def test_model_folders(tmp_path, folder, payload, name):
    model = Path(shutil.copytree(folder, tmp_path / "model"))
    (model / name).write_bytes(payload)
    refused(lambda: load_model(model, device="cpu"), "model folders")


def test_files_beside_a_model_are_not_looked_at(tmp_path, folder, payload):
    model = Path(shutil.copytree(folder, tmp_path / "run/model"))
    others = (
        "pytorch_model.bin",
        "model.pth",
        "weights.pkl",
        "config.json",
        "config.yaml",
        "hubconf.py",
        "__init__.py",
    )
    for name in others:
        (model / name).write_bytes(payload)
    (tmp_path / "run/result.json").write_bytes(payload)
    (tmp_path / "run/config.yaml").write_text(
        "x: !!python/object/apply:os.system ['touch marker']\n_target_: os.system\n"
    )
    assert load_model(model, device="cpu").predictor(draw_pixels(0)).score >= 0
    count("pickles, beside a model", "passed over")


def test_a_model_that_asks_for_code_gets_none(tmp_path, folder):
    """A description may not name a file, a hub or a class to build the teacher from."""
    spec = json.loads((folder / "detector.json").read_text())
    model = Path(shutil.copytree(folder, tmp_path / "model"))
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub/config.json").write_text(json.dumps({"architecture": "resnet10t"}))
    wanted = (f"local-dir:{tmp_path}/hub", "hf-hub:a/b", "os.system", "resnet10t.none", "torchvision/resnet18")
    for backbone in wanted:
        (model / "detector.json").write_text(json.dumps(spec | {"teacher": spec["teacher"] | {"backbone": backbone}}))
        refused(lambda: load_model(model, device="cpu"), "model folders")
    for extra in ({"_target_": "os.system"}, {"teacher": spec["teacher"] | {"weights": "x.pth"}}):
        (model / "detector.json").write_text(json.dumps(spec | extra))
        try:
            load_model(model, device="cpu")
        except UserError as error:
            one_line(error)
        count("pickles, model folders", "nothing built")


@pytest.mark.parametrize("ending", ["pth", "safetensors", "bin"])
def test_teacher_weights(tmp_path, payload, ending):
    file = tmp_path / f"teacher.{ending}"
    file.write_bytes(payload)
    refused(lambda: build_teacher(backbone="resnet10t", weights=str(file)), "teacher.weights=")


def test_teacher_weights_of_a_package(tmp_path, payload, monkeypatch):
    package = tmp_path / "somebodys_model"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "weights.pth").write_bytes(payload)
    monkeypatch.syspath_prepend(tmp_path)
    refused(lambda: build_teacher(backbone="resnet10t", package="somebodys_model"), "weights packages")


def test_saved_states(tmp_path, payload):
    file = tmp_path / "distillation.ckpt"
    file.write_bytes(payload)
    refused(StateSaver(file, every_n_steps=1).read, "saved states")


def test_a_state_with_a_payload_among_its_tensors(tmp_path):
    """As Lightning writes it, with one entry more; its hyperparameters would be such a place."""
    for place in ("hyper_parameters", "callbacks", "state_dict"):
        good = {"state_dict": {"a": torch.zeros(2)}, "global_step": 1, "seconds": 1.0, "optimizer_states": []}
        file = tmp_path / "distillation.ckpt"
        torch.save(good | {place: {"x": fuzz_kit.Payload(tmp_path / "marker")}}, file)
        refused(StateSaver(file, every_n_steps=1).read, "saved states")
        torch.save(good, file)
        assert StateSaver(file, every_n_steps=1).read()["global_step"] == 1


def test_resuming_from_a_pickle(tmp_path, demo_root, monkeypatch, capsys):
    """The whole command: the run folder of somebody else, whose state is a pickle."""
    from omegaconf import OmegaConf

    from dmdd.experiment import resume
    from dmdd.train import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    arguments = ["dataset=demo", "category=plate", f"data_dir={demo_root}", "teacher=resnet18", "recipe=smoke"]
    arguments += ["teacher.random_weights=true", "name=theirs", "resume=true"]
    run = tmp_path / "runs/demo/plate/theirs"
    (run / resume.STATE_DIR).mkdir(parents=True)
    (run / resume.STATE_DIR / "distillation.ckpt").write_bytes(fuzz_kit.pickles(tmp_path / "marker")["torch dict zip"])
    from dmdd.config.check import plain_of
    from dmdd.config.schema import TrainSettings

    settings = TrainSettings.compose(*arguments)
    OmegaConf.save(OmegaConf.create(plain_of(settings)), run / "config.yaml")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "cannot be read" in error
    assert "Traceback" not in error
    assert error.splitlines()[-1].startswith("error: the saved state ")
    count("pickles, resume=true", "refused")


def test_a_run_folders_yaml_is_read_as_values_only(tmp_path):
    from dmdd.experiment.resume import read_settings

    for text in (
        f"x: !!python/object/apply:builtins.open ['{tmp_path}/marker', 'w']\n",
        f"x: !!python/object/new:os.system ['touch {tmp_path}/marker']\n",
        f"!!python/object/apply:os.system ['touch {tmp_path}/marker']\n",
        f"x:\n  _target_: builtins.open\n  file: {tmp_path}/marker\n  mode: w\n",
        "x: ${oc.env:HOME}\ny: ${x}\n",
        "x: [\n",
        "[" * 1000,
        "a: &a [*a]\n",
    ):
        (tmp_path / "config.yaml").write_text(text)
        assert isinstance(read_settings(tmp_path), dict)
        count("pickles, YAML of a run", "values only")


def test_requests(tmp_path, folder):
    client = TestClient(build_api(load_model(folder, device="cpu"), Limits(), hosts=None)[0])
    for payload in fuzz_kit.pickles(tmp_path / "marker").values():
        for request in (
            {"content": payload},
            {"files": {"image": ("../../x.pkl", payload, "application/python-pickle")}},
        ):
            answer = client.post("/predict", **request)
            assert answer.status_code in (415, 422)
            count("pickles, requests", "refused")


def hostile_tars(outside: Path) -> dict[str, bytes]:
    """Archives that would write outside, link outside, or be what is no file."""
    found = {}
    members = {
        "parent": ("../sneaked", tarfile.REGTYPE, ""),
        "deep parent": ("a/../../sneaked", tarfile.REGTYPE, ""),
        "absolute": (str(outside / "sneaked"), tarfile.REGTYPE, ""),
        "windows": ("..\\sneaked", tarfile.REGTYPE, ""),
        "drive": ("C:\\sneaked", tarfile.REGTYPE, ""),
        "symbolic link": ("link", tarfile.SYMTYPE, str(outside)),
        "hard link": ("link", tarfile.LNKTYPE, "/etc/passwd"),
        "pipe": ("pipe", tarfile.FIFOTYPE, ""),
        "device": ("device", tarfile.CHRTYPE, ""),
    }
    for name, (path, kind, target) in members.items():
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as archive:
            member = tarfile.TarInfo(path)
            member.type, member.linkname = kind, target
            member.size = 4 if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(b"data"))
            behind = tarfile.TarInfo("link/sneaked")  # through the link, if it had been made
            behind.size = 4
            archive.addfile(behind, io.BytesIO(b"data"))
        found[f"tar, {name}"] = file.getvalue()
    return found


def hostile_zips() -> dict[str, bytes]:
    found = {}
    for name, path, mode in (
        ("parent", "../sneaked", 0o644 | stat.S_IFREG),
        ("absolute", "/tmp/sneaked", 0o644 | stat.S_IFREG),
        ("symbolic link", "link", 0o777 | stat.S_IFLNK),
        ("device", "device", 0o666 | stat.S_IFCHR),
        ("bomb", "zeros", 0o644 | stat.S_IFREG),
    ):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            member = zipfile.ZipInfo(path)
            member.external_attr = mode << 16
            archive.writestr(member, bytes(30_000_000) if name == "bomb" else "/etc", zipfile.ZIP_DEFLATED)
        found[f"zip, {name}"] = file.getvalue()
    return found


def test_archives_write_inside_their_folder_or_are_refused(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    for name, data in (hostile_tars(outside) | hostile_zips()).items():
        (tmp_path / "archive").write_bytes(data)
        target = tmp_path / "place/target"
        target.mkdir(parents=True)
        refused(lambda where=target: extract_archive(tmp_path / "archive", where, max_bytes=10_000_000), "archives")
        assert os.listdir(tmp_path / "place") == ["target"], name
        assert os.listdir(outside) == [], name
        assert not (target / "link").is_symlink(), name
        shutil.rmtree(tmp_path / "place")
    assert not Path("/tmp/sneaked").exists()


def test_archives_of_pickles_are_unpacked_and_not_opened(tmp_path):
    for number, data in enumerate(fuzz_kit.pickles(tmp_path / "marker").values()):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("part/train/good/000.png", data)
            archive.writestr("part/data.pkl", data)
        (tmp_path / "archive").write_bytes(file.getvalue())
        target = tmp_path / str(number)
        target.mkdir()
        assert extract_archive(tmp_path / "archive", target, max_bytes=10_000_000) == 2
        with pytest.raises(UserError):
            read_image(target / "part/train/good/000.png")
        count("pickles, archives", "unpacked, not opened")


def test_nothing_in_the_package_can_unpickle(monkeypatch):
    """Every call that could is listed here with why it may stay; a new one fails this test."""
    import ast

    package = Path(__file__).resolve().parents[2] / "src"
    risky = {"load", "loads", "Unpickler", "unsafe_load", "full_load", "eval", "exec", "system", "Popen", "__import__"}
    found = set()
    for file in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            tail = name.rpartition(".")[2]
            if tail in risky and name not in ("json.loads", "json.load") and not (tail == "eval" and name != "eval"):
                how = [options[given] for given in ("weights_only", "Loader", "allow_pickle") if given in options]
                found.add((name, *how) if how else (name, ""))
    allowed = {
        ("torch.load", "True"),  # tensors and plain values only
        ("np.load", "False"),  # arrays only
        ("OmegaConf.load", ""),  # by yaml's safe loader
        ("yaml.load", "YAML_LOADER"),  # the same, see below
        ("Detector.load", ""),  # safetensors and JSON, as the next two
        ("dmdd.load", ""),
        ("load", ""),  # of dmdd.inference, and of the engines that bench has exported itself
        ("onnx.load", ""),  # protobuf
        ("torch.export.load", ""),  # of what the same command has just written
    }
    assert found - allowed == set()
    assert issubclass(YAML_LOADER, (yaml.SafeLoader, yaml.CSafeLoader))
    assert ("torch.load", "True") in found


def test_images_are_not_written_where_their_metadata_says(tmp_path, monkeypatch):
    """Texts in an image are data."""
    monkeypatch.chdir(tmp_path)
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    for name in ("filename", "Software", "XML:com.adobe.xmp"):
        text.add_text(
            name, f"../../{tmp_path}/marker <?xml version='1.0'?><!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]>"
        )
    Image.fromarray(draw_pixels(0)).save(tmp_path / "a.png", pnginfo=text)
    assert read_image(tmp_path / "a.png").shape == (60, 40, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    count("pickles, metadata of images", "read")
