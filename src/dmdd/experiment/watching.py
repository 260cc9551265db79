"""Pairs and maps as pictures in the dashboards while training."""

from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from dmdd.core.drawing import colour_map, contact_sheet
from dmdd.data.datasets import PairBatch
from dmdd.experiment import loggers
from dmdd.models.detector import Detector
from dmdd.pairs.window import as_float

STAGE_1_MAP = "geometric"
"""The detector's own map needs stage 2."""


class TrainingPictures(Callback):
    """Log some pairs of the batch with the map that the detector gives them so far. It changes nothing of a training.

    Args:
        detector: What is trained.
        times: Pictures a stage, evenly; the first step has one more.
        shown: Pairs in a picture.
    """

    def __init__(self, detector: Detector, *, times: int = 8, shown: int = 4) -> None:
        self.detector, self.times, self.shown = detector, times, shown

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: PairBatch, batch_idx: int
    ) -> None:
        """Draw and log the pairs of a step that is due."""
        step, every = trainer.global_step, max(1, int(trainer.max_steps) // self.times)
        if not trainer.is_global_zero or (step != 1 and step % every):
            return
        stage = type(pl_module).__name__.removesuffix("Module").lower()
        first = int(getattr(pl_module, "first_step", 0))
        name = STAGE_1_MAP if stage == "distillation" else self.detector.anomaly_map
        picture = draw_batch(self.detector, batch, name=name, count=self.shown)
        loggers.show_picture(trainer.loggers, f"{stage}/pairs", picture, step=first + step - 1)


def draw_batch(detector: Detector, batch: PairBatch, *, name: str, count: int) -> np.ndarray:
    """Draw pairs: normal image, anomalous twin, mask, and the twin's map.

    Args:
        detector: In any mode, which it keeps.
        batch: Pairs on the detector's device.
        name: Of the map. Its colours go up to the largest value that is shown.
        count: How many pairs, the first ones.

    Returns:
        ``(H, W, 3)`` uint8 RGB, a pair a row; without maps where the networks do not compute in float32.
    """
    normal, twins, masks = as_float(batch.normal[:count]), batch.anomalous[:count], batch.mask[:count]
    columns = [part.expand(-1, 3, -1, -1).float().cpu() for part in (normal, twins, masks)]
    rows = (torch.cat(columns, dim=3) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    if next(detector.student.parameters()).dtype != torch.float32:
        return contact_sheet(list(rows), columns=1)
    networks: list[torch.nn.Module] = [detector.student, detector.segmentation]
    training = [network.training for network in networks]
    try:
        for network in networks:
            network.eval()
        with torch.no_grad():
            maps = detector.maps(twins.float(), only=(name,))[name][:, 0].float().cpu().numpy()
    finally:
        for network, mode in zip(networks, training, strict=True):
            network.train(mode)
    middle = max(float(maps.max()) / 2, 1e-6)
    drawn = [
        np.concatenate([row, colour_map(heat, middle=middle)], axis=1) for row, heat in zip(rows, maps, strict=True)
    ]
    return contact_sheet(drawn, columns=1)
