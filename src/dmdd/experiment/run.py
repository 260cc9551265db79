"""A training from its settings to a run folder: what is checked first, where it resumes, what comes of it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning import seed_everything
from omegaconf import OmegaConf

from dmdd.config.compose import moved
from dmdd.config.schema import TrainSettings
from dmdd.config.targets import build
from dmdd.core import hardware
from dmdd.core.errors import UserError, check_seed, warn
from dmdd.data import plausibility
from dmdd.data.listing import listing_digest
from dmdd.experiment import devices, launch, locking, resume
from dmdd.experiment.category import read_category
from dmdd.experiment.experiment import Experiment, quiet_lightning
from dmdd.inference.predictor import Predictor, load
from dmdd.models.detector import check_input_size


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Args:
        folder: The run folder.
    """

    folder: Path

    @property
    def model(self) -> Path:
        """The model folder, for ``dmdd.load`` and every command that takes ``model=``."""
        return self.folder / "model"

    @property
    def result(self) -> dict[str, Any]:
        """What ``result.json`` holds: metrics, thresholds, protocol, versions."""
        return json.loads((self.folder / "result.json").read_text(encoding="utf-8"))

    @property
    def predictor(self) -> Predictor:
        """The trained detector, ready for images."""
        return load(self.model)

    def figure(self, name: str) -> float:
        """Look up one figure of the result.

        Args:
            name: Dotted name, as in ``synthetic_validation.metrics.pixel_auroc``.

        Returns:
            The figure.

        Raises:
            UserError: There is no such figure.
        """
        value: Any = self.result
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not isinstance(value, int | float):
            raise UserError(f"objective={name}: result.json has no such figure")
        return float(value)


def fit(settings: TrainSettings) -> Run:
    """Train, calibrate and test as the settings say, on one device or several.

    Args:
        settings: From ``TrainSettings.compose(...)``.

    Returns:
        The finished run.

    Raises:
        UserError: Something given cannot be used.
    """
    check_seed(settings.seed)
    if settings.objective is not None and settings.objective.split(".")[0] == "test":
        raise UserError(f"objective={settings.objective}: nothing may be chosen on test data; use synthetic_validation")
    if settings.resume and (earlier := resume.find_run(settings)):
        settings = _move(settings, earlier)
        if resume.is_finished(earlier):
            _report_finished(settings, earlier)
            return Run(earlier)
    count = _check(settings)
    with locking.locked(Path(settings.run_dir)):
        launch.launch(train_on_this_device, settings, devices=count)
    return Run(Path(settings.run_dir))


def _move(settings: TrainSettings, folder: Path) -> TrainSettings:
    """Continue in the folder of an earlier run instead of a new one."""
    if folder.resolve() == Path(settings.run_dir).resolve():
        return settings
    name = OmegaConf.select(OmegaConf.load(folder / "config.yaml"), "name", default=folder.name)
    return moved(settings, folder, str(name))


def _report_finished(settings: TrainSettings, folder: Path) -> None:
    if are_others(folder, settings):
        others = f"the images are no longer those of {folder}"
        warn([f"{others}; give name=, or leave resume=true out, to train anew"])
    print(f"finished already: {folder}", flush=True)


def _check(settings: TrainSettings) -> int:
    """Find mistakes before any process or training starts, since this is where most are; returns the devices."""
    trainer = settings.trainer
    size = check_input_size(settings.image_size)
    category = read_category(settings.dataset, settings.category)
    warn(plausibility.doubts_of_category(category, size=None if settings.evaluation.native_masks else size))
    devices.check_trainer(trainer)
    accelerator = trainer.get("accelerator", "auto")
    if settings.launcher.claim_gpu and accelerator in ("auto", "gpu", "cuda"):
        locking.claim_gpu(runs_per_gpu=settings.launcher.runs_per_gpu, wait_s=settings.launcher.wait_s)
    accelerator = hardware.resolve_accelerator(accelerator)
    count = devices.check_devices(trainer.get("devices", 1), accelerator, settings.batch_size)
    launch.check_processes(count)
    if count > 1:
        build(settings.teacher)  # fetched once here, if it comes from a hub, and not by every process at once
    return count


def are_others(finished: Path, settings: TrainSettings) -> bool:
    """Tell whether the images of a finished run have changed since; False where that cannot be known.

    Args:
        finished: Folder of the run.
        settings: Of the command.

    Returns:
        Whether a file has come, gone or changed its size.
    """
    result = json.loads((finished / "result.json").read_text(encoding="utf-8"))
    images = result.get("images") if isinstance(result, dict) else None
    known = images.get("listing") if isinstance(images, dict) else None
    try:
        category = read_category(settings.dataset, settings.category)
    except UserError:  # gone altogether, which is no reason not to skip it
        return False
    return known is not None and known != listing_digest((*category.train, *category.test))


def train_on_this_device(settings: TrainSettings) -> None:
    """Do the whole run, in every process; rank 0 writes.

    Args:
        settings: Of the run.
    """
    quiet_lightning()
    seed_everything(settings.seed, verbose=False)
    experiment = Experiment(settings, read_category(settings.dataset, settings.category))
    experiment.distill()
    experiment.segment()
    experiment.save_model()
    validation = experiment.calibrate()
    experiment.save_model()
    experiment.test()
    if experiment.is_first:
        experiment.write(validation=validation)
