"""The private parts of Lightning that are used, all of them; tests/training/test_lightning_private.py holds each.

Lightning has no public way to keep several devices from exchanging something at a signal. `pyproject.toml` bounds its
version by what these were tried with.
"""

import atexit
from collections.abc import Callable
from typing import Any

from lightning import Trainer
from lightning.fabric.utilities import distributed


def call_first_on_signal(trainer: Trainer, handler: Callable[[int, Any], None]) -> None:
    """Let a callback's handler take the SIGTERM that comes before the callback listens, with several devices.

    Lightning's would tell the other devices from inside the handler, who may be in another exchange just then, and
    each would wait for the other.

    Args:
        trainer: Not started yet.
        handler: As for ``signal.signal``.
    """
    connector: Any = trainer._signal_connector
    connector._sigterm_notifier_fn = handler


def ask_no_device_for_signals(trainer: Trainer) -> None:
    """Switch off the question of each step, with several devices, whether one was told to stop.

    The devices wait for its answer; ``StateSaver`` listens instead, and asks every so many steps.

    Args:
        trainer: Not started yet.
    """
    loop: Any = trainer.fit_loop.epoch_loop
    if hasattr(loop, "_broadcast_sigterm_tensor"):  # Lightning before 2.6.1 does not ask
        loop._broadcast_sigterm_tensor = lambda: None


def keep_group_at_exit() -> None:
    """Do not leave the process group in order at the end of this process, which waits for all the others."""
    atexit.unregister(distributed._destroy_dist_connection)
