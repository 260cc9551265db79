"""Train DMDD in two stages on one category, measure it once, and leave a run folder: ``python -m dmdd.train``."""

import sys
import time
from typing import Any

from dmdd.config import run


def main(arguments: list[str] | None = None) -> int:
    """Run the entry point.

    Args:
        arguments: Hydra overrides; ``sys.argv[1:]`` if None.

    Returns:
        Exit code.
    """
    return run(train, "train", arguments)


def train(config: Any) -> None:
    """Train as configured, on one device or several.

    Args:
        config: ``conf/train.yaml`` composed.

    Raises:
        UserError: Something given cannot be used.
    """
    from omegaconf import OmegaConf

    from dmdd import launch, runtime

    OmegaConf.resolve(config)
    read_category(config)  # before any process or training starts, since this is where most mistakes are
    accelerator = runtime.resolve_accelerator(config.trainer.accelerator)
    devices = runtime.check_devices(config.trainer.devices, accelerator, config.batch_size)
    launch.launch(train_on_this_device, OmegaConf.to_container(config), devices=devices)


def read_category(config: Any) -> Any:
    """Read the category's file lists.

    Args:
        config: Resolved configuration.

    Returns:
        ``dmdd.data.listing.Category``.

    Raises:
        UserError: As the layout's reader; without a category the message lists those found.
    """
    from hydra.utils import instantiate

    from dmdd.data.listing import report
    from dmdd.data.layouts import list_categories

    if config.category is None:
        found = ", ".join(list_categories(config.dataset.layout.root)) or "none"
        report(None, f"category is missing: give category=NAME; found in {config.dataset.layout.root}: {found}")
    return instantiate(config.dataset.layout, category=str(config.category))


def train_on_this_device(container: dict[str, Any]) -> None:
    """Do the whole run, in every process; rank 0 writes.

    Args:
        container: Resolved configuration as plain values.
    """
    from lightning import seed_everything
    from omegaconf import OmegaConf

    from dmdd.experiment import Experiment, quiet_lightning

    started = time.monotonic()
    quiet_lightning()
    config = OmegaConf.create(container)
    seed_everything(config.seed, verbose=False)
    experiment = Experiment(config, read_category(config))
    seconds = {"distillation": experiment.distill(), "segmentation": experiment.segment()}
    validation = experiment.calibrate()
    experiment.save_model()
    test, seconds["evaluation"] = experiment.test()
    seconds["total"] = time.monotonic() - started
    if experiment.is_first:
        experiment.write(validation=validation, test=test, seconds=seconds)


if __name__ == "__main__":
    sys.exit(main())
