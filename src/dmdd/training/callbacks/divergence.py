"""A loss or a weight that is no number any more: the stage ends at once, and no such state is kept."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from dmdd.core.errors import UserError
from dmdd.training.callbacks.interruption import kept_state

NEVER = 2**62


class LossGuard(Callback):
    """End a stage whose loss or weights are not finite, before its state is saved.

    Every loss is compared where it lies, and the first bad step noted there, which the host does not wait for. The host
    reads the note on steps whose losses are logged and before each state is written, so that a GPU is not synchronised
    in every step; a single processor, where reading is free, is asked in every step. Even where it is told late, the
    first bad step is named, and its pairs, since they are a function of seed and step. Weights are looked at before
    each state is written.

    Args:
        stage: Name of the stage.
        images_of_step: Gives the positions of the images in the global batch of a step of the stage, counted from 1.
        file: Where the stage's state is saved.

    Source: ours.
    """

    def __init__(self, stage: str, *, images_of_step: Callable[[int], Sequence[int]], file: Path) -> None:
        self.stage, self.images_of_step, self.file = stage, images_of_step, file
        self._first_bad = torch.tensor(NEVER)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the note where the losses are."""
        self._first_bad = torch.tensor(NEVER, device=pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the step's loss.

        Raises:
            UserError: This or an earlier loss is not finite.
        """
        loss: Tensor = outputs["loss"].detach()
        earliest = self._first_bad.clamp(max=trainer.global_step)
        self._first_bad = torch.where(loss.isfinite(), self._first_bad, earliest)
        free = loss.device.type == "cpu" and trainer.world_size == 1
        if free or trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._check_losses(trainer)

    def check(self, trainer: Trainer) -> None:
        """Refuse to go on with a state that is none; all devices call this.

        Args:
            trainer: In the middle of a fit.

        Raises:
            UserError: A loss so far, or a weight or batch statistic of now, is not finite.
        """
        self._check_losses(trainer)
        weights = trainer.lightning_module.state_dict()
        values = [v for n, v in weights.items() if not n.startswith("teacher.") and v.is_floating_point()]
        if values and not bool(torch.stack([value.isfinite().all() for value in values]).all()):
            raise UserError(self._describe(trainer, trainer.global_step, "weights are no finite numbers after"))

    def _check_losses(self, trainer: Trainer) -> None:
        first = self._first_bad
        if trainer.world_size > 1:
            first = first.clone()
            torch.distributed.all_reduce(first, op=torch.distributed.ReduceOp.MIN)
        step = int(first)
        if step < NEVER:
            raise UserError(self._describe(trainer, step, "loss is no finite number in"))

    def _describe(self, trainer: Trainer, step: int, what: str) -> str:
        images = ", ".join(map(str, self.images_of_step(step)))
        return (
            f"{self.stage}: the {what} step {step} of {trainer.max_steps}, on the pairs of training images {images}; "
            f"the cause may be the gradient of the step before. {kept_state(self.file).capitalize()}. "
            f"python -m dmdd.data preview with the same settings and stage={self.stage} step={step} draws these pairs; "
            f"a smaller learning rate or trainer.precision=32-true may help"
        )
