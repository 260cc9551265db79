"""What a GPU would refuse or wait for, found without one; see gpu_stand_in."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from lightning import LightningModule, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import SingleDeviceStrategy
from omegaconf import OmegaConf
from torch.distributed.utils import _recursive_to

import dmdd
import gpu_stand_in
from dmdd.data import datamodule
from dmdd.data.augmentation import build_augmentation
from dmdd.data.datamodule import PairDataModule
from dmdd.data.datasets import PairBatch, PlannedBatch
from dmdd.data.sampling import PairSampler
from dmdd.experiment.pictures import write_pictures
from dmdd.models.detector import Detector
from dmdd.models.segmentation import SegmentationNetwork
from dmdd.models.student import Student
from dmdd.models.teacher import Teacher
from dmdd.pairs.synthesis import MASKS, SOURCES, PairSynthesis
from dmdd.training.callbacks.divergence import LossGuard
from dmdd.training.callbacks.progress import StageProgress
from dmdd.training.distillation import DistillationModule
from dmdd.training.evaluation import EvaluationModule
from dmdd.training.segmentation import SegmentationModule
from gpu_stand_in import GPU, StandIn, stand_in_gpu
from tiny import THRESHOLDS, draw_pixels, save_tiny_model

REPOSITORY = Path(__file__).resolve().parents[2]

CPU = torch.device("cpu")
STEPS = 6


def serve(category: Any, synthesis: PairSynthesis, **more: Any) -> tuple[PairDataModule, list[PlannedBatch]]:
    data = PairDataModule(category=category, synthesis=synthesis, image_size=(64, 64), batch_size=4, seed=0, **more)
    data.setup("fit")
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        training=True,
        global_rank=0,
        world_size=1,
        max_steps=STEPS,
        global_step=0,
        strategy=SimpleNamespace(root_device=GPU),
    )
    sampler = PairSampler(images=data.training_images, batch_size=4, first_step=0, steps=STEPS, seed=0)
    return data, list(data.planned(sampler, CPU))


def pairs_of(data: PairDataModule, batch: Any, device: torch.device) -> Any:
    return data.on_after_batch_transfer(data.transfer_batch_to_device(batch, device, 0), 0)


def on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    assert isinstance(tensor, StandIn)
    return tensor.held


def test_the_stand_in_refuses_and_notes_what_a_gpu_would():
    with stand_in_gpu() as waits:
        there, here = torch.ones(3, device=GPU), torch.ones(3)
        assert there.device == GPU
        assert (there * 2 + torch.tensor(1.0)).device == GPU  # a number may be anywhere
        for mixing in (lambda: there + here, lambda: here.add_(there), lambda: torch.cat([there, here]), there.numpy):
            with pytest.raises((RuntimeError, TypeError), match=r"same device|can't convert"):
                mixing()
        assert waits == []
        there.to(GPU), here.to(GPU, non_blocking=True), there[there.long() - 1]
        assert waits == []
        (
            here.to(GPU),
            there.cpu(),
            float(there.sum()),
            there.nonzero(),
            there[here.long() - 1],
            torch.tensor([1.0]).to(GPU),
        )
        assert len(waits) == 6
        there[there > 0], there.long().bincount(), there.masked_select(there > 0)
        assert len(waits) == 9


@pytest.mark.parametrize("kind", MASKS)
def test_pairs_are_made_there_as_here_and_nothing_waits(demo_category, kind):
    """The GPU's code draws whole images, the CPU's windows; the pairs are the same ones."""
    data, batches = serve(demo_category, PairSynthesis(**dict.fromkeys((*SOURCES, kind), 1.0) | {"dtd": 0.0}))
    with stand_in_gpu() as waits:
        moved = [data.transfer_batch_to_device(batch, GPU, 0) for batch in batches]
        waits.clear()  # Lightning moves pinned batches without waiting
        found = [data.on_after_batch_transfer(batch, 0) for batch in moved]
        assert waits == []
    for batch, pairs in zip(batches, found, strict=True):
        expected = data.make_pairs(batch)
        assert ((on_cpu(pairs.mask) != expected.mask).sum()) <= 2  # rounding at an outline
        assert ((on_cpu(pairs.anomalous) - expected.anomalous).abs() > 1e-4).sum() <= 6


@pytest.mark.parametrize(("at_once", "most"), [((256, 1), 1900), ((256, 32), 420)])
def test_pairs_of_several_steps_share_their_launches(demo_category, monkeypatch, at_once, most):
    """Counted, since nothing else can be here: a launch takes the host about 5 us, whatever the kernel does."""
    monkeypatch.setitem(datamodule.AT_ONCE, "gpu", at_once)
    synthesis = instantiate(OmegaConf.load(REPOSITORY / "conf" / "pairs" / "mix.yaml"))
    jitter = build_augmentation(scale=0.05, rotate_degrees=10, brightness=0.1)
    data, _ = serve(demo_category, synthesis, augmentation=jitter)
    sampler = PairSampler(images=data.training_images, batch_size=4, first_step=0, steps=STEPS, seed=0)
    expected = list(data.serve(sampler, CPU))
    with stand_in_gpu() as waits:
        served = data.serve(sampler, GPU)
        waits.clear()  # the images are moved once
        gpu_stand_in.LAUNCHES.clear()
        found = list(served)
        assert waits == []
    assert len(found) == STEPS
    assert gpu_stand_in.LAUNCHES.total() / STEPS < most
    for here, there in zip(expected, found, strict=True):
        assert torch.allclose(on_cpu(there.normal), here.normal, rtol=0, atol=1e-5)
        assert there.indices == here.indices


def test_images_are_jittered_there_as_here_and_nothing_waits(demo_category):
    settings = {
        "scale": 0.05,
        "shift": 0.04,
        "rotate_degrees": 10,
        "flip_share": 0.5,
        "brightness": 0.1,
        "contrast": 0.1,
    }
    jitter = build_augmentation(**settings, steps=STEPS, batch_size=4)
    data, batches = serve(demo_category, PairSynthesis(tone=1, blob=1), augmentation=jitter)
    with stand_in_gpu() as waits:
        moved = [data.transfer_batch_to_device(batch, GPU, 0) for batch in batches]
        waits.clear()
        found = [data.jittered(batch) for batch in moved]
        assert waits == []
    for batch, there in zip(batches, found, strict=True):
        here = data.jittered(batch)
        assert torch.allclose(on_cpu(there.images), here.images, rtol=0, atol=1e-5)
        assert torch.equal(on_cpu(there.foreground), here.foreground)
        assert not torch.equal(here.images, batch.images / 255)


def networks(category: Any) -> tuple[PairDataModule, list[PlannedBatch], Detector]:
    configured = OmegaConf.load(REPOSITORY / "conf" / "pairs" / "mix.yaml")
    data, batches = serve(category, instantiate(configured))
    torch.manual_seed(0)
    teacher = Teacher(backbone="resnet10t")
    detector = Detector(
        teacher=teacher,
        student=Student(channels=teacher.channels, widths=(8, 12, 16)),
        segmentation=SegmentationNetwork(channels=teacher.channels, width=8),
        input_size=(64, 64),
    )
    return data, batches, detector.to(memory_format=torch.channels_last)


def as_ddp_hands_on(batch: PairBatch, device: torch.device) -> PairBatch:
    """With several GPUs the training step gets everything moved to its own."""
    (moved,) = _recursive_to(batch, device, use_side_stream_for_tensor_copies=False)
    return moved


def as_lightning_logs(module: LightningModule, name: str, value: Any, **settings: Any) -> None:
    assert name
    if not isinstance(value, torch.Tensor):
        torch.tensor(value, device=module.device)


def losses(category: Any, device: torch.device, monkeypatch: pytest.MonkeyPatch, waits: list[str]) -> list[float]:
    monkeypatch.setattr(LightningModule, "log", as_lightning_logs)
    monkeypatch.setattr(
        LightningModule, "log_dict", lambda self, values, **_: [self.log(*item) for item in values.items()]
    )
    data, batches, detector = networks(category)
    parts = {"teacher": detector.teacher, "student": detector.student}
    stages = (
        DistillationModule(**parts, steps=STEPS, cached_images=data.training_images),
        SegmentationModule(**parts, segmentation=detector.segmentation, steps=STEPS),
    )
    found = []
    for stage in stages:
        optimizer = SimpleNamespace(param_groups=[{"lr": 1e-3}])
        stage._trainer = SimpleNamespace(world_size=1, log_every_n_steps=1, global_step=0, optimizers=[optimizer])  # type: ignore[assignment]
        stage.to(device).setup("fit")
        given = [as_ddp_hands_on(pairs_of(data, batch, device), device) for batch in batches]
        waits.clear()
        found += [stage.training_step(pairs, step).detach() for step, pairs in enumerate(given)]
        assert waits == []
    return [float(loss) for loss in found]


def test_both_stages_compute_their_losses_there_and_wait_for_nothing(demo_category, monkeypatch):
    expected = losses(demo_category, CPU, monkeypatch, [])
    with stand_in_gpu() as waits:
        assert losses(demo_category, GPU, monkeypatch, waits) == pytest.approx(expected, rel=1e-4)


class AnyDevice(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        """Take the stand-in for a CPU."""


class WaitsOfSteps(Callback):
    """Remember what each step waited for, from the end of the step before to its own."""

    def __init__(self, waits: list[str]) -> None:
        self.waits, self.steps = waits, []

    def on_train_batch_end(self, *_: Any) -> None:
        self.steps.append(list(self.waits))
        self.waits.clear()


def fit_there(stage: LightningModule, data: PairDataModule, folder: Any, waits: list[str], *, steps: int) -> list[Any]:
    """Run Lightning's own loop; gives what each step waited for."""

    def backward(loss: torch.Tensor) -> None:  # a stand-in has no backward pass
        for parameter in stage.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None

    stage.backward = backward  # type: ignore[assignment]
    noted = WaitsOfSteps(waits)
    guard = LossGuard("stage", images_of_step=lambda step: [], file=folder / "none")
    trainer = Trainer(
        strategy=SingleDeviceStrategy(device=GPU, accelerator=AnyDevice()),
        max_steps=steps,
        log_every_n_steps=steps,
        logger=CSVLogger(folder),
        enable_checkpointing=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[StageProgress(every_n_steps=steps), guard, noted],
    )
    trainer.fit(stage, datamodule=data)
    assert trainer.global_step == steps
    return noted.steps


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_a_step_of_a_real_fit_reads_nothing_back(demo_category, tmp_path):
    """What Lightning does with the losses counts too: values for a progress bar are read in every step."""
    data, _, detector = networks(demo_category)
    parts = {"teacher": detector.teacher, "student": detector.student}
    steps = 8  # of which the last is logged and shown
    stages = (
        DistillationModule(**parts, steps=steps, cached_images=data.training_images),
        SegmentationModule(**parts, segmentation=detector.segmentation, steps=steps),
    )
    for stage in stages:
        with stand_in_gpu() as waits:
            _, *rest, last = fit_there(stage, data, tmp_path / type(stage).__name__, waits, steps=steps)
        assert rest == [[]] * (steps - 2)
        assert last  # the counter counts


def measure(category: Any, device: torch.device) -> EvaluationModule:
    data, _, detector = networks(category)
    data.trainer.training = False  # type: ignore[union-attr]
    defects = [sample.defect for sample in category.test]
    module = EvaluationModule(detector, defects=defects, normal_images=data.held_out_pixels, resamples=20)
    strategy = SimpleNamespace(broadcast=lambda value: value)
    module._trainer = SimpleNamespace(world_size=1, is_global_zero=True, strategy=strategy)  # type: ignore[assignment]
    module.to(device).eval()
    with torch.no_grad():
        module.on_validation_epoch_start()
        for step, batch in enumerate(data.val_dataloader()):
            module.validation_step(pairs_of(data, batch, device), step)
        module.on_validation_epoch_end()
        module.on_test_epoch_start()
        for step, batch in enumerate(data.test_dataloader()):
            module.test_step(pairs_of(data, batch, device), step)
        module.on_test_epoch_end()
    return module


def test_calibration_and_test_give_there_what_they_give_here(demo_category):
    expected = measure(demo_category, CPU)
    with stand_in_gpu():
        found = measure(demo_category, GPU)
    assert found.metrics == pytest.approx(expected.metrics, abs=1e-4)
    assert found.detector.calibration["image_threshold"] == pytest.approx(
        expected.detector.calibration["image_threshold"], rel=1e-4
    )
    assert [score[:2] for score in found.scores] == [score[:2] for score in expected.scores]
    assert found.types.keys() == expected.types.keys()
    assert found.intervals.keys() == expected.intervals.keys()
    assert found.curves.keys() == expected.curves.keys()


@pytest.mark.parametrize("tiling", [{}, {"tile": True, "tile_px": 64, "overlap": 0.25}], ids=["whole", "tiled"])
def test_a_predictor_finds_there_what_it_finds_here(tmp_path, tiling, monkeypatch):
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)  # in which the stand-in can make no views of weights
    images = [draw_pixels(seed, height=90, width=130) for seed in range(3)]
    folder = save_tiny_model(tmp_path / "model")
    expected = dmdd.load(folder, device="cpu", **tiling)(images)
    with stand_in_gpu():
        predictor = dmdd.load(folder, device="cuda", **tiling)
        found = predictor(images)
        assert predictor.device == torch.device("cuda")
    for here, there in zip(expected, found, strict=True):
        assert there.score == pytest.approx(here.score, abs=1e-5)
        assert there.map == pytest.approx(here.map, abs=1e-5)


def test_what_was_trained_there_is_saved_and_pictured(tmp_path, demo_category):
    _, _, detector = networks(demo_category)
    detector.calibration = THRESHOLDS
    weights = {name: value.clone() for name, value in detector.state_dict().items()}
    with stand_in_gpu():
        detector.to(GPU)
        scores = [(index, sample.label, 0.5) for index, sample in enumerate(demo_category.test)]
        drawn = write_pictures(
            tmp_path / "images", detector=detector, samples=demo_category.test, scores=scores, count=3, device=GPU
        )
        detector.save(tmp_path / "model")
    assert all(picture.file.is_file() for picture in drawn)
    assert len(drawn) >= 3
    saved = dmdd.load(tmp_path / "model", device="cpu").detector.state_dict()
    assert all(torch.equal(saved[name], value) for name, value in weights.items())
