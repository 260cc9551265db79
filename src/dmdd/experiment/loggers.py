"""What the loggers with a page of their own get besides the losses: settings, final figures, pictures, tables."""

import os
import sys
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from dmdd.data.images import read_image

TYPE_COLUMNS = ("images", "images_found", "pixels_found", "aupro_30")

FINISH_TIMEOUT_S = "600"
"""W&B's own default waits for ever at the end of a run whose connection is lost."""


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


def log_result(
    loggers: list[Logger], result: dict[str, Any], *, run_dir: Path, pictures: list[Path], upload_model: bool
) -> None:
    """Send the outcome of a run and close the loggers' runs; one that fails is told on stderr, the result is written.

    Args:
        loggers: Of the run.
        result: As in ``result.json``.
        run_dir: Holds ``curves.png`` and ``model``.
        pictures: Panels to show; their number is what ``evaluation.pictures`` allows.
        upload_model: Also send the model folder to W&B, as an artifact.
    """
    for logger in loggers:
        try:
            if isinstance(logger, WandbLogger):
                _to_wandb(logger, result, run_dir, pictures, upload_model)
            elif isinstance(logger, TensorBoardLogger):
                _to_tensorboard(logger, result, run_dir, pictures)
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
    types = result["test"].get("types", {})
    return [[name, *(values.get(column) for column in TYPE_COLUMNS)] for name, values in types.items()]


def _to_wandb(
    logger: WandbLogger, result: dict[str, Any], run_dir: Path, pictures: list[Path], upload_model: bool
) -> None:
    import wandb

    run: Any = logger.experiment
    run.summary.update(figures(result) | {"result": result})
    if pictures:
        logger.log_image("test/pictures", [str(file) for file in pictures], caption=[file.stem for file in pictures])
    if (run_dir / "curves.png").is_file():
        logger.log_image("test/curves", [str(run_dir / "curves.png")])
    if rows := _type_rows(result):
        logger.log_table("test/types", columns=["type", *TYPE_COLUMNS], data=rows)
    if upload_model:
        name = f"{result['dataset']}-{result['category']}-seed{result['seed']}"
        artifact = wandb.Artifact("".join(c if c.isalnum() or c in "-_." else "_" for c in name), type="model")
        artifact.add_dir(str(run_dir / "model"))
        run.log_artifact(artifact)
    run.finish()


def _to_tensorboard(logger: TensorBoardLogger, result: dict[str, Any], run_dir: Path, pictures: list[Path]) -> None:
    writer: Any = logger.experiment
    for name, value in figures(result).items():
        writer.add_scalar(name, value)
    for file in [*pictures, run_dir / "curves.png"]:
        if file.is_file():
            writer.add_image(f"test/{file.stem}", read_image(file), dataformats="HWC")
    if rows := _type_rows(result):
        shown = [["type", *TYPE_COLUMNS], ["---"] * (1 + len(TYPE_COLUMNS)), *rows]
        cells = [[f"{v:.4f}" if isinstance(v, float) else "" if v is None else str(v) for v in row] for row in shown]
        writer.add_text("test/types", "\n".join(f"| {' | '.join(row)} |" for row in cells))
    writer.close()
