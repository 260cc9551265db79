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
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from dmdd import launch, runtime
    from dmdd.data.datasets import check_files
    from dmdd.errors import UserError, check_positive

    OmegaConf.resolve(config)
    if not isinstance(config.seed, int) or not 0 <= config.seed < 2**32:
        raise UserError(f"seed={config.seed}: give a whole number from 0 to {2**32 - 1}")
    # Before any process or training starts, since this is where most mistakes are.
    check_files(read_category(config).test)
    check_positive("batch_size", config.batch_size)
    accelerator = runtime.resolve_accelerator(config.trainer.accelerator)
    devices = runtime.check_devices(config.trainer.devices, accelerator, config.batch_size)
    container: Any = OmegaConf.to_container(config)
    container["overrides"] = list(HydraConfig.get().overrides.task)
    launch.launch(train_on_this_device, container, devices=devices)


def read_category(config: Any) -> Any:
    """Read the category's file lists.

    Args:
        config: Resolved configuration.

    Returns:
        ``dmdd.data.listing.Category``.

    Raises:
        UserError: As the layout's reader; without a category the message lists those found.
    """
    from dmdd.config import build

    category = None if config.category is None else str(config.category)  # category=01 is a name, not a number
    return build(config.dataset.layout, category=category)


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
    experiment.save_model()
    validation = experiment.calibrate()
    experiment.save_model()
    seconds["evaluation"] = experiment.test()
    seconds["total"] = time.monotonic() - started
    if experiment.is_first:
        experiment.write(validation=validation, seconds=seconds)


if __name__ == "__main__":
    sys.exit(main())
