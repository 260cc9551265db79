"""Train DMDD in two stages on one category, measure it once, and leave a run folder: ``python -m dmdd.train``."""

import json
import sys
from pathlib import Path
from typing import Any


def main(arguments: list[str] | None = None) -> int:
    """Run the entry point.

    Args:
        arguments: Hydra overrides; ``sys.argv[1:]`` if None.

    Returns:
        Exit code.
    """
    from dmdd.experiment.leaving import run_whole

    return run_whole(train, "train", arguments)


def train(config: Any) -> Any:
    """Train as configured, on one device or several.

    Args:
        config: ``conf/train.yaml`` composed.

    Returns:
        The run folder; or, if ``objective`` names a figure of the result, that figure.

    Raises:
        UserError: Something given cannot be used.
    """
    from omegaconf import OmegaConf

    from dmdd.core.errors import UserError, check_seed
    from dmdd.experiment.category import read_category
    from dmdd.experiment.leaving import no_empty_folder

    with no_empty_folder(Path(config.run_dir)):
        check_seed(config.seed)
        if config.objective is not None and str(config.objective).split(".")[0] == "test":
            refused = f"objective={config.objective}: nothing may be chosen on test data"
            raise UserError(f"{refused}; use synthetic_validation")
        if config.resume and is_finished_earlier(config):
            return outcome(config)
        OmegaConf.resolve(config)
        start(config, read_category(config))  # where most mistakes are: before torch, which takes seconds to import
        return outcome(config)


def is_finished_earlier(config: Any) -> bool:
    """Look for the run that ``resume=true`` goes on with, and say which it is.

    Args:
        config: Not resolved yet; moved to the folder of the earlier run.

    Returns:
        Whether there is nothing left to do.
    """
    from omegaconf import OmegaConf

    from dmdd.core.errors import warn
    from dmdd.experiment import resume

    earlier = resume.find_run(config)
    if earlier is None:
        print(f"no earlier run with these settings, a new one begins: {config.run_dir}", flush=True)
        return False
    move_to(config, earlier)
    if not resume.is_finished(earlier):
        print(f"resuming {earlier}", flush=True)
        return False
    OmegaConf.resolve(config)
    if are_others(earlier, config):
        others = f"the images are no longer those of {earlier}"
        warn([f"{others}; give name=, or leave resume=true out, to train anew"])
    print(f"finished already: {earlier}", flush=True)
    return True


def start(config: Any, category: Any) -> None:
    """Check the rest of the settings and do the whole run.

    Args:
        config: Resolved.
        category: ``dmdd.data.listing.Category``.

    Raises:
        UserError: Something given cannot be used.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from dmdd.config.compose import build
    from dmdd.core import hardware
    from dmdd.core.errors import check_positive, warn
    from dmdd.data import plausibility
    from dmdd.data.sampling import count_held_out
    from dmdd.experiment import devices, launch, locking
    from dmdd.models.detector import check_input_size

    # Before any process or training starts.
    devices.check_trainer(config.trainer)
    check_positive("batch_size", config.batch_size)
    check_positive("save_state_every_n_steps", config.save_state_every_n_steps)
    size = check_input_size(config.image_size)
    own = config.evaluation.native_masks or config.data.tile_px is not None  # compared at the images' own size
    held_out = count_held_out(len(category.train), fraction=config.data.held_out_fraction)
    warn(plausibility.doubts_of_counts(category, held_out=held_out, wanted=config.evaluation.false_alarm_rate))
    warn(plausibility.doubts_of_category(category, size=None if own else size))
    if config.launcher.claim_gpu and config.trainer.accelerator in ("auto", "gpu", "cuda"):
        locking.claim_gpu(runs_per_gpu=config.launcher.runs_per_gpu, wait_s=config.launcher.get("wait_s", 600))
    accelerator = hardware.resolve_accelerator(config.trainer.accelerator)
    count = devices.check_devices(config.trainer.devices, accelerator, config.batch_size)
    launch.check_processes(count)
    if count > 1:
        build(config.teacher)  # fetched once here, if it comes from a hub, and not by every process at once
    container: Any = OmegaConf.to_container(config)
    container["overrides"] = list(HydraConfig.get().overrides.task)
    with locking.locked(Path(config.run_dir)):
        launch.launch(train_on_this_device, container, devices=count)


def are_others(finished: Path, config: Any) -> bool:
    """Tell whether the images of a finished run have changed since; False where that cannot be known.

    Args:
        finished: Folder of the run.
        config: Resolved configuration.

    Returns:
        Whether a file has come, gone or changed its size.
    """
    from dmdd.core.errors import UserError
    from dmdd.data.listing import listing_digest
    from dmdd.experiment.category import read_category

    result = json.loads((finished / "result.json").read_text(encoding="utf-8"))
    images = result.get("images") if isinstance(result, dict) else None
    known = images.get("listing") if isinstance(images, dict) else None
    try:
        category = read_category(config)
    except UserError:  # gone altogether, which is no reason not to skip it
        return False
    return known is not None and known != listing_digest((*category.train, *category.test))


def move_to(config: Any, folder: Path) -> None:
    """Let a command go on in the folder of an earlier run instead of the one Hydra has made for it.

    Args:
        config: Not resolved yet; changed in place.
        folder: The earlier run's.
    """
    from omegaconf import OmegaConf

    from dmdd.config.compose import remove_if_empty

    new = Path(config.run_dir)
    config.name = OmegaConf.select(OmegaConf.load(folder / "config.yaml"), "name", default=folder.name)
    config.run_dir = str(folder)
    if new.resolve() != folder.resolve():
        remove_if_empty(new)


def outcome(config: Any) -> Any:
    """Give what a sweep wants to know of a finished run.

    Args:
        config: Of the run.

    Returns:
        ``run_dir``; or the figure ``objective`` names, by dotted name in ``result.json``.

    Raises:
        UserError: There is no such figure.
    """
    from dmdd.core.errors import UserError

    if config.objective is None:
        return config.run_dir
    value: Any = json.loads((Path(config.run_dir) / "result.json").read_text(encoding="utf-8"))
    for name in str(config.objective).split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if not isinstance(value, int | float):
        raise UserError(f"objective={config.objective}: result.json has no such figure")
    return float(value)


def train_on_this_device(container: dict[str, Any]) -> None:
    """Do the whole run, in every process; rank 0 writes.

    Args:
        container: Resolved configuration as plain values.
    """
    from lightning import seed_everything
    from omegaconf import OmegaConf

    from dmdd.experiment.category import read_category
    from dmdd.experiment.experiment import Experiment, quiet_lightning

    quiet_lightning()
    config = OmegaConf.create(container)
    seed_everything(config.seed, verbose=False)
    experiment = Experiment(config, read_category(config))
    experiment.distill()
    experiment.segment()
    experiment.save_model()
    validation = experiment.calibrate()
    experiment.save_model()
    experiment.test()
    if experiment.is_first:
        experiment.write(validation=validation)


if __name__ == "__main__":
    sys.exit(main())
