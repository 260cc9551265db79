"""Find run folders and read what they say of themselves."""

import csv
import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dmdd.core.errors import UserError
from dmdd.core.files import read_yaml
from dmdd.report.schema import read_result

# Folders inside a run that hold no runs; W&B keeps a config.yaml of its own. Elsewhere they may be categories.
SKIPPED_FOLDERS = {"images", "model", "wandb"}
POOLED = "all"  # category=all: the categories as one data set, no category of a mean


@dataclass(frozen=True)
class Run:
    """A finished run of ``dmdd.train``, or an evaluation of a saved model by ``dmdd.evaluate``.

    Args:
        folder: Where its files lie.
        result: ``result.json``, checked.
        config: ``config.yaml``; None where there is none, as beside an evaluation.
        pooled: Of one category's part of a run: what named all categories of its model.
    """

    folder: Path
    result: dict[str, Any]
    config: dict[str, Any] | None = None
    pooled: str | None = None

    @property
    def is_pooled(self) -> bool:
        """Whether its figures are of several categories as one test set."""
        return self.category == POOLED or bool(self.result["test"].get("categories"))

    @property
    def parts(self) -> list["Run"]:
        """The run, and before it the part of each category where its model is for several."""
        categories = self.result["test"].get("categories", {})
        made = [
            replace(self, result=self.result | {"category": name, "test": entry}, pooled=self.category)
            for name, entry in categories.items()
        ]
        return [*made, self]

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.result["dataset"]

    @property
    def category(self) -> str:
        """Name of the category."""
        return self.result["category"]

    @property
    def seed(self) -> int | None:
        """Seed of the training; None for an evaluation."""
        return None if self.is_evaluation else self.result["seed"]

    @property
    def is_evaluation(self) -> bool:
        """Whether a saved model was measured again and nothing trained."""
        return "model" in self.result

    @cached_property
    def overrides(self) -> dict[str, str]:
        """What the command changed, value by name; signs of Hydra (``+``, ``~``) are left out of the names."""
        pairs = (part.partition("=") for part in self.result.get("command", [])[3:])
        return {name.lstrip("+~"): value for name, _, value in pairs}

    def figures(self, map_name: str | None = None) -> dict[str, float]:
        """Give the test metrics.

        Args:
            map_name: One of the maps; None for the detector's own map and score.

        Returns:
            Values in [0, 1] by name.
        """
        test = self.result["test"]
        return test["metrics"] if map_name is None else test.get("maps", {}).get(map_name, {})


@dataclass(frozen=True)
class Unreadable:
    """A file that could not be used.

    Args:
        file: The file.
        reason: Why not.
    """

    file: Path
    reason: str


@dataclass(frozen=True)
class Unfinished:
    """A run folder without result: interrupted, failed, or still running.

    Args:
        folder: Where it lies.
        progress: How far its log goes, as text.
    """

    folder: Path
    progress: str


@dataclass
class Found:
    """All that lies below the folders that were searched.

    Args:
        runs: Finished runs and evaluations, sorted by folder.
        unfinished: Run folders without result.
        unreadable: Files that could not be used.
    """

    runs: list[Run] = field(default_factory=list)
    unfinished: list[Unfinished] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)


def collect(paths: Sequence[str | Path]) -> list[Run]:
    """Find the finished runs, passing over everything else.

    Args:
        paths: As for :func:`scan`.

    Returns:
        The runs and evaluations.

    Raises:
        UserError: A path does not exist.
    """
    return scan(paths).runs


def scan(paths: Sequence[str | Path]) -> Found:
    """Search folders recursively for runs, finished or not.

    Args:
        paths: Folders, files named ``result.json``, or patterns with ``*``; a folder reached twice counts once.

    Returns:
        What was found.

    Raises:
        UserError: A path does not exist, or a pattern matches nothing.
    """
    found, seen = Found(), set()
    for top in (match for path in paths for match in _expand(str(path))):
        for folder in _folders(top, found):
            real = folder.resolve()
            if real not in seen:
                seen.add(real)
                _read_folder(folder, found)
    return found


def _expand(path: str) -> list[Path]:
    if os.path.exists(path):
        return [Path(path)]
    matches = sorted(glob.glob(path, recursive=True))
    if not matches:
        raise UserError(f"no folder {path}; give folders that hold runs, such as runs/")
    return [Path(match) for match in matches]


def _folders(top: Path, found: Found) -> Iterator[Path]:
    if top.is_file():
        if top.name == "result.json":
            yield top.parent
        return
    entered: set[str] = set()
    # Links are followed, since a run may lie on another disk; a link back to where we came from is not.
    for folder, children, files in os.walk(top, followlinks=True, onerror=lambda error: _note_closed(error, found)):
        real = os.path.realpath(folder)
        if real in entered:
            children.clear()
            continue
        entered.add(real)
        skipped = SKIPPED_FOLDERS if {"result.json", "config.yaml"} & set(files) else set()
        children[:] = sorted(name for name in children if name not in skipped and not name.startswith("."))
        yield Path(folder)


def _note_closed(error: OSError, found: Found) -> None:
    found.unreadable.append(Unreadable(Path(error.filename), f"cannot be read: {error.strerror}"))


def _read_folder(folder: Path, found: Found) -> None:
    result_file, config_file = folder / "result.json", folder / "config.yaml"
    config = None
    if config_file.is_file():
        try:
            config = _read_config(config_file)
        except UserError as error:
            found.unreadable.append(Unreadable(config_file, str(error)))
    if result_file.is_file():
        try:
            run = Run(folder, read_result(result_file), config)
            check_whole(run)
            found.runs.append(run)
        except UserError as error:
            found.unreadable.append(Unreadable(result_file, str(error)))
    elif config is not None and {"dataset", "category", "seed"} <= set(config):  # else another program's config.yaml
        found.unfinished.append(Unfinished(folder, _progress(folder)))


LIMITS = ("limit_test_batches", "fast_dev_run")
"""Settings of a trainer that older versions took, and then measured a part of the test images or none."""


def check_whole(run: Run) -> None:
    """Refuse figures that are not of all test images that were listed.

    Args:
        run: A run or an evaluation, of this version or an older one.

    Raises:
        UserError: They are not.
    """
    images = run.result.get("images", {})
    listed, tested = images.get("listed"), images.get("tested")
    if listed is not None and tested != listed:
        raise UserError(f"measured on {tested} of {listed} test images")
    trainer = (run.config or {}).get("trainer")
    settings = {f"trainer.{name}": value for name, value in (trainer if isinstance(trainer, dict) else {}).items()}
    for name in (f"trainer.{limit}" for limit in LIMITS):
        value = settings.get(name, run.overrides.get(name))
        if str(value) not in ("None", "null", "1.0", "False", "false"):
            raise UserError(f"{name}={value}: not measured on all test images; train again without it")
    metrics = run.figures()
    if (
        metrics
        and metrics == (run.result.get("synthetic_validation") or {}).get("metrics")
        and not run.result["test"].get("types")
    ):
        raise UserError("its test figures are those of the synthetic validation; measure the model with dmdd evaluate")


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = read_yaml(file)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"damaged: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise UserError("damaged: not a mapping")
    return {str(key): value for key, value in config.items()}


def _progress(folder: Path) -> str:
    """Say what the log's last line tells; a log that is being written may be anything."""
    try:
        with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error):
        rows = []
    if not rows:
        return "nothing logged"
    stage = next((name for name in ("segmentation", "distillation") if rows[-1].get(f"{name}/loss")), "unknown stage")
    return f"last logged: {stage}, step {rows[-1].get('step')}"
