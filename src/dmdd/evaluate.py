"""Measure a saved model on a test set: ``python -m dmdd.evaluate model=runs/.../model category=screw``."""

import json
import shutil
import sys
import time
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

    return run_whole(evaluate, "evaluate", arguments)


def evaluate(config: Any) -> None:
    """Evaluate as configured, on one device.

    Args:
        config: ``conf/evaluate.yaml`` composed.

    Raises:
        UserError: The model, the data or a setting cannot be used.
    """
    from omegaconf import OmegaConf

    from dmdd.core.errors import UserError, check_positive
    from dmdd.experiment.category import read_category
    from dmdd.experiment.leaving import no_empty_folder

    with no_empty_folder(Path(config.run_dir)):
        OmegaConf.resolve(config)
        if config.model is None:
            raise UserError("model is missing: give model=FOLDER, the model folder of a run")
        check_positive("batch_size", config.batch_size)
        if (Path(config.run_dir) / "config.yaml").is_file():  # an evaluation writes none
            raise UserError(
                f"{config.run_dir} holds a training run, whose result would be lost; give another hydra.run.dir="
            )
        measure(config, read_category(config))


def measure(config: Any, category: Any) -> None:
    """Measure the model and write what is found.

    Args:
        config: Resolved.
        category: ``dmdd.data.listing.Category``.

    Raises:
        UserError: The model, the data or a setting cannot be used.
    """
    from hydra.core.hydra_config import HydraConfig
    from lightning import Trainer
    from torch.utils.data import DataLoader

    from dmdd.config.compose import build
    from dmdd.core import failures, hardware, provenance
    from dmdd.core.errors import warn
    from dmdd.data.datamodule import keep_batch
    from dmdd.data.datasets import FileDataset, within
    from dmdd.data.plausibility import doubts_of_category
    from dmdd.data.regions import choose_regions
    from dmdd.data.saturation import defect_reader
    from dmdd.experiment import devices, outputs
    from dmdd.experiment.experiment import quiet_lightning, write_evaluation
    from dmdd.models.detector import Detector
    from dmdd.training.evaluation import EvaluationModule, choose_exact

    started = time.monotonic()
    run_dir = Path(config.run_dir)
    detector = Detector.load(config.model)
    regions = choose_regions(detector.region, roi=config.roi, ignore=config.ignore, base=category.root)
    category = within(category, regions)
    own = config.native_masks or detector.tiling is not None  # compared at the images' own size
    warn(doubts_of_category(category, size=None if own else detector.input_size))
    choose_maps(detector, anomaly_map=config.anomaly_map, score_map=config.score_map)
    accelerator = hardware.resolve_accelerator(config.accelerator)
    devices.check_devices(1, accelerator, config.batch_size)
    precision: Any = hardware.resolve_precision(config.precision, accelerator, setting="precision")
    quiet_lightning()
    module = EvaluationModule(
        detector,
        defects=[sample.defect for sample in category.test],
        has_masks=category.has_masks,
        study_maps=config.study_maps,
        resamples=config.resamples,
        exact=choose_exact(config.exact, category.test, size=None if own else detector.input_size),
        read_defects=None if regions else defect_reader(category.test),
    )
    whole = detector.tiling is None
    shown = detector.input_size if whole else None
    dataset = FileDataset(category.test, shown, native_masks=config.native_masks, regions=regions)
    indices, size = list(range(len(dataset))), config.batch_size if whole else 1
    batches = [indices[i : i + size] for i in range(0, len(indices), size)]
    loader = DataLoader(dataset, batch_sampler=batches, num_workers=config.num_workers, collate_fn=keep_batch)
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[build(entry) for entry in config.callbacks.values() if entry is not None],
    )
    with failures.report_errors("the test", sizes={"batch_size": config.batch_size}), hardware.whole_float32():
        trainer.test(module, dataloaders=loader, verbose=False)
    test = outputs.evaluation_entries(module, "test", listed=len(category.test))
    with failures.report_write_errors(run_dir, then="start the same command again"):
        if (run_dir / "scores.csv").is_file():  # pictures of an earlier evaluation, not somebody's folder
            shutil.rmtree(run_dir / "images", ignore_errors=True)
        write_evaluation(
            run_dir,
            evaluation=module,
            category=category,
            pictures=config.pictures,
            accelerator=accelerator,
            regions=regions,
        )
    result = {
        "dataset": category.dataset,
        "category": category.name,
        "model": str(Path(config.model).resolve()),
        "test": test,
        "images": {"listed": len(category.test), "tested": len(module.scores)},
        "calibration": detector.calibration,
        "training": training_of(Path(config.model)),
        "protocol": outputs.protocol(native_masks=config.native_masks, tiling=detector.tiling, regions=regions),
        "wall_time_s": {"evaluation": round(time.monotonic() - started, 2)},
        "device": hardware.describe_device(accelerator),
        "precision": {"evaluation": precision},
        "commit": provenance.git_commit(),
        "versions": provenance.describe_versions(),
        "command": ["python", "-m", "dmdd.evaluate", *HydraConfig.get().overrides.task],
    }
    with failures.report_write_errors(run_dir, then="start the same command again"):
        outputs.write_result(run_dir / "result.json", result)
    outputs.print_summary(result, run_dir)


FOUND = ("pixel_f1_on_synthetic", "normal_images")
"""Of the calibration what nobody changes by hand, as thresholds are."""


def training_of(model: Path) -> dict[str, Any] | None:
    """Give what a reader of figures must know of the training, from the result that lies beside a run's model.

    Args:
        model: The model folder.

    Returns:
        ``dataset``, ``category``, ``seed``, ``teacher`` (backbone, weights, checksum) and ``commit``; None where the
        model was taken out of its run, or is another one by its calibration.

    Source: ours.
    """
    try:
        result = json.loads((model / ".." / "result.json").read_text(encoding="utf-8"))
        calibration = json.loads((model / "detector.json").read_text(encoding="utf-8"))["calibration"]
        if any(result["calibration"].get(name) != calibration.get(name) for name in FOUND):
            return None
        return {name: result[name] for name in ("dataset", "category", "seed", "teacher", "commit")}
    except (OSError, ValueError, LookupError, TypeError):
        return None


def choose_maps(detector: Any, *, anomaly_map: str | None, score_map: str | None) -> None:
    """Let a detector use other maps than its own; its thresholds hold for its own only, so they are dropped then.

    A warning says so where a model does not know the levels of normal images in the score's map.

    Args:
        detector: Changed in place.
        anomaly_map: Name of a map; None keeps the detector's.
        score_map: The same for the image score.

    Raises:
        UserError: There is no such map.
    """
    from dmdd.core.errors import UserError, warn
    from dmdd.models.detector import MAP_NAMES

    for setting, name in (("anomaly_map", anomaly_map), ("score_map", score_map)):
        if name is None or name == getattr(detector, setting):
            continue
        if name not in MAP_NAMES:
            raise UserError(f"{setting}={name}: choose one of {', '.join(MAP_NAMES)}")
        setattr(detector, setting, name)
        detector.calibration = {}
    if detector.normal_levels and detector.level_power and detector.score_map not in detector.normal_levels:
        told = f"the model is older than the map {detector.score_map}: its score leaves the image's level out"
        warn([f"{told}, which a training today would not"])


if __name__ == "__main__":
    sys.exit(main())
