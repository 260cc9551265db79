"""What an interrupted stage leaves behind, and how a stage goes on from it."""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from dmdd.core.errors import Interrupted, UserError, check_positive, check_seconds
from dmdd.core.failures import is_out_of_memory, is_worker_death

STOPPED_MEASURING = "stopped while measuring, training is done; the same command with resume=true measures again"

USER_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
"""By which a scheduler tells a job that it will be preempted or is nearly out of time, where something listens."""

ASK_EVERY_N_STEPS = 10
"""With several devices: how often they ask each other whether one was told to stop; asking waits for the device."""


def kept_state(file: Path) -> str:
    """Say what is left of a stage that ends before its time.

    Args:
        file: Where its state is saved.

    Returns:
        A main clause.
    """
    return "the state saved before is kept" if file.is_file() else "nothing was saved yet"


class StateSaver(Callback):
    """Save the state of a stage every minute, at its end, and when the process is told to stop.

    The state is Lightning's checkpoint without the frozen networks: weights, optimiser, schedule, step. It is written
    beside the old one and then renamed, so a reader finds the old state or the new one, whole. Pairs are a function of
    seed and step, so nothing else is needed to go on as if nothing had happened. The state at the end of the stage is
    the weights alone.

    After the first SIGTERM or SIGINT the step in hand is finished, the state saved and the run left; with one device a
    second SIGINT ends the process at once. A user signal that something else listens to, as submitit does in a SLURM
    job, is handed on to it once the state is saved.

    Args:
        file: The checkpoint.
        every_s: How often to save, seconds.
        every_n_steps: How often to save, steps; None for the time.
        made_from: By name the digest of what the stage learns from, to be the same when it goes on.
        precision: That of the training, see ``precisions``.
        before_saving: Called with the trainer before each state is written, by all devices; raises where the state is
            not worth it.

    Raises:
        UserError: ``every_s`` or ``every_n_steps`` is not positive.

    Source: ours.
    """

    def __init__(
        self,
        file: Path,
        *,
        every_s: float = 60.0,
        every_n_steps: int | None = None,
        made_from: dict[str, str] | None = None,
        precision: str = "32-true",
        before_saving: Callable[[Trainer], None] | None = None,
    ) -> None:
        check_seconds("save_state_every_s", every_s)
        if every_n_steps is not None:
            check_positive("save_state_every_n_steps", every_n_steps)
        self.file, self.before_saving = file, before_saving
        self.every_s, self.every_n_steps = every_s, every_n_steps
        self.made_from, self.precision = made_from or {}, precision
        self.earlier_precisions: list[str] = []
        self.signal: int | None = None
        self._stopping = False
        self._listeners: dict[int, Callable[[int, Any], Any]] = {}
        self.earlier_s = 0.0
        self._started: float | None = None
        self._saved = 0.0

    @property
    def seconds(self) -> float:
        """Time spent in the stage, over all its parts."""
        return self.earlier_s + (0.0 if self._started is None else time.monotonic() - self._started)

    @property
    def precisions(self) -> list[str]:
        """Precisions of the stage's parts: ``auto`` is another one on another machine."""
        return [*self.earlier_precisions, *([] if self._started is None else [self.precision])]

    def read(self) -> dict[str, Any] | None:
        """Read the saved state, tensors and plain values only: a checkpoint that holds code is refused.

        Returns:
            Lightning's checkpoint, or None if none was saved.

        Raises:
            UserError: The file is damaged.
        """
        if not self.file.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(self.file, map_location="cpu", weights_only=True)
            self.earlier_s = float(state["seconds"])
            self.earlier_precisions = [str(name) for name in state.get("precisions", [])]
            state["global_step"], state["state_dict"]
        except Exception as error:  # torch raises a zoo of types for a file that is none of its own
            raise UserError(
                f"the saved state {self.file} cannot be read ({type(error).__name__}); delete it to begin anew"
            ) from error
        return state

    def restore(self, module: LightningModule, state: dict[str, Any]) -> None:
        """Load the weights of a finished stage.

        Args:
            module: The stage's module; its teacher is left as it is.
            state: What :meth:`read` gave.

        Raises:
            UserError: The state is of other networks, or of other training images or another teacher.
        """
        self._check(module, state)
        module.load_state_dict(state["state_dict"], strict=False)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse the state of other networks or images; Lightning loads what fits."""
        self._check(pl_module, checkpoint)

    def _check(self, module: LightningModule, state: dict[str, Any]) -> None:
        own, found = (_trained(module, weights) for weights in (module.state_dict(), state["state_dict"]))
        if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in found.items()}:
            raise UserError(f"the saved state {self.file} is of other networks; delete it to begin the stage anew")
        made_from = state.get("made_from", {})
        for name, digest in self.made_from.items():
            if made_from.get(name, digest) != digest:
                # Held-out images would be ones that were trained on, and the student that of another teacher.
                raise UserError(
                    f"the {name} are not those that the saved state {self.file} learnt from; bring them back, or "
                    f"delete {self.file.parent} to begin anew"
                )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Leave out what nobody needs, and note the time."""
        checkpoint["state_dict"] = _trained(pl_module, checkpoint["state_dict"])
        if trainer.global_step == trainer.max_steps:  # two thirds of the state, for steps that never come
            checkpoint["optimizer_states"] = []
        checkpoint["seconds"], checkpoint["made_from"] = self.seconds, dict(self.made_from)
        checkpoint["precisions"] = list(dict.fromkeys(self.precisions))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen for signals; Lightning, which has installed handlers of its own, puts the old ones back at the end."""
        self._started = self._saved = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            found = {number: signal.getsignal(number) for number in USER_SIGNALS}
            self._listeners = {number: listener for number, listener in found.items() if callable(listener)}
            for number in (signal.SIGTERM, signal.SIGINT, *self._listeners):
                signal.signal(number, self.note)

    def note(self, number: int, frame: Any) -> None:
        """Remember a signal until the step in hand is done.

        Args:
            number: The signal.
            frame: Not used.
        """
        self.signal = number
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where it is time to."""
        step = trainer.global_step
        last = step == trainer.max_steps
        counted = self.every_n_steps is not None and step % self.every_n_steps == 0
        wanted = False
        if trainer.world_size == 1 or last or step % ASK_EVERY_N_STEPS == 0:
            timed = self.every_n_steps is None and time.monotonic() - self._saved >= self.every_s
            wanted = _any_device(trainer, timed or self.signal is not None)
            self._stopping = wanted and _any_device(trainer, self.signal is not None)
        if wanted or counted or last:
            self.save(trainer)
            self._saved = time.monotonic()
        if self._stopping:
            if listener := self._listeners.get(self.signal or 0):
                listener(self.signal or 0, None)  # puts the job into the queue again and leaves
            trainer.should_stop = True  # Lightning logs the step and leaves; check_stopped then says so

    def check_stopped(self, trainer: Trainer) -> None:
        """Leave the run if it was told to stop, be it in the last step of the stage.

        Args:
            trainer: After ``fit``; all its devices call this.

        Raises:
            Interrupted: It was told to stop.
        """
        stopped = self._stopping or trainer.global_step < trainer.max_steps
        if stopped or _any_device(trainer, self.signal is not None):  # a signal may have come after the last step asked
            raise Interrupted(
                f"stopped after step {trainer.global_step} of {trainer.max_steps} of a stage; "
                "with resume=true the same command goes on",
                number=self.signal or signal.SIGTERM,
            )

    def save(self, trainer: Trainer) -> None:
        """Write the state.

        Args:
            trainer: In the middle of a fit; all its devices call this.

        Raises:
            UserError: It cannot be written, or ``before_saving`` raised; the state saved before is still there.
        """
        if self.before_saving is not None:
            self.before_saving(trainer)
        partial = self.file.with_name(self.file.name + ".partial")
        try:
            for logger in trainer.loggers:
                logger.save()  # what was logged before this state is not logged again after it
            trainer.save_checkpoint(partial)
            if trainer.is_global_zero:
                os.replace(partial, self.file)
        except (OSError, RuntimeError) as error:  # torch's writer reports a full disk as a RuntimeError
            with suppress(OSError):
                partial.unlink()
            gpu = isinstance(error, torch.AcceleratorError | torch.distributed.DistError)
            others = "gloo" in str(error) or "Connection closed" in str(error)  # a process that is gone, on a CPU
            if gpu or others or is_worker_death(error) or is_out_of_memory(error):
                raise  # nothing the disk did; the caller tells it as what it is
            raise UserError(
                f"the training state could not be written to {self.file.parent} ({error}); {kept_state(self.file)}. "
                "Make room and start the same command with resume=true"
            ) from error


def _trained(module: LightningModule, weights: dict[str, Any]) -> dict[str, Any]:
    """Leave the frozen networks out of a state dict: the teacher is a file, the student of stage 2 a state of its own.

    States of earlier versions hold the student in stage 2 too.
    """
    frozen = tuple(f"{name}." for name in getattr(module, "frozen", ()))
    return {name: value for name, value in weights.items() if not name.startswith(frozen)}


def _any_device(trainer: Trainer, decision: bool) -> bool:
    if trainer.world_size == 1:
        return decision
    return trainer.strategy.reduce_boolean_decision(decision, all=False)


class LeaveMeasuring(Callback):
    """Leave a calibration or a test on several devices at a signal, each process by itself.

    Lightning would exchange the signal with the others, who may be in another exchange just then, and each would wait
    for the other. There is nothing to save: training is done.

    Source: ours.
    """

    def __init__(self) -> None:
        self._process = os.getpid()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen for signals; Lightning puts its handlers back at the end."""
        self._listen()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen for signals; Lightning puts its handlers back at the end."""
        self._listen()

    def _listen(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in self._numbers():
                signal.signal(number, self.leave)

    def _numbers(self) -> list[signal.Signals]:
        # Ctrl-C reaches every process of a terminal; the one that started these passes it on as SIGTERM.
        return [signal.SIGTERM, *([] if "DMDD_SPAWNED" in os.environ else [signal.SIGINT])]

    def leave(self, number: int, frame: Any) -> None:
        """End this process.

        Args:
            number: The signal.
            frame: Not used.
        """
        if os.getpid() != self._process:  # a loader's worker, which ends with its parent
            return
        for each in self._numbers():
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)  # no Exception, which whatever is being done now might take for its own
