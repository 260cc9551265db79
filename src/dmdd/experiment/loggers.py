"""What the loggers with a page of their own get besides the losses: settings, final figures, pictures, tables."""

import csv
import inspect
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from dmdd.config.schema import Target
from dmdd.config.targets import find_target
from dmdd.data.images import read_image
from dmdd.data.listing import NORMAL
from dmdd.experiment.charts import CURVE_AXES
from dmdd.experiment.pictures import MISTAKES_FILE, Picture, verdict
from dmdd.models.score_scale import ScoreScale

TYPE_COLUMNS = ("images", "found", "false alarms", "image AUROC", "pixels found", "AUPRO@0.3")
IMAGE_COLUMNS = ("file", "type", "label", "score", "verdict", "picture")
CLASSES = {0: "normal", 1: "anomalous"}

FINISH_TIMEOUT_S = "600"
"""W&B's own default waits for ever at the end of a run whose connection is lost."""

CHARTS = ("curves.png", "training.png", MISTAKES_FILE)


def is_wandb(entry: Target) -> bool:
    """Tell whether an entry of ``logger=`` is W&B's logger or a class of a user's that extends it."""
    target = find_target(entry.get("_target_"))
    return inspect.isclass(target) and issubclass(target, WandbLogger)


def connect(loggers: list[Logger]) -> bool:
    """Open the W&B run, if there is one, or say on one line of stderr why it cannot be opened.

    Args:
        loggers: Of the run.

    Returns:
        Whether the loggers can be used as they are.
    """
    for logger in loggers:
        if not isinstance(logger, WandbLogger):
            continue
        os.environ.setdefault("WANDB_FINISH_TIMEOUT", FINISH_TIMEOUT_S)
        try:
            _ = logger.experiment
        except Exception as error:  # the client raises errors of its own and of what lies below it
            import wandb

            wandb.teardown()  # its service would still hold the run's name
            _warn(f"W&B cannot be used ({error}); this run is logged offline, wandb sync sends it later")
            return False
    return True


def _warn(message: str) -> None:
    print(f"warning: {' '.join(message.split())}", file=sys.stderr, flush=True)


def log_settings(loggers: list[Logger], settings: dict[str, Any]) -> None:
    """Tell the dashboards the run's settings, so that they can group and filter by them.

    Args:
        loggers: Of the run; others than W&B and TensorBoard have the settings in ``config.yaml``.
        settings: The resolved configuration.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger | TensorBoardLogger):
            logger.log_hyperparams(settings)


def take_pictures(loggers: list[Logger]) -> bool:
    """Tell whether any of the loggers shows pictures."""
    return any(isinstance(logger, WandbLogger | TensorBoardLogger) for logger in loggers)


def show_picture(loggers: list[Logger], name: str, rgb: np.ndarray, *, step: int) -> None:
    """Send a picture to the loggers that show pictures; one that fails is told on stderr.

    Args:
        loggers: Of the run.
        name: ``stage/what``.
        rgb: ``(H, W, 3)`` uint8.
        step: From 0, over both stages.
    """
    for logger in loggers:
        try:
            if isinstance(logger, WandbLogger):
                logger.log_image(name, [rgb], step=step)
            elif isinstance(logger, TensorBoardLogger):
                writer: Any = logger.experiment
                writer.add_image(name, rgb, step, dataformats="HWC")
        except Exception as error:  # no dashboard is worth a training
            _warn(f"{type(logger).__name__} did not take {name}: {type(error).__name__} {error}")


def log_result(
    loggers: list[Logger],
    result: dict[str, Any],
    *,
    settings: dict[str, Any],
    run_dir: Path,
    pictures: list[Picture],
    upload_model: bool,
) -> None:
    """Send the outcome of a run and close the loggers' runs; one that fails is told on stderr, the result is written.

    Args:
        loggers: Of the run.
        result: As in ``result.json``.
        settings: The resolved configuration.
        run_dir: Holds ``scores.csv``, the charts and ``model``.
        pictures: To show; their number is what ``evaluation.pictures`` allows.
        upload_model: Also send the model folder to W&B, as an artifact.
    """
    step = settings["distillation"]["steps"] + settings["segmentation_training"]["steps"]
    for logger in loggers:
        try:
            if isinstance(logger, WandbLogger):
                _to_wandb(logger, result, run_dir, pictures, step, upload_model)
            elif isinstance(logger, TensorBoardLogger):
                _to_tensorboard(logger, result, run_dir, pictures, step, settings)
        except Exception as error:  # no dashboard is worth a finished run
            _warn(f"{type(logger).__name__} did not take the result: {type(error).__name__} {error}")


def figures(result: dict[str, Any]) -> dict[str, float]:
    """Name the final figures as the loggers show them: of the test, of the synthetic validation, of every map.

    Args:
        result: As in ``result.json``.

    Returns:
        Values in [0, 1] by ``test/metric``, ``validation/metric`` and ``test_MAP/metric``.
    """
    named = {f"test/{name}": value for name, value in result["test"]["metrics"].items()}
    named |= {f"validation/{name}": value for name, value in result["synthetic_validation"].get("metrics", {}).items()}
    for shown, values in result["test"].get("maps", {}).items():
        named |= {f"test_{shown}/{name}": value for name, value in values.items()}
    return named


def _type_rows(result: dict[str, Any]) -> list[list[Any]]:
    """Lay out the figures by type; what is found on good images are false alarms."""
    rows = []
    for name, values in result["test"].get("types", {}).items():
        found, alarms = (None, values.get("images_found")) if name == NORMAL else (values.get("images_found"), None)
        others = [values.get(key) for key in ("image_auroc", "pixels_found", "aupro_30")]
        rows.append([name, values.get("images"), found, alarms, *others])
    return rows


def _charts(run_dir: Path) -> list[Path]:
    return [file for name in CHARTS if (file := run_dir / name).is_file()]


def _to_wandb(
    logger: WandbLogger, result: dict[str, Any], run_dir: Path, pictures: list[Picture], step: int, upload_model: bool
) -> None:
    import wandb

    run: Any = logger.experiment
    named = figures(result)
    logger.log_metrics(named, step)  # panels; the summary alone has none
    run.summary.update(named | {"result": result})
    for file in _charts(run_dir):
        logger.log_image(f"test/{file.stem}", [str(file)], step=step)
    if pictures:
        shown = [_masked(picture) for picture in pictures]
        run.log({"test/pictures": shown, "trainer/global_step": step})
        logger.log_table(
            "test/images", columns=list(IMAGE_COLUMNS), data=_image_rows(run_dir, result, pictures), step=step
        )
    if rows := _type_rows(result):
        logger.log_table("test/types", columns=["type", *TYPE_COLUMNS], data=rows, step=step)
    for name, chart in _plots(run_dir).items():
        run.log({f"test/{name}": chart, "trainer/global_step": step})
    if upload_model:
        name = f"{result['dataset']}-{result['category']}-seed{result['seed']}"
        artifact = wandb.Artifact("".join(c if c.isalnum() or c in "-_." else "_" for c in name), type="model")
        artifact.add_dir(str(run_dir / "model"))
        run.log_artifact(artifact)
    run.finish()


def _masked(picture: Picture) -> Any:
    """Give W&B an image whose ground truth and prediction can be switched on and off."""
    import wandb

    masks = {
        name: {"mask_data": mask.astype(np.uint8), "class_labels": CLASSES}
        for name, mask in (("ground_truth", picture.true), ("prediction", picture.found))
    }
    classes = [{"id": number, "name": name} for number, name in CLASSES.items()]
    return wandb.Image(picture.rgb, caption=picture.caption, masks=masks, classes=classes)


def _image_rows(run_dir: Path, result: dict[str, Any], pictures: list[Picture]) -> list[list[Any]]:
    """List all test images: those with a picture first, then by score. W&B takes a column's type from its first row."""
    drawn = {picture.index: picture for picture in pictures}
    threshold = 0.5 if ScoreScale.of(result["calibration"]) else result["calibration"].get("image_threshold")
    with (run_dir / "scores.csv").open(newline="", encoding="utf-8", errors="replace") as text:
        rows = []
        for index, row in enumerate(csv.DictReader(text)):
            score, label = float(row["score"]), int(row["label"])
            picture = _masked(drawn[index]) if index in drawn else None
            rows.append([row["file"], row["defect"], CLASSES[label], score, verdict(label, score, threshold), picture])
    return sorted(rows, key=lambda row: (row[-1] is None, -row[3]))


def _plots(run_dir: Path) -> dict[str, Any]:
    """Draw the curves as W&B's own charts, which can be laid over those of other runs."""
    import wandb

    file = run_dir / "curves.json"
    if not file.is_file():
        return {}
    plots = {}
    for name, curve in json.loads(file.read_text(encoding="utf-8")).items():
        drawn = CURVE_AXES[name]
        points = [[x, y] for x, y in zip(curve["x"], curve["y"], strict=True) if x <= drawn.x_limit]
        table = wandb.Table(columns=[drawn.x_label, drawn.y_label], data=points)
        plots[name] = wandb.plot.line(table, drawn.x_label, drawn.y_label, title=drawn.title)
    return plots


def _to_tensorboard(
    logger: TensorBoardLogger,
    result: dict[str, Any],
    run_dir: Path,
    pictures: list[Picture],
    step: int,
    settings: dict[str, Any],
) -> None:
    writer: Any = logger.experiment
    named = figures(result)
    # Also draws each figure as a scalar. The maps' figures would bury the table's columns.
    logger.log_hyperparams(settings, {k: v for k, v in named.items() if not k.startswith("test_")}, step)
    for name, value in named.items():
        if name.startswith("test_"):
            writer.add_scalar(name, value, step)
    for file in [*(picture.file for picture in pictures), *_charts(run_dir)]:
        writer.add_image(f"test/{file.stem}", read_image(file), step, dataformats="HWC")
    if rows := _type_rows(result):
        shown = [["type", *TYPE_COLUMNS], ["---"] * (1 + len(TYPE_COLUMNS)), *rows]
        cells = [[f"{v:.4f}" if isinstance(v, float) else "" if v is None else str(v) for v in row] for row in shown]
        writer.add_text("test/types", "\n".join(f"| {' | '.join(row)} |" for row in cells), step)
    writer.close()
