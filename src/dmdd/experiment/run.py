"""A training and a test from their settings: what is checked first, where a run resumes, what comes of it.

Nothing here needs torch, which takes seconds to import: most mistakes are found before.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from dmdd.config.compose import moved
from dmdd.config.schema import EvaluateSettings, TrainSettings
from dmdd.core.errors import UserError, check_seed, warn
from dmdd.data.listing import listing_digest
from dmdd.experiment import resume
from dmdd.experiment.category import read_category
from dmdd.experiment.leaving import no_empty_folder

if TYPE_CHECKING:
    from dmdd.inference.predictor import Predictor


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
    def predictor(self) -> "Predictor":
        """The trained detector, ready for images."""
        from dmdd.inference.predictor import load

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
    with no_empty_folder(Path(settings.run_dir)):
        check_seed(settings.seed)
        if settings.objective is not None and not settings.objective.startswith("synthetic_validation."):
            raise UserError(
                f"objective={settings.objective}: nothing may be chosen on test data; give a figure of the synthetic "
                "validation, as in objective=synthetic_validation.metrics.aupro_30"
            )
        earlier = _find_earlier(settings) if settings.resume else None
        if earlier is not None and resume.is_finished(earlier):
            _report_finished(settings, earlier)
            return Run(earlier)
        if earlier is not None:
            settings = _move(settings, earlier)
        category = read_category(settings.dataset, settings.category)
        from dmdd.experiment.work import start

        start(settings, category)
        return Run(Path(settings.run_dir))


def _find_earlier(settings: TrainSettings) -> Path | None:
    """Look for the run that ``resume=true`` goes on with, and say which it is."""
    earlier = resume.find_run(settings)
    if earlier is None:
        print(f"no earlier run with these settings, a new one begins: {settings.run_dir}", flush=True)
    elif not resume.is_finished(earlier):
        print(f"resuming {earlier}", flush=True)
    return earlier


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


def test(settings: EvaluateSettings) -> dict[str, Any]:
    """Measure a saved model as the settings say, on one device.

    Args:
        settings: From ``EvaluateSettings.compose(...)``.

    Returns:
        What ``result.json`` in ``settings.run_dir`` holds.

    Raises:
        UserError: The model, the data or a setting cannot be used.
    """
    run_dir = Path(settings.run_dir)
    with no_empty_folder(run_dir):
        if (run_dir / "config.yaml").is_file():  # an evaluation writes none
            raise UserError(f"{run_dir} holds a training run, whose result would be lost; give another run_dir=")
        category = read_category(settings.dataset, settings.category)
        from dmdd.experiment.measure import measure

        return measure(settings, category)
