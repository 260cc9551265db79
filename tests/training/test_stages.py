"""What each stage may change, and that it learns."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer, seed_everything
from sklearn.metrics import roc_auc_score

from dmdd.core.errors import UserError
from dmdd.core.masks import SPOT_AREA_PX
from dmdd.data.datamodule import PairDataModule
from dmdd.data.images import read_mask
from dmdd.data.listing import Category, pool
from dmdd.data.saturation import ImageDefects
from dmdd.experiment.outputs import evaluation_entries
from dmdd.metrics import AUPRO, Channel, PixelBootstrap
from dmdd.metrics import pixel_bootstrap as bootstrap_of_pixels
from dmdd.models.detector import Detector
from dmdd.models.normal_scores import calibrate_scores
from dmdd.models.segmentation import SegmentationNetwork
from dmdd.models.student import Student
from dmdd.models.teacher import Teacher
from dmdd.models.whitening import ResidualWhitening
from dmdd.pairs import PairSynthesis
from dmdd.training import evaluation
from dmdd.training.distillation import DistillationModule
from dmdd.training.evaluation import EvaluationModule, by_baselines_of_others, choose_exact
from dmdd.training.figures import decisions_at
from dmdd.training.optimization import adamw_one_cycle
from dmdd.training.segmentation import SegmentationModule, some_of_each
from tiny import save_tiny_model

pytestmark = pytest.mark.filterwarnings(
    "ignore:The '\\w+_dataloader' does not have many workers",
    "ignore:You passed in a `val_dataloader` but have no `validation_step`",
    "ignore:Found \\d+ module\\(s\\) in eval mode",
    "ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated",
)


def quiet_trainer(steps: int = -1, **more: Any) -> Trainer:
    return Trainer(
        **more,
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0 if steps > 0 else 1.0,
        log_every_n_steps=1,
    )


@pytest.fixture
def data(demo_category) -> PairDataModule:
    return PairDataModule(
        category=demo_category,
        synthesis=PairSynthesis(procedural=1, blob=1),
        image_size=(64, 64),
        batch_size=4,
        seed=0,
    )


@pytest.fixture
def networks() -> tuple[Teacher, Student, SegmentationNetwork]:
    seed_everything(0, verbose=False)
    teacher = Teacher(backbone="resnet10t")
    student = Student(channels=teacher.channels, widths=(8, 12, 16))
    return teacher, student, SegmentationNetwork(channels=teacher.channels, width=8)


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(module.state_dict())


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_stage_1_changes_the_student_and_never_the_teacher(data, networks):
    teacher, student, _ = networks
    before, before_student = state(teacher), state(student)
    module = DistillationModule(teacher=teacher, student=student, steps=3, cached_images=12)
    quiet_trainer(3).fit(module, datamodule=data)
    assert module.cache._levels == []  # stage 2 needs the memory
    assert same(state(teacher), before)
    after = state(student)
    changed = [name for name in after if not torch.equal(after[name], before_student[name])]
    assert len(changed) == len(after)  # every weight, bias, norm and batch statistic of both branches


def test_stage_2_leaves_stage_1_bit_identical(data, networks):
    teacher, student, segmentation = networks
    quiet_trainer(2).fit(DistillationModule(teacher=teacher, student=student, steps=2), datamodule=data)
    before_teacher, before_student, before = state(teacher), state(student), state(segmentation)
    module = SegmentationModule(teacher=teacher, student=student, segmentation=segmentation, steps=3)
    quiet_trainer(3).fit(module, datamodule=data)
    assert same(state(teacher), before_teacher)
    assert same(state(student), before_student)
    assert not any(module.training for module in student.modules())
    after = state(segmentation)
    assert all(not torch.equal(after[name], before[name]) for name in after)


def test_stage_2_fits_the_whitening_to_the_trained_student_on_normal_images(data, networks):
    teacher, student, _ = networks
    quiet_trainer(2).fit(DistillationModule(teacher=teacher, student=student, steps=2), datamodule=data)
    network = SegmentationNetwork(channels=teacher.channels, width=8, inputs="whitened")
    whitening, expected = ResidualWhitening(teacher.channels), ResidualWhitening(teacher.channels)
    module = SegmentationModule(
        teacher=teacher,
        student=student,
        segmentation=network,
        steps=2,
        whitening=whitening,
        normal_images=data.training_pixels,
    )
    quiet_trainer(2).fit(module, datamodule=data)

    def features(images):
        pixels = images / 255
        found = teacher(pixels)
        return found, student(pixels, found)[0]

    with torch.no_grad():
        expected.fit(data.training_pixels[:], features, batch_size=3)
    for level in range(3):
        for found, wanted in zip(whitening.gaussian(level), expected.gaussian(level), strict=True):
            assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))
        assert not torch.allclose(whitening.gaussian(level)[1], torch.eye(teacher.channels[level]), atol=0.1)
    # A stage that goes on, or is loaded whole, has it from the state.
    assert any(name.startswith("whitening.matrix") for name in module.state_dict())


def test_images_are_taken_evenly():
    assert some_of_each([10], 4)[0].tolist() == [0, 2, 5, 7]
    assert some_of_each([10], 12)[0].tolist() == list(range(10))
    rows, kinds = some_of_each([10, 1, 6], 9)
    assert (rows.tolist(), kinds) == ([0, 3, 6, 10, 11, 13, 15], [0, 0, 0, 1, 2, 2, 2])


def test_a_weight_of_zero_trains_the_other_branch_alone(data, networks):
    teacher, student, _ = networks
    before = state(student)
    module = DistillationModule(teacher=teacher, student=student, steps=2, aim_weight=0.0, weight_decay=0.0)
    quiet_trainer(2).fit(module, datamodule=data)
    after = state(student)
    for name, _ in student.named_parameters():
        moved = not torch.equal(after[name], before[name])
        assert moved is (".abnormality." not in name), name


def test_the_same_seed_gives_the_same_weights(data, networks):
    teacher, student, _ = networks
    results = []
    for _ in range(2):
        copied = copy.deepcopy(student)
        quiet_trainer(2).fit(DistillationModule(teacher=teacher, student=copied, steps=2), datamodule=data)
        results.append(state(copied))
    assert same(*results)


@pytest.mark.parametrize("aim", ["margin", "l1"])
def test_both_losses_fall(data, networks, aim):
    teacher, student, _ = networks
    losses = []

    class Recorder(DistillationModule):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            losses.append((float(self.trainer.callback_metrics["distillation/ngm"]), loss.item()))
            return loss

    quiet_trainer(40).fit(Recorder(teacher=teacher, student=student, steps=40, aim=aim), datamodule=data)
    early, late = torch.tensor(losses[:5]).mean(0), torch.tensor(losses[-5:]).mean(0)
    assert (late < 0.8 * early).all()


def test_segmentation_loss_falls(data, networks):
    teacher, student, segmentation = networks
    quiet_trainer(30).fit(DistillationModule(teacher=teacher, student=student, steps=30), datamodule=data)
    # Large bright blobs: easy enough for random teacher features and a few steps.
    data.synthesis = PairSynthesis(procedural=1, blob=1, radius_min=0.2, radius_max=0.3, contrast_min=0.5)
    losses = []

    class Recorder(SegmentationModule):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            losses.append(loss.item())
            return loss

    module = Recorder(teacher=teacher, student=student, segmentation=segmentation, steps=80)
    quiet_trainer(80).fit(module, datamodule=data)
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aim": "l2"}, r"distillation.aim=l2: choose one of margin, l1"),
        ({"aim_weight": -1.0}, r"ngm_weight and aim_weight must be at least 0, and not both 0"),
        ({"aim_weight": 0.0, "ngm_weight": 0.0}, r"ngm_weight and aim_weight must be at least 0, and not both 0"),
    ],
)
def test_settings_out_of_range(networks, changes, message):
    teacher, student, _ = networks
    with pytest.raises(UserError, match=message):
        DistillationModule(teacher=teacher, student=student, steps=1, **changes)


class KnownDetector(torch.nn.Module):
    """Scores an image by its mean brightness, everywhere the same."""

    anomaly_map = score_map = "segmentation"
    map_names = ("segmentation", "normality", "both")
    tiling, score_smoothed = None, False

    def __init__(self) -> None:
        super().__init__()
        self.calibration = {}

    def raw_maps(self, images, *, only):
        level = images.float().mean((1, 2, 3), keepdim=True) / 255
        return {name: level.expand(-1, 1, *images.shape[-2:]).contiguous() for name in only}

    def smooth(self, raw):
        return raw

    def image_score(self, name, raw):
        return raw.flatten(1).amax(1)


def test_calibration_uses_the_held_out_scores_and_how_training_images_scatter(data):
    detector = KnownDetector()
    data.held_out_fraction = 0.75  # 9 of 12
    data.setup("fit")
    wide = torch.arange(20, 240, 20, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 64, 64)
    thresholds = {}
    for name, training in (("none", None), ("wide", wide)):
        module = EvaluationModule(detector, false_alarm_rate=0.2, study_maps=False, training_images=training)
        quiet_trainer().validate(module, datamodule=data, verbose=False)
        thresholds[name] = detector.calibration["image_threshold"]
    normal = sorted(score for index, _, score in module.scores if index >= 0)
    calibration = detector.calibration
    assert calibration["normal_images"] == len(normal) == 9
    assert module.training_scores == pytest.approx([level / 255 for level in range(20, 240, 20)])
    assert normal[4] < thresholds["none"] < thresholds["wide"]
    assert calibration["image_false_alarm_rate"] == pytest.approx(0.2, abs=1e-3)
    low, high = calibration["image_false_alarm_interval"]
    assert 0 <= low < 0.2 < high <= 1
    assert 0 <= calibration["pixel_threshold"] <= 1
    assert calibration["typical_peak"] == pytest.approx(normal[4], abs=1 / 4096)
    assert calibration["spot_area_px"] == SPOT_AREA_PX
    twins = [score for _, label, score in module.scores if label]
    found = sum(score >= calibration["image_threshold"] for score in twins) / len(twins)
    assert calibration["anomalous_found"] == pytest.approx(found)
    # The brightest image counts for less where it looks strange as well.
    before, own = module.intruders, {index: score for index, label, score in module.scores if label == 0 and index >= 0}
    brightest = max(own, key=own.__getitem__)
    module.strangeness = [8.0 * (index == brightest) for index in range(9)]
    quiet_trainer().validate(module, datamodule=data, verbose=False)
    assert module.intruders[brightest] > 2 * before[brightest] > 0
    assert sorted(module.intruders) == sorted(before) == list(range(9))
    assert module.intruders[min(own, key=own.__getitem__)] == 0  # whatever scores low
    assert detector.calibration["image_threshold"] < thresholds["wide"]


def test_unchanged_twins_are_no_more_normal_images(data):
    detector = KnownDetector()
    data.held_out_fraction = 0.75
    data.synthesis = PairSynthesis(procedural=1, blob=1, empty_rate=0.5)
    module = EvaluationModule(detector, false_alarm_rate=0.2, study_maps=False)
    quiet_trainer().validate(module, datamodule=data, verbose=False)
    assert sum(label == 0 for _, label, _ in module.scores) > 9
    assert detector.calibration["normal_images"] == 9


def test_a_normal_image_is_held_against_the_levels_of_the_others():
    scores = torch.tensor([0.2, 0.5, 0.8, 0.4], dtype=torch.float64)
    levels = torch.tensor([0.01, 0.04, 0.09, 0.04], dtype=torch.float64)
    found = by_baselines_of_others(scores, levels, 0.5)
    # 0.2 = 0.25 / 1.25 and 0.25 * sqrt(0.01 / 0.04) = 0.125; 0.8 = 4 / 5 and 4 * sqrt(0.09 / 0.04) = 6
    assert found.tolist() == pytest.approx([0.125 / 1.125, 0.5, 6 / 7, 0.4])
    assert by_baselines_of_others(scores, torch.full((4,), 0.3), 0.5).tolist() == scores.tolist()
    assert by_baselines_of_others(scores[:1], levels[:1], 0.5).tolist() == [0.2]
    assert by_baselines_of_others(scores[:2], levels[:2], 1.0).tolist() == pytest.approx([0.0625 / 1.0625, 0.8])


def test_levels_of_others_give_the_scores_of_a_detector_that_never_saw_the_image(tmp_path):
    detector = Detector.load(save_tiny_model(tmp_path))
    images = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    images[0], images[4] = images[0] // 4, images[4] // 2 + 120
    levels = detector.learn_baselines(images, batch_size=2)[detector.score_map]
    found = by_baselines_of_others(score(detector, images).double(), levels.double(), detector.baseline_power)
    for place in range(5):
        detector.learn_baselines(images[[other for other in range(5) if other != place]], batch_size=4)
        assert float(found[place]) == pytest.approx(float(score(detector, images[[place]])), rel=1e-4)


def score(detector, images):
    with torch.no_grad():
        return detector.image_score(detector.score_map, detector.raw_maps(images)[detector.score_map])


def test_calibration_says_when_the_wanted_rate_cannot_be_had(data):
    detector = KnownDetector()
    data.held_out_fraction = 0.25  # 3 of 12
    quiet_trainer().validate(EvaluationModule(detector, false_alarm_rate=0.01), datamodule=data, verbose=False)
    calibration = detector.calibration
    assert calibration["promised"] is False
    assert calibration["promise"].startswith("1 % false alarms cannot be promised with 3 good images: expect between")


@pytest.fixture
def two_kinds(demo_category) -> Category:
    """The demo's images as those of two categories."""
    parts = [
        replace(demo_category, name=name, train=demo_category.train[first::2], test=demo_category.test[first::2])
        for first, name in enumerate(("left", "right"))
    ]
    return pool(parts, name="all")


def test_each_category_is_calibrated_as_it_is_by_itself(two_kinds):
    data = PairDataModule(
        category=two_kinds,
        synthesis=PairSynthesis(procedural=1, blob=1),
        image_size=(64, 64),
        batch_size=4,
        seed=0,
        held_out_fraction=0.5,
    )
    data.setup("fit")
    detector = KnownDetector()
    detector.category_calibrations = {}
    training = torch.arange(20, 140, 20, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 64, 64)
    module = EvaluationModule(
        detector,
        held_out_categories=data.held_out_members,
        training_categories=data.trained_members,
        training_images=training,
        false_alarm_rate=0.2,
        study_maps=False,
    )
    quiet_trainer().validate(module, datamodule=data, verbose=False)
    assert (detector.calibration["normal_images"], set(detector.category_calibrations)) == (6, {"left", "right"})
    normal = {index: score for index, _, score in module.scores if index >= 0}
    for first, name in ((0, "left"), (3, "right")):
        known = calibrate_scores(
            [normal[index] for index in range(first, first + 3)],
            rate=0.2,
            training=[level / 255 for level in range(20 * (first + 1), 20 * (first + 4), 20)],
        )
        found = detector.category_calibrations[name]
        assert found["image_threshold"] == pytest.approx(known["image_threshold"])
        twins = [s for i, label, s in module.scores if label and (-1 - i) % 6 // 3 == first // 3]
        assert found["anomalous_found"] == pytest.approx(
            sum(score >= found["image_threshold"] for score in twins) / len(twins)
        )


def test_figures_of_each_category_are_those_of_its_images_alone(two_kinds):
    thresholds = {
        "left": {"image_threshold": 0.3, "pixel_threshold": 0.3},
        "right": {"image_threshold": 0.5, "pixel_threshold": 0.45},
    }

    def measure(category: Category, calibration: dict[str, Any]) -> EvaluationModule:
        detector = KnownDetector()
        detector.calibration, detector.category_calibrations = calibration, thresholds
        module = EvaluationModule(
            detector,
            defects=[sample.defect for sample in category.test],
            categories=[sample.category for sample in category.test],
            resamples=20,
            study_maps=False,
        )
        data = PairDataModule(
            category=category, synthesis=PairSynthesis(procedural=1, blob=1), image_size=(64, 64), batch_size=4, seed=0
        )
        quiet_trainer().test(module, datamodule=data, verbose=False)
        return module

    whole = measure(two_kinds, {"image_threshold": 0.4})
    entries = evaluation_entries(whole, "test", listed=len(two_kinds.test))
    assert set(entries["categories"]) == {"left", "right"}
    for name, entry in entries["categories"].items():
        own = [sample for sample in two_kinds.test if sample.category == name]
        alone = measure(replace(two_kinds, test=tuple(replace(s, category="") for s in own)), thresholds[name])
        assert entry["metrics"] == pytest.approx(alone.metrics)
        assert entry["intervals_95"] == {n: pytest.approx(list(found)) for n, found in alone.intervals.items()}
        assert entry["decisions"] == alone.decisions._asdict()
        assert alone.categories == {}
    left, right = (entries["categories"][name]["metrics"]["image_auroc"] for name in ("left", "right"))
    assert entries["category_mean"]["image_auroc"] == pytest.approx((left + right) / 2)
    assert whole.decisions == decisions_at(whole.scores, 0.4)


def test_a_part_is_as_anomalous_as_its_worst_view(data, demo_category):
    detector = KnownDetector()
    detector.calibration = {"image_threshold": 0.4}
    names = [f"part {index // 2}" for index in range(len(demo_category.test))]
    defects = [sample.defect for sample in demo_category.test]
    module = EvaluationModule(detector, defects=defects, parts=names, resamples=20, study_maps=False)
    quiet_trainer().test(module, datamodule=data, verbose=False)
    pairs = [module.scores[first : first + 2] for first in range(0, len(names), 2)]
    labels = [max(label for _, label, _ in pair) for pair in pairs]
    largest = [max(score for *_, score in pair) for pair in pairs]
    assert module.metrics["part_auroc"] == pytest.approx(roc_auc_score(labels, largest))
    alarms = [score >= 0.4 for score, label in zip(largest, labels, strict=True) if not label]
    assert module.metrics["part_false_alarm_rate"] == pytest.approx(sum(alarms) / len(alarms))
    low, high = module.intervals["part_auroc"]
    assert low <= module.metrics["part_auroc"] <= high


def test_test_scores_every_image_and_leaves_pixel_metrics_out_without_masks(data, demo_category):
    module = EvaluationModule(KnownDetector(), has_masks=False)
    quiet_trainer().test(module, datamodule=data, verbose=False)
    assert [index for index, _, _ in module.scores] == list(range(len(demo_category.test)))
    assert [label for _, label, _ in module.scores] == [sample.label for sample in demo_category.test]
    image = {"image_auroc", "image_ap", "image_f1_max", "image_recall_at_fpr_1", "image_recall_at_fpr_5"}
    assert set(module.metrics) == image
    assert set(module.study["normality"]) == {"image_auroc"}


def test_metrics_of_a_known_detector(data, demo_category):
    defects = [sample.defect for sample in demo_category.test]
    module = EvaluationModule(KnownDetector(), defects=defects)
    quiet_trainer().test(module, datamodule=data, verbose=False)
    scores = {label: [score for _, given, score in module.scores if given == label] for label in (0, 1)}
    wins = sum((a > n) + 0.5 * (a == n) for a in scores[1] for n in scores[0])
    assert module.metrics["image_auroc"] == pytest.approx(wins / (len(scores[0]) * len(scores[1])))
    assert set(module.types) == {"good", "scratch", "dent", "stain", "missing_piece"}
    threshold = 0.3
    assert "images_found" not in module.types["dent"]  # no thresholds yet
    detector = KnownDetector()
    detector.calibration = {"image_threshold": threshold, "pixel_threshold": threshold}
    module = EvaluationModule(detector, defects=defects, resamples=50)
    quiet_trainer().test(module, datamodule=data, verbose=False)
    for name, row in module.types.items():
        own = [score for index, _, score in module.scores if defects[index] == name]
        assert row["images"] == len(own)
        assert row["images_found"] == pytest.approx(sum(score >= threshold for score in own) / len(own))
    assert set(module.intervals) == set(module.metrics)
    for name, (low, high) in module.intervals.items():
        assert 0 <= low <= module.metrics[name] <= high <= 1, name
        assert low < high, name
    for name, intervals in module.type_intervals.items():
        assert set(intervals) == set(module.types[name]) - {"images"}, name
        for metric, (low, high) in intervals.items():
            assert low <= module.types[name][metric] <= high, (name, metric)
    found = sum(score >= threshold for score in scores[1])
    assert module.decisions[:3:2] == (found, len(scores[1]) - found)
    assert module.metrics["image_recall"] == pytest.approx(found / len(scores[1]))
    assert module.left_out == {"aupro_per_image_200": len(scores[1])}  # every map is constant
    masks = [read_mask(sample.mask_path) if sample.mask_path else None for sample in demo_category.test]
    shares = [0.0 if mask is None else mask.mean() for mask in masks]
    found = [share for share, (*_, score) in zip(shares, module.scores, strict=True) if score >= threshold]
    assert module.metrics["pixel_f1"] == pytest.approx(2 * sum(found) / (len(found) + sum(shares)), rel=0.05)
    lower, upper = module.bounds["pixel_auroc"]
    assert lower <= module.metrics["pixel_auroc"] <= upper
    assert module.study["both"]["pixel_auroc"] == pytest.approx(module.metrics["pixel_auroc"], abs=1e-6)
    module.setup("validate")
    assert (module.decisions, module.left_out, module.type_intervals) == (None, {}, {})


def test_many_types_are_counted_without_pixel_figures(data, demo_category, monkeypatch):
    defects = [f"SN{i}" if sample.label else "good" for i, sample in enumerate(demo_category.test)]
    detector = KnownDetector()
    detector.calibration = {"image_threshold": 0.3, "pixel_threshold": 0.3}
    module = EvaluationModule(detector, defects=defects)
    quiet_trainer().test(module, datamodule=data, verbose=False)
    assert "pixels_found" in module.types[next(name for name in defects if name != "good")]
    monkeypatch.setattr(evaluation, "MAX_TYPES", 2)
    with pytest.warns(UserWarning, match="pixel figures by type are left out"):
        quiet_trainer().test(module, datamodule=data, verbose=False)
    assert set(module.types) == set(defects)
    image = {"images", "images_found", "image_auroc"}
    assert all(set(row) == image for name, row in module.types.items() if name != "good")


def test_figures_of_loco_are_those_of_each_type_with_the_normal_images(data, demo_category, monkeypatch):
    # every second anomalous image is called logical; each has two halves as defects, of which a pixel suffices
    kinds = iter(["logical_anomalies", "structural_anomalies"] * len(demo_category.test))
    defects = [next(kinds) if sample.label else "good" for sample in demo_category.test]
    halves = np.arange(12).reshape(3, 4) % 4 < 2

    def read(index):
        return ImageDefects(
            (3, 4), [Channel(halves, 1), Channel(~halves, 1)] if demo_category.test[index].label else []
        )

    class DarkDetector(KnownDetector):
        def raw_maps(self, images, *, only):
            return {name: 1 - level for name, level in super().raw_maps(images, only=only).items()}

    exchanges, sync = [], PixelBootstrap.sync_context
    monkeypatch.setattr(PixelBootstrap, "sync_context", lambda metric: exchanges.append(metric) or sync(metric))
    module = EvaluationModule(DarkDetector(), defects=defects, resamples=20, read_defects=read)
    quiet_trainer().test(module, datamodule=data, verbose=False)
    for short in ("logical", "structural"):
        own = [defect in ("good", f"{short}_anomalies") for defect in defects]
        scores = [score for (_, _, score), chosen in zip(module.scores, own, strict=True) if chosen]
        labels = [label for (_, label, _), chosen in zip(module.scores, own, strict=True) if chosen]
        assert module.metrics[f"image_auroc_{short}"] == pytest.approx(roc_auc_score(labels, scores))
        # constant maps, no normal pixel in an anomalous image: sPRO is the curve of these scores up to a rate of 0.05
        metric = AUPRO(0.05, exact=True)
        maps, masks = torch.tensor(scores)[:, None, None], torch.tensor(labels)[:, None, None]
        metric.update(maps, masks)
        assert module.metrics[f"au_spro_5_{short}"] == pytest.approx(float(metric.compute()), abs=1e-4)
        assert module.types[f"{short}_anomalies"]["au_spro_5"] == module.metrics[f"au_spro_5_{short}"]
    for metric in ("image_auroc", "au_spro_5"):
        parts = [module.metrics[f"{metric}_{short}"] for short in ("logical", "structural")]
        assert module.metrics[f"{metric}_loco"] == pytest.approx(sum(parts) / 2)
        low, high = module.intervals[f"{metric}_loco"]
        assert low < sum(parts) / 2 < high, metric
    assert set(module.intervals) == set(module.metrics)
    # Another device than the first draws no intervals, but has its part in each exchange: the first would wait for it.
    wanted, metrics = len(exchanges), module.metrics
    monkeypatch.setattr(Trainer, "is_global_zero", property(lambda trainer: False))
    monkeypatch.setattr(bootstrap_of_pixels, "resample", None)
    quiet_trainer().test(module, datamodule=data, verbose=False)
    assert (module.intervals, module.type_intervals, module.metrics) == ({}, {}, metrics)
    assert len(exchanges) == 2 * wanted == 8


def test_small_test_sets_are_measured_exactly(demo_category, monkeypatch):
    samples = demo_category.test
    assert choose_exact(None, samples, size=(64, 64))
    assert choose_exact(None, samples, size=None)
    monkeypatch.setattr(evaluation, "EXACT_PIXELS", len(samples) * 64 * 64)
    assert choose_exact(None, samples, size=(64, 64))
    assert not choose_exact(None, samples, size=None)  # 128 x 128
    assert not choose_exact(False, samples, size=(64, 64))
    with pytest.raises(UserError, match=r"evaluation\.exact=yes: give true, false or null"):
        choose_exact("yes", samples, size=(64, 64))
    assert EvaluationModule(KnownDetector(), exact=True).pixel_metrics["pixel_auroc"].exact


def test_native_masks_are_compared_at_their_own_size(data, demo_category):
    defects = [sample.defect for sample in demo_category.test]
    data.native_masks = True
    module = EvaluationModule(KnownDetector(), defects=defects, resamples=20)
    quiet_trainer().test(module, datamodule=data, verbose=False)
    # Every map is constant, so only the share of anomalous pixels in each native image matters: by hand from the files.
    rows = []
    for (index, _, score), sample in zip(module.scores, demo_category.test, strict=True):
        size = (128, 128)
        mask = np.zeros(size, bool) if sample.mask_path is None else read_mask(sample.mask_path, size=size)
        rows.append((score, int(mask.sum()), int((~mask).sum()), index))
    wins = sum(a * n * ((s > t) + 0.5 * (s == t)) for s, a, _, _ in rows for t, _, n, _ in rows)
    total = sum(a for _, a, _, _ in rows) * sum(n for _, _, n, _ in rows)
    lower, upper = module.bounds.get("pixel_auroc", (module.metrics["pixel_auroc"],) * 2)
    assert lower - 1e-9 <= wins / total <= upper + 1e-9
    assert set(module.intervals) >= {"pixel_auroc", "aupro_30", "image_auroc"}
    assert set(module.types) == set(defects)


@pytest.mark.parametrize("steps", [1, 2, 8, 9, 10, 100])
def test_the_learning_rate_rises_and_falls_in_stages_of_any_length(steps):
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    found = adamw_one_cycle([parameter], learning_rate=1.0, weight_decay=0.0, steps=steps)
    optimizer, schedule = found["optimizer"], found["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(1 / 25)
    assert max(rates) <= 1 + 1e-12
    if steps > 1:
        assert max(rates) > 0.9
        assert rates[-1] < 0.5 or steps == 2


def test_figures_of_one_phase_are_never_those_of_another(data, demo_category):
    data.held_out_fraction = 0.25  # 3 of 12
    listed = len(demo_category.test)
    module = EvaluationModule(
        KnownDetector(), defects=[sample.defect for sample in demo_category.test], study_maps=False
    )
    quiet_trainer().validate(module, datamodule=data, verbose=False)
    assert evaluation_entries(module, "validation", listed=data.validation_images)["metrics"] == module.metrics != {}
    with pytest.raises(UserError, match="the test measured validation, so no result is written"):
        evaluation_entries(module, "test", listed=6)
    with pytest.raises(UserError, match=r"the validation scored \d+ of 8 images, so no result is written"):
        evaluation_entries(module, "validation", listed=8)
    # A trainer that serves no batch calls nothing of the epoch, and the figures would be those of before.
    quiet_trainer(limit_test_batches=0).test(module, datamodule=data, verbose=False)
    assert (module.metrics, module.types, module.curves, module.scores, module.decisions) == ({}, {}, {}, [], None)
    with pytest.raises(UserError, match="the test measured nothing, so no result is written"):
        evaluation_entries(module, "test", listed=listed)


@pytest.mark.parametrize("batches", [1, 2])
def test_a_part_of_the_test_images_makes_no_result(data, demo_category, batches):
    data.evaluation_batch_size = 5
    module = EvaluationModule(
        KnownDetector(), defects=[sample.defect for sample in demo_category.test], study_maps=False, resamples=20
    )
    quiet_trainer(limit_test_batches=batches).test(module, datamodule=data, verbose=False)
    with pytest.raises(UserError, match=f"the test scored {5 * batches} of 12 images, so no result"):
        evaluation_entries(module, "test", listed=len(demo_category.test))
    quiet_trainer().test(module, datamodule=data, verbose=False)
    assert evaluation_entries(module, "test", listed=12)["types"]["good"] == {"images": 4}


def test_images_that_count_more_often_than_others_make_no_result(data, demo_category):
    module = EvaluationModule(KnownDetector(), study_maps=False)
    listed = list(range(len(demo_category.test)))
    data._own_part = lambda count: [*listed, 0, 1]  # as a sampler does that fills up the last device's share
    quiet_trainer().test(module, datamodule=data, verbose=False)
    with pytest.raises(UserError, match="scored 12 of 12 images, some of them more often than others"):
        evaluation_entries(module, "test", listed=len(listed))
    data._own_part = lambda count: [*listed, *listed]  # all equally often: no figure changes
    quiet_trainer().test(module, datamodule=data, verbose=False)
    assert evaluation_entries(module, "test", listed=len(listed))["metrics"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"false_alarm_rate": 1}, r"evaluation.false_alarm_rate=1: give a number between 0 and 1"),
        ({"resamples": True}, r"evaluation.resamples=True: give a whole number from 0"),
        ({"resamples": -1}, r"evaluation.resamples=-1: give a whole number from 0"),
    ],
)
def test_an_evaluation_out_of_its_range_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        EvaluationModule(KnownDetector(), **settings)
