"""One run: parts built from the configuration, two stages of training, calibration, test, and what is written."""

import csv
import hashlib
import logging
import os
import platform
import shutil
import time
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import OmegaConf

from dmdd.config.check import plain_of
from dmdd.config.schema import Target, TrainSettings
from dmdd.config.targets import build, build_all
from dmdd.core import failures, files, hardware, provenance
from dmdd.core.errors import Interrupted
from dmdd.data.datamodule import Decoded, PairDataModule
from dmdd.data.datasets import within
from dmdd.data.listing import Category, listing_digest
from dmdd.data.regions import Regions
from dmdd.data.saturation import defect_reader
from dmdd.experiment import loggers, outputs, resume
from dmdd.experiment.charts import write_curves, write_training
from dmdd.experiment.initial import start_from, trained_before, write_trained
from dmdd.experiment.pictures import (
    PAIRS_FILE,
    SUSPICIOUS_PICTURES,
    Picture,
    write_pairs,
    write_pictures,
    write_thumbnail,
)
from dmdd.experiment.resume import STATE_DIR
from dmdd.experiment.watching import TrainingPictures
from dmdd.models.batch_norm import synchronise_batch_norm
from dmdd.models.detector import Detector, Tiling
from dmdd.models.normal_scores import INTRUDER
from dmdd.models.score_scale import ScoreScale
from dmdd.models.suspicion import SUSPICIOUS, strangeness
from dmdd.models.teacher import check_features
from dmdd.models.weights import WeightsSource
from dmdd.training.baselines import NormalImages, calibration_tiles
from dmdd.training.callbacks.divergence import LossGuard
from dmdd.training.callbacks.interruption import STOPPED_MEASURING, LeaveMeasuring, StateSaver
from dmdd.training.distillation import DistillationModule
from dmdd.training.evaluation import EvaluationModule, choose_exact
from dmdd.training.lightning_private import ask_no_device_for_signals, call_first_on_signal
from dmdd.training.segmentation import SegmentationModule

# What Lightning says of things we do on purpose.
EXPECTED_WARNINGS = (
    r"Found \d+ module\(s\) in eval mode",  # the teacher, and in stage 2 the student
    r"Experiment logs directory .* exists and is not empty",  # the run folder is ours, stage 2 continues stage 1's log
    r"You passed in a `val_dataloader` but have no `validation_step`",  # pairs for calibration, after training
    r"You're resuming from a checkpoint that ended before the epoch ended",  # the sampler goes on at the step
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"The `srun` command is available on your system",  # processes are started by us, see launch.py
    r"The '\w+_dataloader' does not have many workers",  # images are in memory
)


def quiet_lightning() -> None:
    """Keep Lightning's advice and the warnings we expect out of the log."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger(name).propagate = False
    for message in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)


def write_evaluation(
    folder: Path,
    *,
    evaluation: EvaluationModule,
    category: Category,
    pictures: int,
    accelerator: str,
    regions: Regions | None = None,
) -> list[Picture]:
    """Write what an evaluation leaves beside its result: scores, curves and pictures.

    Args:
        folder: Where to.
        evaluation: After ``trainer.test``.
        category: What was tested.
        pictures: How many at most.
        accelerator: ``gpu`` or ``cpu``, where the pictures' maps are computed.
        regions: Which pixels of the images count.

    Returns:
        The pictures.
    """
    thresholds = evaluation.detector.calibration
    scale = ScoreScale.of(thresholds)
    outputs.write_scores(folder / "scores.csv", category.test, evaluation.scores, category.root, scale)
    write_curves(folder, evaluation.curves, metrics=evaluation.metrics, thresholds=thresholds)
    with hardware.whole_float32():
        return write_pictures(
            folder / "images",
            detector=evaluation.detector,
            samples=category.test,
            scores=evaluation.scores,
            count=pictures,
            device=torch.device("cuda" if accelerator == "gpu" else "cpu"),
            regions=regions,
        )


def make_data(settings: TrainSettings, category: Category, decoded: Decoded | None = None) -> PairDataModule:
    """Build the data module of a run; its images are not read yet.

    Args:
        settings: Of the run.
        category: What to train and test on.
        decoded: Its images, where another process has read them.
    """
    return PairDataModule(
        category=category,
        synthesis=build(settings.pairs),
        image_size=settings.image_size,
        batch_size=settings.batch_size,
        seed=settings.seed,
        augmentation=build(settings.augmentation),
        native_masks=settings.evaluation.native_masks,
        trained_before=trained_before(settings.init),
        decoded=decoded,
        **vars(settings.data),
    )


def decode_images(settings: TrainSettings, category: Category) -> Decoded:
    """Read the training images once for all processes of a run.

    Args:
        settings: Of the run.
        category: What to train on.

    Raises:
        UserError: An image cannot be read.
    """
    with report_decoding(settings.image_size):
        return make_data(settings, category).decode()


def report_decoding(size: Sequence[int]) -> AbstractContextManager[None]:
    """Turn what reading images raises into one line."""
    height, width = size
    return failures.report_errors("decoding the training images", sizes={"image_size": f"[{height},{width}]"})


def build_detector(settings: TrainSettings, *, kinds: int) -> tuple[Detector, WeightsSource]:
    """Build the networks of a run.

    Args:
        settings: Of the run.
        kinds: How many categories the images are of.

    Returns:
        The detector that is to be trained, and where its teacher's weights come from.

    Raises:
        UserError: A network cannot be built, or the teacher gives no features of the wanted strides.
    """
    teacher, weights = build(settings.teacher)
    detector = Detector(
        teacher=teacher,
        student=build(settings.student)(channels=teacher.channels),
        segmentation=build(settings.segmentation)(channels=teacher.channels),
        input_size=settings.image_size,
        image_kinds=kinds,
        **vars(settings.detector),
    ).to(memory_format=torch.channels_last)
    check_features(teacher, detector.input_size)
    return detector, weights


class Experiment:
    """Everything of one run; exists in each of its processes.

    Args:
        settings: Of the run.
        category: What to train and test on.
        decoded: Its training images, where another process has read them.

    Raises:
        UserError: A part cannot be built from what the configuration gives.
    """

    def __init__(self, settings: TrainSettings, category: Category, decoded: Decoded | None = None) -> None:
        self.settings, self.category, self.devices = settings, category, int(settings.trainer.get("devices", 1))
        self.listing = listing_digest((*category.train, *category.test))
        self.run_dir = Path(settings.run_dir)
        self._choose_hardware()
        self.detector, self.weights = build_detector(settings, kinds=max(1, len(category.members)))
        self.began_with = start_from(self.detector, settings.init) if settings.init else {}
        self._read_data(decoded)
        self._synchronise_batch_norm()
        self.distillation = self._make_distillation()
        self.segmentation = self._make_segmentation()
        self.evaluation = self._make_evaluation()
        self.made_from = self._describe_origin()
        self.strangeness: list[float] = []  # of the images trained on and then of those held out, on the first device
        self.suspicious: list[dict[str, Any]] = []
        self.seconds: dict[str, float] = {}
        self.precisions: list[str] = []
        self._started, self._earlier_s = time.monotonic(), 0.0
        self._log_restored = self._connected = False
        self.loggers = self._loggers()
        self.is_first = True
        self._evaluator()  # what it does not take is told now, not after both stages

    def _choose_hardware(self) -> None:
        trainer, evaluation = self.settings.trainer, self.settings.evaluation
        self.accelerator = hardware.resolve_accelerator(trainer.get("accelerator", "auto"))
        self.precision = hardware.resolve_precision(trainer.get("precision", "auto"), self.accelerator)
        self.evaluation_precision = hardware.resolve_precision(
            evaluation.precision, self.accelerator, setting="evaluation.precision"
        )
        if self.accelerator == "cpu":
            hardware.keep_freed_memory()

    def _read_data(self, decoded: Decoded | None) -> None:
        """Read the training images, and tell the detector how large images are seen."""
        self.data = make_data(self.settings, self.category, decoded)
        self.detector.tiling = None if self.data.tiles is None else Tiling(*self.data.tiles)
        with report_decoding(self.detector.input_size):
            self.data.setup("fit")  # now, so that an unreadable image is told before anything is written
        self.detector.region = self.data.region
        self.data.category = self.category = within(self.category, self.data.regions)

    def _synchronise_batch_norm(self) -> None:
        if self.devices > 1 and self.settings.trainer.get("sync_batchnorm", "auto") in ("auto", True):
            for network in (self.detector.student, self.detector.segmentation):
                synchronise_batch_norm(network)

    def _make_distillation(self) -> DistillationModule:
        return DistillationModule(
            teacher=self.detector.teacher,
            student=self.detector.student,
            cached_images=self.data.lasting_images,
            compiled=self.settings.compile,
            **vars(self.settings.distillation),
        )

    def _make_segmentation(self) -> SegmentationModule:
        return SegmentationModule(
            teacher=self.detector.teacher,
            student=self.detector.student,
            segmentation=self.detector.segmentation,
            whitening=self.detector.whitening,
            normal_images=self.data.training_pixels,
            categories=self.data.counts,
            first_step=self.settings.distillation.steps,
            compiled=self.settings.compile,
            **vars(self.settings.segmentation_training),
        )

    def _make_evaluation(self) -> EvaluationModule:
        settings, data, samples = self.settings.evaluation, self.data, self.category.test
        size = None if settings.native_masks or data.tiles else self.detector.input_size
        in_parts = data.tiles or data.regions
        return EvaluationModule(
            self.detector,
            defects=[sample.defect for sample in samples],
            categories=[sample.category for sample in samples],
            held_out_categories=data.held_out_members,
            training_categories=data.trained_members,
            parts=[sample.part for sample in samples],
            false_alarm_rate=settings.false_alarm_rate,
            has_masks=self.category.has_masks,
            study_maps=settings.study_maps,
            resamples=settings.resamples,
            exact=choose_exact(settings.exact, samples, size=size),
            read_defects=None if data.regions else defect_reader(samples),
            own_pixel_metrics=build_all(settings.pixel_metrics),
            own_image_metrics=build_all(settings.image_metrics),
            normal_images=self._normal_images if in_parts else data.held_out_pixels,
            # Of tiles and regions the scatter is that of the held-out images alone.
            training_images=None if in_parts else data.training_pixels,
            baselines_batch_size=self.settings.data.evaluation_batch_size,
        )

    def _describe_origin(self) -> dict[str, str]:
        """Say what a state that is saved has learned from: a run with others must not go on with it."""
        origin = {"training images": listing_digest(self.category.train), "teacher weights": self.weights.sha256}
        return origin | ({"model of init": self.began_with["sha256"]} if self.began_with else {})

    def _normal_images(self) -> NormalImages:
        if self.data.held_out_large is None or self.detector.tiling is None:
            return NormalImages(self.data.held_out_pixels, inside=self.data.held_out_inside)
        return calibration_tiles(self.data.held_out_large, self.detector.tiling, self.detector.input_size)

    def _loggers(self, *, offline: bool = False) -> list[Logger]:
        entries = [entry for entry in self.settings.logger.values() if entry is not None]
        return [build(entry, **self._wandb_arguments(entry, offline=offline)) for entry in entries]

    def _wandb_arguments(self, entry: Target, *, offline: bool) -> dict[str, Any]:
        """Give a W&B logger what the configuration cannot know; nothing to others."""
        if not loggers.is_wandb(entry):
            return {}
        known: dict[str, Any] = {"mode": "offline"} if offline else {}
        if entry.get("id") is None and "WANDB_SWEEP_ID" not in os.environ:  # a sweep's agent names its runs
            # The same for every part of a run, so that a resumed run goes on in the dashboard too.
            place = f"{platform.node()}:{self.run_dir.resolve()}"
            known["id"] = hashlib.sha256(place.encode()).hexdigest()[:16]
            known |= {"resume": "allow"} if self.settings.resume else {}
        if entry.get("group") is None:  # all settings but the seed: the dashboard averages over a group
            name = resume.configuration_digest(plain_of(self.settings))
            known["group"] = f"{self.category.dataset}/{self.category.name} {name}"
        return known

    def _watchers(self) -> list[Callback]:
        """Show pairs and maps while training, where somebody looks."""
        if not self.settings.evaluation.pictures or not loggers.take_pictures(self.loggers):
            return []
        return [TrainingPictures(self.detector)]

    def _trainer(self, *, steps: int = -1, precision: str | None = None, callbacks: list[Callback]) -> Trainer:
        settings: dict[str, Any] = {"log_every_n_steps": 10, **self.settings.trainer}
        arguments: dict[str, Any] = {}
        if settings.get("strategy", "auto") == "auto" and self.devices > 1:
            # Statistics that all devices compute alike need no sending; each device's own do.
            own_statistics = settings.get("sync_batchnorm", "auto") not in ("auto", True)
            arguments["strategy"] = DDPStrategy(
                broadcast_buffers=own_statistics, gradient_as_bucket_view=True, static_graph=True
            )
        if self.accelerator == "gpu" and steps > 0 and not settings.get("deterministic"):
            settings.setdefault("benchmark", True)  # all batches are of one size: cuDNN may try which way is fastest
        if os.environ.get("DMDD_SPAWNED") or os.environ.get("SLURM_JOB_ID"):
            # Else Lightning sees a scheduler's variables, waits for its processes and puts the job into the queue.
            settings["plugins"] = [*(settings.get("plugins") or []), LightningEnvironment()]
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
            **arguments,
        )
        self.is_first = trainer.is_global_zero
        return trainer

    def _fit(self, name: str, module: LightningModule, steps: int) -> None:
        """Train one stage, or the rest of it, or load what it came to."""
        file = self.run_dir / STATE_DIR / f"{name}.ckpt"
        guard = LossGuard(name, images_of_step=self._images_of_step, file=file)
        saver = StateSaver(
            file,
            every_s=self.settings.save_state_every_s,
            every_n_steps=self.settings.save_state_every_n_steps,
            made_from=self.made_from,
            precision=self.precision,
            before_saving=guard.check,
        )
        state = saver.read() if self.settings.resume else None
        done = 0 if state is None else int(state["global_step"])
        if self.settings.resume and int(os.environ.get("LOCAL_RANK", 0)) == 0:
            begins = "was done" if done == steps else f"goes on after step {done:,} of {steps:,}" if done else "begins"
            print(f"{name} {begins}", flush=True)
        self._earlier_s += saver.earlier_s
        if state is not None and done == steps:
            saver.restore(module, state)
        else:
            if not self._connected and not loggers.connect(self.loggers):
                self.loggers = self._loggers(offline=True)
            self._connected = True
            trainer = self._trainer(
                steps=steps,
                callbacks=[*build_all(self.settings.callbacks).values(), *self._watchers(), guard, saver],
            )
            if self.devices > 1:
                ask_no_device_for_signals(trainer)
                call_first_on_signal(trainer, saver.note)
            if self.is_first:
                with failures.report_write_errors(self.run_dir):
                    self._begin(name, done)
            sizes = {"batch_size": self.settings.batch_size, "image_size": self._size}
            told = failures.report_errors(name, sizes=sizes, workers="data.num_workers")
            try:
                with failures.report_write_errors(self.run_dir), told:
                    trainer.fit(
                        module, datamodule=self.data, ckpt_path=saver.file if state else None, weights_only=True
                    )
            except SystemExit:  # how Lightning leaves at a signal that came before the saver listened
                if saver.signal is not None:
                    raise
                raise Interrupted(
                    f"stopped at the begin of {name}; with resume=true the same command goes on"
                ) from None
            saver.check_stopped(trainer)
        self.detector.float()  # trainer.precision=64-true has made it float64
        self.precisions = list(dict.fromkeys([*self.precisions, *saver.precisions]))
        self.seconds[name] = saver.seconds

    @property
    def _size(self) -> str:
        height, width = self.detector.input_size
        return f"[{height},{width}]"

    def _images_of_step(self, step: int) -> list[int]:
        places = self.data.places(self.data.first_step + step - 1)
        return [index % self.data.training_images for _, _, index in places]

    def _begin(self, stage: str, done: int) -> None:
        """Prepare the run folder, in the first process."""
        config_file = self.run_dir / "config.yaml"
        if stage == "distillation":  # of another student than the one that is trained now
            (self.run_dir / STATE_DIR / "segmentation.ckpt").unlink(missing_ok=True)
        if not (self.settings.resume and config_file.is_file()):
            # A folder that is used again must not show an old result beside a new model.
            (self.run_dir / "result.json").unlink(missing_ok=True)
            for folder in ("images", STATE_DIR) if stage == "distillation" else ():
                shutil.rmtree(self.run_dir / folder, ignore_errors=True)
            files.write_atomically(config_file, OmegaConf.to_yaml(OmegaConf.create(plain_of(self.settings))))
            if stage == "distillation" and self.settings.evaluation.pictures:
                write_pairs(self.run_dir / PAIRS_FILE, self.data)
        elif not self._log_restored:
            self._restore_log(stage, done)
        if not self._log_restored:
            loggers.log_settings(self.loggers, plain_of(self.settings))
        self._log_restored = True
        (self.run_dir / STATE_DIR).mkdir(exist_ok=True)

    def _restore_log(self, stage: str, done: int) -> None:
        """Keep what was logged before the interruption, less steps that are done again; the logger would clear it."""
        for logger in self.loggers:
            file = Path(logger.log_dir or "") / "metrics.csv"
            if not isinstance(logger, CSVLogger) or not file.is_file():
                continue
            with file.open(newline="", encoding="utf-8") as text:
                rows = [{name: value for name, value in row.items() if value} for row in csv.DictReader(text)]
            again = f"{stage}/learning_rate"
            first = done + (self.segmentation.first_step if stage == "segmentation" else 0)
            kept = [
                row for row in rows if row.get("step", "").isdigit() and (again not in row or int(row["step"]) < first)
            ]
            writer: Any = logger.experiment
            writer.metrics = kept
            logger.save()

    def distill(self) -> None:
        """Train stage 1."""
        self._fit("distillation", self.distillation, self.distillation.steps)

    def segment(self) -> None:
        """Train stage 2 on pairs that stage 1 has not seen."""
        self.data.first_step = self.distillation.steps
        self._fit("segmentation", self.segmentation, self.segmentation.steps)

    def calibrate(self) -> dict[str, Any]:
        """Set the detector's thresholds; returns the figures of the synthetic validation."""
        if not self.data.held_out_images:
            return {}
        self._measure("validate")
        # Each held-out image and its twin.
        return outputs.evaluation_entries(self.evaluation, "validation", listed=self.data.validation_images)

    def look_for_intruders(self) -> None:
        """Measure how strange each normal image looks among the others; the held-out ones' counts in calibration."""
        if not self.is_first or self.data.tiles is not None:  # tiles of one image are strange to each other
            return
        sizes = {"data.evaluation_batch_size": self.settings.data.evaluation_batch_size, "image_size": self._size}
        self.detector.to("cuda" if self.accelerator == "gpu" else "cpu")
        with failures.report_errors("looking for odd training images", sizes=sizes), hardware.whole_float32():
            found = strangeness(
                self.detector,
                self.data.normal_pixels,
                batch_size=self.settings.data.evaluation_batch_size,
                kinds=[*self.data.trained_members, *self.data.held_out_members],
            )
        self.strangeness = found.tolist()
        self.evaluation.strangeness = self.strangeness[self.data.training_images :]

    def name_suspicious(self) -> None:
        """List the normal images that are like none of the others in ``suspicious``, the strangest first.

        Held-out ones are so by their looks or by their score, with which the threshold was set.
        """
        root, files, trained = self.category.root, self.data.normal_files, self.data.training_images
        intruders = {trained + index: doubt for index, doubt in self.evaluation.intruders.items()}
        order = sorted(range(len(self.strangeness)), key=self.strangeness.__getitem__, reverse=True)
        for place in order:
            left_out, value = intruders.get(place, 0.0) > INTRUDER, self.strangeness[place]
            if value < SUSPICIOUS and not left_out:
                continue
            path = files[place]
            shown = (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()
            entry = {"file": shown, "strangeness": round(value, 2), "held_out": place >= trained}
            self.suspicious.append(entry | ({"left_out": True} if left_out else {}))
            if len(self.suspicious) <= self.settings.evaluation.pictures:
                with failures.report_write_errors(self.run_dir):
                    image = self.data.normal_pixels[place : place + 1][0]
                    write_thumbnail(self.run_dir / SUSPICIOUS_PICTURES, len(self.suspicious) - 1, image)

    def _evaluator(self) -> Trainer:
        callbacks = list(build_all(self.settings.callbacks).values())
        if self.devices == 1:
            return self._trainer(precision=self.evaluation_precision, callbacks=callbacks)
        leaving = LeaveMeasuring()
        trainer = self._trainer(precision=self.evaluation_precision, callbacks=[*callbacks, leaving])
        call_first_on_signal(trainer, leaving.leave)
        return trainer

    def save_model(self) -> None:
        """Write the model folder; before and after calibration, so that whatever happens there costs no training."""
        if self.is_first:
            with failures.report_write_errors(self.run_dir):
                self.detector.save(self.run_dir / "model")

    def test(self) -> None:
        """Measure the test set, once; the figures are in ``evaluation``."""
        started = time.monotonic()
        self._measure("test")
        self.seconds["evaluation"] = time.monotonic() - started

    def _measure(self, what: str) -> None:
        doing = {"validate": "calibration", "test": "the test"}[what]
        sizes = {"data.evaluation_batch_size": self.settings.data.evaluation_batch_size, "image_size": self._size}
        try:
            with failures.report_errors(doing, sizes=sizes, workers="data.num_workers"), hardware.whole_float32():
                getattr(self._evaluator(), what)(self.evaluation, datamodule=self.data, verbose=False)
            self.detector.float()
        except SystemExit:  # how Lightning leaves at SIGTERM and SIGINT
            raise Interrupted(STOPPED_MEASURING) from None

    def write(self, *, validation: dict[str, Any]) -> None:
        """Write scores, pictures and result, and print the table. The result comes last: it says the run is whole.

        Args:
            validation: Figures of the synthetic validation.

        Raises:
            UserError: The test did not score every image that is listed; nothing is written then.
        """
        test = outputs.evaluation_entries(self.evaluation, "test", listed=len(self.category.test))
        with failures.report_write_errors(self.run_dir):
            write_training(self.run_dir)
            pictures = write_evaluation(
                self.run_dir,
                evaluation=self.evaluation,
                category=self.category,
                pictures=self.settings.evaluation.pictures,
                regions=self.data.regions,
                accelerator=self.accelerator,
            )
            write_trained(self.run_dir, self.data.trained_names)
            self.seconds["total"] = time.monotonic() - self._started + self._earlier_s
            result = self._result(test, validation)
            outputs.write_result(self.run_dir / "result.json", result)
        shutil.rmtree(self.run_dir / STATE_DIR, ignore_errors=True)
        loggers.log_result(
            self.loggers,
            result,
            settings=plain_of(self.settings),
            run_dir=self.run_dir,
            pictures=pictures,
            upload_model=self.settings.upload_model,
        )
        outputs.print_summary(result, self.run_dir)

    def _result(self, test: dict[str, Any], validation: dict[str, Any]) -> dict[str, Any]:
        settings, (parts, share) = self.settings, self.data.parts_found
        return {
            "dataset": self.category.dataset,
            "category": self.category.name,
            "seed": settings.seed,
            "test": test,
            "synthetic_validation": validation,
            "calibration": self.detector.calibration,
            "suspicious": self.suspicious,
            "images": {
                "trained_on": self.data.training_images,
                "held_out": self.data.held_out_images,
                **({"categories": list(self.category.members)} if self.category.members else {}),
                "listed": len(self.category.test),
                "tested": len(self.evaluation.scores),
                "augmented": self.data.augmentation is not None,
                "part_found_on": parts,
                "part_share": round(share, 4),
                "listing": self.listing,
            },
            "teacher": {
                "backbone": self.detector.teacher.spec["backbone"],
                "weights": self.weights.name,
                "sha256": self.weights.sha256,
            },
            **({"init": self.began_with} if self.began_with else {}),
            "protocol": outputs.protocol(
                native_masks=settings.evaluation.native_masks, tiling=self.detector.tiling, regions=self.data.regions
            ),
            "wall_time_s": {name: round(value, 2) for name, value in self.seconds.items()},
            "device": hardware.describe_device(self.accelerator),
            "devices": self.devices,
            "resumed": self._earlier_s > 0,
            "precision": {
                "training": ", then ".join(self.precisions or [self.precision]),
                "evaluation": self.evaluation_precision,
            },
            "commit": provenance.git_commit(),
            "versions": provenance.describe_versions(),
            "command": ["python", "-m", "dmdd.train", *settings.overrides],
        }
