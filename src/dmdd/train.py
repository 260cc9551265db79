"""Train DMDD in two stages on one category, measure it once, and leave a run folder: ``python -m dmdd.train``."""

import json
import sys
from pathlib import Path
from typing import Any

from dmdd.config.compose import print_error, run

MORE_REGIONS = 1.1
"""How many times as many regions a mask may have at the input size before it is told."""


def main(arguments: list[str] | None = None) -> int:
    """Run the entry point.

    Args:
        arguments: Hydra overrides; ``sys.argv[1:]`` if None.

    Returns:
        Exit code.
    """
    try:
        return run(train, "train", arguments)
    except OSError as error:  # Hydra makes the run folder, and says nothing where it cannot
        from dmdd.core.failures import describe_write_error

        if (told := describe_write_error(error)) is None:
            raise
        print_error(told)
        return 2


def train(config: Any) -> Any:
    """Train as configured, on one device or several.

    Args:
        config: ``conf/train.yaml`` composed.

    Returns:
        The run folder; or, if ``objective`` names a figure of the result, that figure.

    Raises:
        UserError: Something given cannot be used.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from dmdd.config.compose import build
    from dmdd.core import hardware
    from dmdd.core.errors import UserError, check_positive, check_seed
    from dmdd.data.datasets import check_files
    from dmdd.experiment import devices, launch, locking, resume
    from dmdd.experiment.category import read_category
    from dmdd.models.detector import check_input_size

    check_seed(config.seed)
    if config.objective is not None and str(config.objective).split(".")[0] == "test":
        raise UserError(f"objective={config.objective}: nothing may be chosen on test data; use synthetic_validation")
    if config.resume and (earlier := resume.find_run(config)):
        move_to(config, earlier)
        if resume.is_finished(earlier):
            OmegaConf.resolve(config)
            if are_others(earlier, config):
                told = (
                    f"the images are no longer those of {earlier}; give name=, or leave resume=true out, to train anew"
                )
                print(f"warning: {told}", file=sys.stderr)
            print(f"finished already: {earlier}", flush=True)
            return outcome(config)
    OmegaConf.resolve(config)
    # Before any process or training starts, since this is where most mistakes are.
    size = check_input_size(config.image_size)
    masks = check_files(read_category(config).test, size=None if config.evaluation.native_masks else size)
    for warning in doubts_of_masks(masks):
        print(f"warning: {warning}", file=sys.stderr)
    check_positive("batch_size", config.batch_size)
    check_positive("save_state_every_n_steps", config.save_state_every_n_steps)
    devices.check_steps(config.trainer)
    if config.launcher.claim_gpu and config.trainer.accelerator in ("auto", "gpu", "cuda"):
        locking.claim_gpu(runs_per_gpu=config.launcher.runs_per_gpu, wait_s=config.launcher.get("wait_s", 600))
    accelerator = hardware.resolve_accelerator(config.trainer.accelerator)
    count = devices.check_devices(config.trainer.devices, accelerator, config.batch_size)
    launch.join_srun()
    launch.check_processes(count)
    if count > 1:
        build(config.teacher)  # fetched once here, if it comes from a hub, and not by every process at once
    container: Any = OmegaConf.to_container(config)
    container["overrides"] = list(HydraConfig.get().overrides.task)
    with locking.locked(Path(config.run_dir)):
        launch.launch(train_on_this_device, container, devices=count)
    return outcome(config)


def doubts_of_masks(masks: Any) -> list[str]:
    """Say where the masks of a test set do not measure what they seem to.

    Args:
        masks: What ``dmdd.data.datasets.check_files`` gives.

    Returns:
        Sentences, mostly none.
    """
    doubts = []
    for files, what in ((masks.empty, "marks nothing"), (masks.lost, "marks nothing at the input size")):
        if files:
            more = f" and {len(files) - 1} more" if len(files) > 1 else ""
            doubts.append(f"the mask {files[0]}{more} {what}, so the pixels of that defect count as normal ones")
    if masks.regions_left > MORE_REGIONS * masks.regions:
        doubts.append(
            f"the {masks.regions} regions of the masks are {masks.regions_left} pieces at the input size, "
            "each of which counts in AUPRO"
        )
    if doubts and (masks.lost or masks.regions_left > MORE_REGIONS * masks.regions):
        doubts.append("evaluation.native_masks=true compares maps with masks at their own size")
    return doubts


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
