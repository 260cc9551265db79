"""What is calibrated: a model's folder, or an exported file with its JSON; both score images and keep history.

Nothing here needs torch before a model's folder is opened: a server calibrates the exported file that it serves.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dmdd.core.errors import UserError
from dmdd.core.files import write_atomically
from dmdd.data.images import read_image
from dmdd.deploy.runtimes import Run
from dmdd.models.score_scale import ScoreScale, find_category

EXPORTED = (".onnx", ".xml", ".pt2")


class Subject(ABC):
    """A model whose thresholds are set.

    Args:
        file: JSON that holds its calibration.
        entries: Its content.
        category: Of a model for several the one whose thresholds are set; None for those of all of them.

    Raises:
        UserError: The model knows no thresholds of that category.
    """

    def __init__(self, file: Path, entries: dict[str, Any], category: str | None) -> None:
        self.file, self.entries, self.category = file, entries, category
        _ = self.calibration

    @property
    def calibration(self) -> dict[str, Any]:
        """The calibration in force, on the scale of raw scores."""
        if self.category is not None:
            return dict(find_category(self.category, self.entries.get("category_calibrations", {})))
        return dict(self.entries.get("calibration") or {})

    @property
    def former(self) -> list[dict[str, Any]]:
        """Those before it, oldest first."""
        return list(self.entries.get("former_calibrations", []))

    @abstractmethod
    def score(self, files: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
        """Score images; returns raw scores and the maps' largest values, each ``(N,)`` in [0, 1]."""

    def thresholds(self, calibration: dict[str, Any]) -> dict[str, Any]:
        """Give entries beside the calibration that must follow it; none here."""
        return {}

    def keep(self, calibration: dict[str, Any]) -> None:
        """Put a new calibration in force and keep the former one.

        Args:
            calibration: Plain JSON values.
        """
        entries = {**self.entries, "former_calibrations": [*self.former, self.calibration]}
        if self.category is None:
            entries |= {"calibration": calibration, **self.thresholds(calibration)}
        else:
            entries["former_calibrations"][-1]["category"] = self.category
            entries["category_calibrations"] = {**entries["category_calibrations"], self.category: calibration}
        write_atomically(self.file, json.dumps(entries, indent=2) + "\n")


class ExportedModel(Subject):
    """An exported file; what is written is the JSON beside it, whose thresholds are the ones to use.

    Args:
        file: Ends in one of ``EXPORTED``.
        category: As for :class:`Subject`.
        run: The graph, where it has been loaded already.

    Raises:
        UserError: The JSON is missing or damaged, or knows no thresholds of that category.
    """

    def __init__(self, file: Path, category: str | None = None, *, run: Run | None = None) -> None:
        beside = file.with_name(file.name + ".json")
        try:
            entries = json.loads(beside.read_text(encoding="utf-8"))
            outputs = tuple(entries["output"])
        except (OSError, ValueError, LookupError, TypeError):
            raise UserError(f"{beside} is missing or damaged; export the model again") from None
        super().__init__(beside, entries, category)
        # The graph's own scale is the one it was exported with.
        former = [one for one in self.former if "category" not in one]
        self.scale = ScoreScale.of((former or [entries.get("calibration") or {}])[0])
        self.run = _load(file, outputs) if run is None else run

    @property
    def calibration(self) -> dict[str, Any]:
        """The calibration in force; files exported before it was written know two thresholds."""
        known = {name: self.entries.get(name) for name in ("image_threshold", "pixel_threshold")}
        return super().calibration or {name: value for name, value in known.items() if value is not None}

    def score(self, files: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
        """Score image files, one after the other."""
        found = [self._run(file) for file in files]
        name = "raw_score" if "raw_score" in self.entries["output"] else "score"
        return np.array([one[name][0] for one in found]), np.array([one["map"].max() for one in found])

    def _run(self, file: Path) -> dict[str, np.ndarray]:
        pixels, size = read_image(file), self.entries.get("fixed_size")
        if size is not None and tuple(size) != pixels.shape[:2]:
            raise UserError(
                f"{file} has {pixels.shape[1]} x {pixels.shape[0]} px, but {self.file.stem} takes images of "
                f"{size[1]} x {size[0]} px only"
            )
        images = pixels[None]
        if self.entries.get("layout") == "nchw":
            images = np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / 255
        return self.run(images)

    def thresholds(self, calibration: dict[str, Any]) -> dict[str, Any]:
        """Say what the graph's own outputs are to be compared with."""
        raw = calibration["image_threshold"]
        return {
            "image_threshold": raw if self.scale is None else self.scale.readable(raw),
            "pixel_threshold": calibration.get("pixel_threshold"),
            "smallest_area_px": calibration.get("smallest_area_px", 0),
        }


def _load(file: Path, outputs: tuple[str, ...]) -> Any:
    try:
        if file.suffix == ".onnx":
            from dmdd.deploy.runtimes import load_onnx

            return load_onnx(file)
        if file.suffix == ".xml":
            from dmdd.deploy.runtimes import load_openvino

            return load_openvino(file)
        from dmdd.deploy.export.program import load_program

        return load_program(file, outputs)
    except ModuleNotFoundError as error:
        raise UserError(f"{file.suffix} files need {error.name}; install it: pip install 'dmdd[export]'") from None
    except Exception as error:  # each runtime has its own
        raise UserError(f"{file} cannot be loaded: {' '.join(str(error).split())[:200]}") from None


def open_subject(model: Path, *, device: str | None, batch_size: int, category: str | None) -> Subject:
    """Open what ``model=`` names.

    Args:
        model: A model folder or an exported file.
        device: For a folder.
        batch_size: For a folder.
        category: Of a model for several the one whose thresholds are set; None for those of all of them.

    Returns:
        The subject.

    Raises:
        UserError: It is neither, or knows no thresholds of that category.
    """
    if model.suffix in EXPORTED:
        if not model.is_file():
            raise UserError(f"model={model}: no such file")
        return ExportedModel(model, category)
    from dmdd.deploy.calibrate.trained import TrainedModel
    from dmdd.inference.predictor import load

    return TrainedModel(model, load(model, device=device), batch_size=batch_size, category=category)
