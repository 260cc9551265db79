"""One run: parts built from the configuration, two stages of training, calibration, test, and what is written."""

import logging
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, WandbLogger
from omegaconf import DictConfig, OmegaConf

from dmdd import results, runtime
from dmdd.config import build
from dmdd.data.datamodule import PairDataModule
from dmdd.data.listing import Category
from dmdd.models.detector import Detector
from dmdd.pictures import write_curves, write_pictures
from dmdd.training.distillation import DistillationModule
from dmdd.training.evaluation import EvaluationModule
from dmdd.training.segmentation import SegmentationModule

# What Lightning says of things we do on purpose.
EXPECTED_WARNINGS = (
    r"Found \d+ module\(s\) in eval mode",  # the teacher, and in stage 2 the student
    r"Experiment logs directory .* exists and is not empty",  # the run folder is ours, stage 2 continues stage 1's log
    r"You passed in a `val_dataloader` but have no `validation_step`",  # pairs for calibration, after training
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"The '\w+_dataloader' does not have many workers",  # images are in memory
)


def quiet_lightning() -> None:
    """Keep Lightning's advice and the warnings we expect out of the log."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger(name).propagate = False
    for message in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)


def synchronise_batch_norm(detector: Detector) -> None:
    """Let the trained networks' batch norms share their statistics between GPUs; the frozen teacher stays as it is.

    Lightning's ``sync_batchnorm`` converts every batch norm: it drops the activations that timm fuses into some, and
    converts them back in training mode, which would move the teacher's statistics.

    Args:
        detector: Changed in place.
    """
    for network in (detector.student, detector.segmentation):
        torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)


def write_evaluation(
    folder: Path, *, evaluation: EvaluationModule, category: Category, pictures: int, accelerator: str
) -> list[Path]:
    """Write what an evaluation leaves beside its result: scores, curves and pictures.

    Args:
        folder: Where to.
        evaluation: After ``trainer.test``.
        category: What was tested.
        pictures: How many at most.
        accelerator: ``gpu`` or ``cpu``, where the pictures' maps are computed.

    Returns:
        The picture files.
    """
    results.write_scores(folder / "scores.csv", category.test, evaluation.scores, category.root)
    write_curves(folder, evaluation.curves)
    return write_pictures(
        folder / "images",
        detector=evaluation.detector,
        samples=category.test,
        scores=evaluation.scores,
        count=pictures,
        device=torch.device("cuda" if accelerator == "gpu" else "cpu"),
    )


class Experiment:
    """Everything of one run; exists in each of its processes.

    Args:
        config: ``conf/train.yaml``, composed and resolved.
        category: What to train and test on.

    Raises:
        UserError: A part cannot be built from what the configuration gives.
    """

    def __init__(self, config: DictConfig, category: Category) -> None:
        self.config, self.category = config, category
        self.run_dir = Path(config.run_dir)
        self.accelerator = runtime.resolve_accelerator(config.trainer.accelerator)
        self.precision = runtime.resolve_precision(config.trainer.precision, self.accelerator)
        teacher, self.weights = build(config.teacher)
        student = build(config.student)(channels=teacher.channels)
        segmentation = build(config.segmentation)(channels=teacher.channels)
        self.detector = Detector(
            teacher=teacher,
            student=student,
            segmentation=segmentation,
            input_size=config.image_size,
            **config.detector,
        ).to(memory_format=torch.channels_last)
        self.data = PairDataModule(
            category=category,
            synthesis=build(config.pairs),
            image_size=self.detector.input_size,
            batch_size=config.batch_size,
            seed=config.seed,
            augmentation=build(config.augmentation),
            native_masks=config.evaluation.native_masks,
            **config.data,
        )
        self.data.setup("fit")  # now, so that an unreadable image is told before anything is written
        several = config.trainer.devices > 1 and self.accelerator == "gpu"
        if several and config.trainer.sync_batchnorm in ("auto", True):
            synchronise_batch_norm(self.detector)
        self.distillation = DistillationModule(
            teacher=teacher,
            student=student,
            cached_images=0 if self.data.augmentation else self.data.training_images,
            **config.distillation,
        )
        self.segmentation = SegmentationModule(
            teacher=teacher, student=student, segmentation=segmentation, **config.segmentation_training
        )
        self.evaluation = EvaluationModule(
            self.detector,
            defects=[sample.defect for sample in category.test],
            false_alarm_rate=config.evaluation.false_alarm_rate,
            has_masks=category.has_masks,
            study_maps=config.evaluation.study_maps,
            resamples=config.evaluation.resamples,
        )
        self.loggers: list[Logger] = self._instantiate_all(config.logger)
        self.is_first = True
        self._evaluator()  # a precision it does not know is told now, not after both stages

    @staticmethod
    def _instantiate_all(group: DictConfig | None) -> list[Any]:
        return [build(entry) for entry in (group or {}).values() if entry is not None]

    def _trainer(self, *, steps: int = -1, precision: str | None = None, callbacks: list[Callback]) -> Trainer:
        settings: dict[str, Any] = dict(self.config.trainer)
        several = settings["devices"] > 1
        if settings["strategy"] == "auto" and several:
            settings["strategy"] = "ddp"
        trainer = build(
            settings
            | {
                "accelerator": self.accelerator,
                "sync_batchnorm": False,  # Lightning would convert the frozen teacher too, see synchronise_batch_norm
                "precision": precision or self.precision,
                "max_steps": steps,
                "log_every_n_steps": max(1, min(settings["log_every_n_steps"], steps)),
                "limit_val_batches": 0 if steps > 0 else 1.0,
                "enable_checkpointing": False,
                "enable_model_summary": False,
                "use_distributed_sampler": False,  # our samplers share the batches out themselves
                "num_sanity_val_steps": 0,
                "default_root_dir": str(self.run_dir),
            },
            logger=self.loggers if steps > 0 else False,
            callbacks=callbacks,
        )
        self.is_first = trainer.is_global_zero
        return trainer

    def _fit(self, module: LightningModule, steps: int) -> float:
        started = time.monotonic()
        trainer = self._trainer(steps=steps, callbacks=self._instantiate_all(self.config.callbacks))
        if self.is_first and module is self.distillation:
            # A folder that is used again must not show an old result beside a new model.
            (self.run_dir / "result.json").unlink(missing_ok=True)
            shutil.rmtree(self.run_dir / "images", ignore_errors=True)
            results.write_atomically(self.run_dir / "config.yaml", OmegaConf.to_yaml(self.config))
        trainer.fit(module, datamodule=self.data)
        if trainer.interrupted:
            raise KeyboardInterrupt
        return time.monotonic() - started

    def distill(self) -> float:
        """Train stage 1; returns its seconds."""
        return self._fit(self.distillation, self.distillation.steps)

    def segment(self) -> float:
        """Train stage 2 on pairs that stage 1 has not seen; returns its seconds."""
        self.data.first_step = self.distillation.steps
        return self._fit(self.segmentation, self.segmentation.steps)

    def calibrate(self) -> dict[str, Any]:
        """Set the detector's thresholds; returns the figures of the synthetic validation."""
        if not self.data.held_out_images:
            return {}
        self._evaluator().validate(self.evaluation, datamodule=self.data, verbose=False)
        return results.evaluation_entries(self.evaluation)

    def _evaluator(self) -> Trainer:
        callbacks = self._instantiate_all(self.config.callbacks)
        return self._trainer(precision=self.config.evaluation.precision, callbacks=callbacks)

    def save_model(self) -> None:
        """Write the model folder; before and after calibration, so that whatever happens there costs no training."""
        if self.is_first:
            self.detector.save(self.run_dir / "model")

    def test(self) -> float:
        """Measure the test set, once; returns its seconds, the figures are in ``evaluation``."""
        started = time.monotonic()
        self._evaluator().test(self.evaluation, datamodule=self.data, verbose=False)
        return time.monotonic() - started

    def write(self, *, validation: dict[str, Any], seconds: dict[str, float]) -> None:
        """Write scores, pictures and result, and print the table. The result comes last: it says the run is whole.

        Args:
            validation: Figures of the synthetic validation.
            seconds: Wall time by step.
        """
        pictures = write_evaluation(
            self.run_dir,
            evaluation=self.evaluation,
            category=self.category,
            pictures=self.config.evaluation.pictures,
            accelerator=self.accelerator,
        )
        result = self._result(validation, seconds)
        results.write_result(self.run_dir / "result.json", result)
        self._log(result, pictures)
        results.print_summary(result, self.run_dir)

    def _result(self, validation: dict[str, Any], seconds: dict[str, float]) -> dict[str, Any]:
        config = self.config
        return {
            "dataset": self.category.dataset,
            "category": self.category.name,
            "seed": config.seed,
            "test": results.evaluation_entries(self.evaluation),
            "synthetic_validation": validation,
            "calibration": self.detector.calibration,
            "images": {
                "trained_on": self.data.training_images,
                "held_out": self.data.held_out_images,
                "tested": len(self.evaluation.scores),
            },
            "teacher": {
                "backbone": self.detector.teacher.spec["backbone"],
                "weights": self.weights.name,
                "sha256": self.weights.sha256,
            },
            "protocol": results.protocol(native_masks=config.evaluation.native_masks),
            "wall_time_s": {name: round(value, 2) for name, value in seconds.items()},
            "device": runtime.describe_device(self.accelerator),
            "devices": config.trainer.devices,
            "precision": {"training": self.precision, "evaluation": config.evaluation.precision},
            "commit": runtime.git_commit(),
            "versions": runtime.describe_versions(),
            "command": ["python", "-m", "dmdd.train", *config.overrides],
        }

    def _log(self, result: dict[str, Any], pictures: list[Path]) -> None:
        """Send the final figures and pictures to the loggers that take them."""
        metrics = {f"test/{name}": value for name, value in result["test"]["metrics"].items()}
        for logger in self.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.summary.update(metrics | {"result": result})
                logger.log_image("test/pictures", [str(file) for file in pictures])
                logger.experiment.finish()
