"""Progress of a stage: step, rate, losses and time left, as a bar in a terminal and as lines in a log."""

import sys
import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class StageProgress(ProgressBar):
    """Show how far a stage is.

    Args:
        every_n_steps: In a log (no terminal): a line every so many steps.

    Source: ours. Lightning's bars write a control character a step into a log.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        super().__init__()
        self.every_n_steps = every_n_steps
        self._enabled, self._started, self._shown, self._behind = True, 0.0, 0.0, 0
        self._bar: Progress | None = None
        self._task: Any = None

    def disable(self) -> None:
        """Show nothing (Lightning calls this on every device but the first)."""
        self._enabled = False

    def enable(self) -> None:
        """Show again."""
        self._enabled = True

    def _start(self, stage: str, total: int, behind: int = 0) -> None:
        self._started = self._shown = time.monotonic()
        self._behind = behind  # steps a resumed stage has done before; they say nothing of today's rate
        console = Console(stderr=True)
        if self._enabled and console.is_terminal:
            columns = (
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[losses]}"),
            )
            self._bar = Progress(TextColumn("{task.description}"), BarColumn(), *columns, console=console)
            self._task = self._bar.add_task(stage, total=total, completed=behind, losses="")
            self._bar.start()

    def _advance(self, stage: str, done: int, total: int, trainer: Trainer | None = None) -> None:
        if not self._enabled:
            return
        now, last = time.monotonic(), done == total
        # Asking for the losses waits for the device: at most twice a second, or every n-th step in a log.
        due = now - self._shown > 0.5 if self._bar else done % self.every_n_steps == 0
        if not due and not last:
            return
        self._shown = now
        losses = "  ".join(
            f"{name.partition('/')[2]} {float(value):.4f}"
            for name, value in (trainer.callback_metrics if trainer else {}).items()
            if name.startswith(f"{stage}/") and not name.endswith("learning_rate")
        )
        if self._bar:
            self._bar.update(self._task, completed=done, losses=losses)
            return
        elapsed = now - self._started
        rate = (done - self._behind) / max(elapsed, 1e-9)
        minutes, seconds = divmod(int((total - done) / max(rate, 1e-9)), 60)
        line = f"{stage} {done}/{total}  {rate:.2f} steps/s  left {minutes}:{seconds:02d}  {losses}"
        print(line.rstrip(), file=sys.stderr, flush=True)

    def _stop(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a training stage."""
        self._start(_stage(pl_module), int(trainer.max_steps), trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a training step."""
        self._advance(_stage(pl_module), trainer.global_step, int(trainer.max_steps), trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End a training stage."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self._stop()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin calibration."""
        self._start("calibration", int(sum(trainer.num_val_batches)))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch of calibration."""
        self._advance("calibration", batch_idx + 1, int(sum(trainer.num_val_batches)))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End calibration."""
        self._stop()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the test."""
        self._start("test", int(sum(trainer.num_test_batches)))

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a test batch."""
        self._advance("test", batch_idx + 1, int(sum(trainer.num_test_batches)))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the test."""
        self._stop()


def _stage(module: LightningModule) -> str:
    return type(module).__name__.removesuffix("Module").lower()
