"""The training itself: the last checks, the processes, and what each of them does."""

from pathlib import Path

from lightning import seed_everything

from dmdd.config.check import plain_of
from dmdd.config.schema import TrainSettings
from dmdd.config.targets import build, check_arguments
from dmdd.core import hardware
from dmdd.core.errors import warn
from dmdd.data import plausibility
from dmdd.data.datamodule import Decoded
from dmdd.data.listing import Category
from dmdd.data.sampling import count_held_out
from dmdd.experiment import devices, launch, locking
from dmdd.experiment.category import read_category
from dmdd.experiment.experiment import Experiment, decode_images, quiet_lightning
from dmdd.experiment.initial import doubts_of_init
from dmdd.models.detector import check_input_size


def start(settings: TrainSettings, category: Category) -> None:
    """Check the rest of the settings and do the whole run.

    Args:
        settings: Of the run.
        category: What to train and test on.

    Raises:
        UserError: Something given cannot be used.
    """
    devices.check_trainer(settings.trainer)
    check_arguments(plain_of(settings))
    size = check_input_size(settings.image_size)
    fraction = settings.data.held_out_fraction
    held_out = sum(sample.held_out for sample in category.train)
    held_out = held_out or sum(count_held_out(len(group), fraction=fraction) for group in category.train_groups)
    warn(plausibility.doubts_of_counts(category, held_out=held_out, wanted=settings.evaluation.false_alarm_rate))
    warn(doubts_of_init(settings.init))
    own = settings.evaluation.native_masks or settings.data.tile_px is not None  # compared at the images' own size
    warn(plausibility.doubts_of_category(category, size=None if own else size))
    count = _find_devices(settings)
    with locking.locked(Path(settings.run_dir)):
        decoded = decode_images(settings, category) if launch.starts_processes(count) else None
        launch.launch(train_on_this_device, settings, decoded, devices=count)


def _find_devices(settings: TrainSettings) -> int:
    """Check the devices before any process starts; returns how many there will be."""
    trainer = settings.trainer
    accelerator = trainer.get("accelerator", "auto")
    if settings.launcher.claim_gpu and accelerator in ("auto", "gpu", "cuda"):
        locking.claim_gpu(runs_per_gpu=settings.launcher.runs_per_gpu, wait_s=settings.launcher.wait_s)
    accelerator = hardware.resolve_accelerator(accelerator)
    count = devices.check_devices(trainer.get("devices", 1), accelerator, settings.batch_size)
    launch.join_srun()
    launch.check_processes(count, Path(settings.run_dir))
    if count > 1:
        build(settings.teacher)  # fetched once here, if it comes from a hub, and not by every process at once
    return count


def train_on_this_device(settings: TrainSettings, decoded: Decoded | None = None) -> None:
    """Do the whole run, in every process; rank 0 writes.

    Args:
        settings: Of the run.
        decoded: Its training images, where they were read for several processes.
    """
    quiet_lightning()
    seed_everything(settings.seed, verbose=False)
    experiment = Experiment(settings, read_category(settings.dataset, settings.category), decoded)
    experiment.distill()
    experiment.segment()
    experiment.save_model()
    experiment.look_for_intruders()
    validation = experiment.calibrate()
    experiment.save_model()
    experiment.name_suspicious()
    experiment.test()
    if experiment.is_first:
        experiment.write(validation=validation)
