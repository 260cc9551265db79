"""Parts from a package outside the repository: the examples of docs/extending.md, as they stand there."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchmetrics

from dmdd.config.schema import ExportSettings, TrainSettings
from dmdd.config.targets import build_all, find_target
from dmdd.core.doors import find_opened, opened_packages
from dmdd.core.errors import UserError
from dmdd.data.datasets import EvaluationBatch
from dmdd.data.layouts import category_names
from dmdd.deploy.export.graph import Network
from dmdd.deploy.export.job import Job
from dmdd.models.detector import Detector
from dmdd.models.own_maps import Evidence, compute
from dmdd.models.segmentation import SegmentationNetwork
from dmdd.models.student import Student
from dmdd.models.teacher import Teacher
from dmdd.training.evaluation import EvaluationModule
from processes import run_command

REPOSITORY = Path(__file__).resolve().parents[2]
TEXT = (REPOSITORY / "docs/extending.md").read_text()


@pytest.fixture(scope="module")
def outside(tmp_path_factory) -> Path:
    """The package and the configuration of the page, written to a folder of their own."""
    folder = tmp_path_factory.mktemp("outside")
    blocks = re.findall(r"```\w+\n# (my\S+)\n(.*?)```", TEXT, re.DOTALL)
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


@pytest.fixture(scope="module")
def photos(tmp_path_factory, demo_root) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for kind, source in (("ok", "train/good"), ("nok", "test/dent")):
        for number, file in enumerate(sorted((demo_root / "demo/plate" / source).iterdir())[:10]):
            shutil.copy(file, folder / f"lid_{kind}_{number}.png")
    return folder


def test_all_examples_train_one_model(outside, photos, tmp_path):
    commands = re.findall(r"^    DMDD_TARGET_PACKAGES=mypkg dmdd train (.*)$", TEXT, re.MULTILINE)
    given = [part for command in commands for part in command.split() if not re.match("category=|data_dir=", part)]
    given += [f"data_dir={photos}", "category=lid"]
    smoke = ["teacher=resnet18", "teacher.random_weights=true", "recipe=smoke", "evaluation.pictures=0"]
    smoke += ["evaluation.resamples=0"]
    arguments = [*smoke, "run_dir=run", *(part.replace("$PWD", str(outside)) for part in given)]
    opened = {"DMDD_TARGET_PACKAGES": "mypkg", "PYTHONPATH": str(outside)}
    done = run_command("train", *arguments, cwd=tmp_path, **opened)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert (result["dataset"], result["category"]) == ("line", "lid")
    assert result["images"]["listed"] == 2 + 2  # a fifth of ten good ones, and the two dents of the demo
    spec = json.loads((tmp_path / "run/model/detector.json").read_text())
    assert spec["student"]["body"] == "mypkg.bodies.Direct"
    assert (spec["anomaly_map"], spec["score_function"]) == ("mypkg.maps.finest", "mypkg.maps.highest_percentile")
    assert set(result["test"]["maps"]["mypkg.maps.finest"]) == {"image_auroc"}  # the photos have no masks
    assert "DistillationModule: " in done.stdout
    assert list((tmp_path / "tables").rglob("metrics.csv"))
    with pytest.raises(UserError, match=r"mypkg.bodies.Direct is not allowed; .* set DMDD_TARGET_PACKAGES=mypkg"):
        Detector.load(tmp_path / "run/model")


def tiny_detector(**changes) -> Detector:
    torch.manual_seed(0)
    teacher = Teacher(backbone="resnet10t")
    student = Student(channels=teacher.channels, widths=(8, 12, 16))
    segmentation = SegmentationNetwork(channels=teacher.channels, width=8)
    sizes = {"input_size": (64, 64), "baseline_power": 0}
    detector = Detector(teacher=teacher, student=student, segmentation=segmentation, **(sizes | changes))
    return detector.eval().to(memory_format=torch.channels_last)


OWN = {
    "anomaly_map": "mypkg.maps.finest",
    "score_map": "mypkg.maps.finest",
    "score_function": "mypkg.maps.highest_percentile",
}


def test_a_map_and_a_score_of_a_package_are_part_of_the_model(opened, tmp_path):
    detector, images = tiny_detector(**OWN), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        raw = detector.raw_maps(images, only=(OWN["anomaly_map"], "normality"))
        found = detector(images)
        features = detector.teacher(detector.preprocess(images))
        normality, _ = detector.student(detector.preprocess(images), features)
    cosine = (features[0] * normality[0]).sum(1) / features[0].norm(dim=1) / normality[0].norm(dim=1)
    torch.testing.assert_close(raw[OWN["anomaly_map"]][:, 0], (1 - cosine) / 2, atol=1e-5, rtol=0)
    ninety_ninth = [torch.quantile(one.flatten(), 0.99) for one in raw[OWN["score_map"]]]
    torch.testing.assert_close(found.score, torch.stack(ninety_ninth))
    detector.save(tmp_path)
    with torch.no_grad():
        again = Detector.load(tmp_path)(images)
    assert torch.equal(again.map, found.map)
    assert torch.equal(again.score, found.score)


def test_what_is_exported_has_the_map_of_a_package(opened):
    detector, images = tiny_detector(**OWN), torch.randint(0, 256, (1, 3, 64, 64))
    with torch.no_grad():
        for own, exported in zip(detector(images.byte()), Network(detector)(images.float()), strict=True):
            torch.testing.assert_close(exported, own, atol=1e-4, rtol=0)


def test_maps_and_scores_are_functions_that_fit(opened, outside):
    with pytest.raises(UserError, match=r"anomaly_map=mypkg.bodies.Direct: expected a function"):
        tiny_detector(anomaly_map="mypkg.bodies.Direct")
    with pytest.raises(UserError, match=r"score_function=mypkg.bodies.Direct: expected a function"):
        tiny_detector(score_function="mypkg.bodies.Direct")
    with pytest.raises(UserError, match=r"anomaly_map=nosuch: choose one of relative, .*, or PACKAGE.FUNCTION"):
        tiny_detector(anomaly_map="nosuch")
    with pytest.raises(UserError, match=r"the map mine has the shape \(2,\), expected \(1, 1, 16, 16\)"):
        compute("mine", lambda evidence: torch.zeros(2), Evidence([], [], [], torch.zeros(1, 1, 16, 16)))
    with pytest.raises(UserError, match=r"detector.anomaly_map=nosuch: choose one of .*, or PACKAGE.FUNCTION"):
        TrainSettings.compose("detector.anomaly_map=nosuch")


def test_a_metric_of_a_package_is_measured_with_the_others(opened):
    settings = TrainSettings.compose(
        "evaluation.pixel_metrics.hottest._target_=mypkg.metrics.HottestPixel",
        "evaluation.image_metrics.error._target_=torchmetrics.MeanAbsoluteError",
    )
    hottest = build_all(settings.evaluation.pixel_metrics)
    error = build_all(settings.evaluation.image_metrics)
    detector = tiny_detector(anomaly_map="geometric", score_map="geometric")
    module = EvaluationModule(detector, own_pixel_metrics=hottest, own_image_metrics=error, study_maps=False)
    batch = EvaluationBatch(
        images=torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8),
        masks=torch.zeros(3, 1, 64, 64, dtype=torch.uint8),
        labels=torch.tensor([0, 1, 1]),
        indices=torch.arange(3),
    )
    with torch.no_grad():
        own = detector(batch.images)
        hit = own.map[1].flatten().argmax()
        batch.masks[1].view(-1)[hit], batch.masks[2].view(-1)[own.map[2].flatten().argmin()] = 1, 1
        module._reset(pixels_known=True)
        module._step(batch)
    assert module.own_pixels.compute() == {"hottest": 0.5}
    expected = (own.score - batch.labels).abs().mean()
    torch.testing.assert_close(module.own_images.compute()["error"], expected)


def test_a_metric_has_a_name_of_its_own_and_is_one():
    with pytest.raises(UserError, match="there is a metric pixel_auroc already"):
        EvaluationModule(tiny_detector(), own_pixel_metrics={"pixel_auroc": torchmetrics.MeanMetric()})
    with pytest.raises(UserError, match=r"the metric mine is a Linear, not a torchmetrics\.Metric"):
        EvaluationModule(tiny_detector(), own_image_metrics={"mine": torch.nn.Linear(1, 1)})


def test_a_format_of_a_package_writes_what_is_traced(opened, tmp_path, monkeypatch):
    settings = ExportSettings.compose(
        model=tmp_path / "model", format="mypkg.formats.weights_aside", output=tmp_path / "own.bin"
    )
    job = Job.from_settings(settings)
    assert job.files[0] == tmp_path / "own.bin"
    calls = []
    monkeypatch.setattr("dmdd.deploy.export.job.trace", lambda graph: "program")
    monkeypatch.setattr("mypkg.formats.weights_aside", lambda *given: calls.append(given) or "run")
    monkeypatch.setattr("mypkg.formats.weights_aside.__module__", "mypkg.formats", raising=False)
    graph = SimpleNamespace(outputs=("map", "score"))
    assert job._write(graph, job.file, {"a": 1}, None) == ("run", None)
    assert calls == [("program", job.file, ("map", "score"), {"a": 1})]
    for changes, message in (
        ({"output": None}, r"format=mypkg.formats.weights_aside: give the file to write, output=FILE"),
        ({"precision": "float16"}, r"precision=float16 needs format=onnx or format=openvino"),
        ({"format": "mypkg.formats.nosuch"}, r"mypkg.formats.nosuch cannot be imported"),
        ({"format": "other.formats.f"}, r"other.formats.f is not allowed"),
    ):
        with pytest.raises(UserError, match=message):
            Job.from_settings(replace(settings, **changes))


def test_the_categories_of_a_package_s_data_set_are_asked_of_it(opened, photos):
    assert category_names({"_target_": "mypkg.data.read_line", "root": str(photos)}) == ["lid"]
    with pytest.raises(UserError, match=r"categories of mypkg.maps.read_x are not known .*; list them: category=a,b,c"):
        category_names({"_target_": "mypkg.maps.read_x", "root": str(photos)})


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
