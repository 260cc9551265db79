"""A saved model measured on a test set, as the test that ends a training does it."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

from lightning import Trainer
from torch.utils.data import DataLoader

from dmdd.config.check import plain_of
from dmdd.config.schema import EvaluateSettings
from dmdd.config.targets import build_all, check_arguments
from dmdd.core import failures, hardware, provenance
from dmdd.core.errors import warn
from dmdd.data.datamodule import keep_batch
from dmdd.data.datasets import FileDataset, within
from dmdd.data.listing import Category
from dmdd.data.plausibility import doubts_of_category
from dmdd.data.regions import Regions, choose_regions
from dmdd.data.saturation import defect_reader
from dmdd.experiment import devices, outputs
from dmdd.experiment.experiment import quiet_lightning, write_evaluation
from dmdd.models.detector import Detector
from dmdd.training.evaluation import EvaluationModule, choose_exact


def measure(settings: EvaluateSettings, category: Category) -> dict[str, Any]:
    """Measure the model and write what is found.

    Args:
        settings: Of the evaluation.
        category: Whose test set.

    Returns:
        What ``result.json`` holds.

    Raises:
        UserError: The model, the data or a setting cannot be used.
    """
    started, run_dir = time.monotonic(), Path(settings.run_dir)
    check_arguments(plain_of(settings))
    with failures.report_write_errors(run_dir, then="start the same command again"):
        run_dir.mkdir(parents=True, exist_ok=True)  # now, not after all images were scored
    detector = Detector.load(settings.model)
    regions = choose_regions(detector.region, roi=settings.roi, ignore=settings.ignore, base=category.root)
    category = within(category, regions)
    warn(doubts_of_category(category, size=_compared_at(settings, detector)))
    if category.name in detector.category_calibrations:
        detector.choose_category(category.name)
    choose_maps(detector, anomaly_map=settings.anomaly_map, score_map=settings.score_map)
    accelerator = hardware.resolve_accelerator(settings.accelerator, setting="accelerator")
    devices.check_devices(1, accelerator, settings.batch_size)
    precision = hardware.resolve_precision(settings.precision, accelerator, setting="precision")
    module = _score(settings, detector, category, regions, accelerator=accelerator, precision=precision)
    entries = outputs.evaluation_entries(module, "test", listed=len(category.test))
    with failures.report_write_errors(run_dir, then="start the same command again"):
        if (run_dir / "scores.csv").is_file():  # pictures of an earlier evaluation, not somebody's folder
            shutil.rmtree(run_dir / "images", ignore_errors=True)
        write_evaluation(
            run_dir,
            evaluation=module,
            category=category,
            pictures=settings.pictures,
            accelerator=accelerator,
            regions=regions,
        )
        result = {
            "dataset": category.dataset,
            "category": category.name,
            "model": str(Path(settings.model).resolve()),
            "test": entries,
            "images": {"listed": len(category.test), "tested": len(module.scores)},
            "calibration": detector.calibration,
            "training": training_of(Path(settings.model)),
            "protocol": outputs.protocol(native_masks=settings.native_masks, tiling=detector.tiling, regions=regions),
            "wall_time_s": {"evaluation": round(time.monotonic() - started, 2)},
            "device": hardware.describe_device(accelerator),
            "precision": {"evaluation": precision},
            "commit": provenance.git_commit(),
            "versions": provenance.describe_versions(),
            "command": ["python", "-m", "dmdd.evaluate", *settings.overrides],
        }
        outputs.write_result(run_dir / "result.json", result)
    outputs.print_summary(result, run_dir)
    return result


def _compared_at(settings: EvaluateSettings, detector: Detector) -> tuple[int, int] | None:
    """Give the size that maps and masks are compared at; None for the images' own."""
    return None if settings.native_masks or detector.tiling is not None else detector.input_size


def _score(
    settings: EvaluateSettings,
    detector: Detector,
    category: Category,
    regions: Regions,
    *,
    accelerator: str,
    precision: Any,
) -> EvaluationModule:
    quiet_lightning()
    module = EvaluationModule(
        detector,
        defects=[sample.defect for sample in category.test],
        categories=[sample.category for sample in category.test],
        parts=[sample.part for sample in category.test],
        has_masks=category.has_masks,
        study_maps=settings.study_maps,
        resamples=settings.resamples,
        exact=choose_exact(settings.exact, category.test, size=_compared_at(settings, detector)),
        read_defects=None if regions else defect_reader(category.test),
        own_pixel_metrics=build_all(settings.pixel_metrics),
        own_image_metrics=build_all(settings.image_metrics),
    )
    whole = detector.tiling is None
    shown = detector.input_size if whole else None
    dataset = FileDataset(category.test, shown, native_masks=settings.native_masks, regions=regions)
    indices, size = list(range(len(dataset))), settings.batch_size if whole else 1
    batches = [indices[i : i + size] for i in range(0, len(indices), size)]
    loader = DataLoader(dataset, batch_sampler=batches, num_workers=settings.num_workers, collate_fn=keep_batch)
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=list(build_all(settings.callbacks).values()),
    )
    with failures.report_errors("the test", sizes={"batch_size": size}), hardware.whole_float32():
        trainer.test(module, dataloaders=loader, verbose=False)
    return module


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


def choose_maps(detector: Detector, *, anomaly_map: str | None, score_map: str | None) -> None:
    """Let a detector use other maps than its own; its thresholds hold for its own only, so they are dropped then.

    A warning says so where a model does not know the baselines of normal images in the score's map.

    Args:
        detector: Changed in place.
        anomaly_map: Name of a map; None keeps the detector's.
        score_map: The same for the image score.

    Raises:
        UserError: There is no such map.
    """
    for setting, name in (("anomaly_map", anomaly_map), ("score_map", score_map)):
        if name is None or name == getattr(detector, setting):
            continue
        setattr(detector, setting, detector.find_map(setting, name))
        detector.calibration, detector.category_calibrations = {}, {}
    if detector.normal_baselines and detector.baseline_power and detector.score_map not in detector.normal_baselines:
        told = f"the model is older than the map {detector.score_map}: its score leaves the image's baseline out"
        warn([f"{told}, which a training today would not"])
