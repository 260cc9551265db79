"""The model folder of a run, as what is calibrated."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from dmdd.core.resize import resize_masks
from dmdd.deploy.calibrate.subject import Subject
from dmdd.inference.conversion import as_tensor
from dmdd.inference.predictor import Predictor
from dmdd.models.detector import SPEC_FILE


class TrainedModel(Subject):
    """The ``model`` folder of a run.

    Args:
        folder: The folder.
        predictor: Loaded from it.
        batch_size: Images at once.
        category: As for :class:`Subject`.
    """

    def __init__(self, folder: Path, predictor: Predictor, *, batch_size: int = 1, category: str | None = None) -> None:
        self.predictor, self.batch_size = predictor, batch_size
        file = folder / SPEC_FILE
        super().__init__(file, json.loads(file.read_text(encoding="utf-8")), category)

    def score(self, files: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
        """Score image files."""
        scores: list[float] = []
        peaks: list[float] = []
        for first in range(0, len(files), self.batch_size):
            some = files[first : first + self.batch_size]
            images = [as_tensor(file) for file in some]
            sizes = [(image.shape[1], image.shape[2]) for image in images]
            inside = [self.predictor.inside(file, size) for file, size in zip(some, sizes, strict=True)]
            maps, found = self.predictor.predict([self.predictor.prepare(image) for image in images], inside)
            scores += found
            peaks += [_peak(heat, region) for heat, region in zip(maps, inside, strict=True)]
        return np.array(scores), np.array(peaks)


def _peak(heat: Tensor, inside: Tensor | None) -> float:
    if inside is None:
        return float(heat.max())
    # As in a prediction, where the region has the last word on what the map shows.
    return float((heat * resize_masks(inside[None, None], (heat.shape[0], heat.shape[1]))[0, 0]).max())
