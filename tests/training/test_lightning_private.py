"""Private parts of Lightning still do what they are used for; a version that renames them fails here."""

import atexit
import inspect
import os
import signal

from lightning import Trainer
from lightning.fabric.utilities import distributed
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from dmdd.training import lightning_private


def quiet(tmp_path) -> Trainer:
    return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)


def test_the_question_of_each_step_that_is_switched_off_is_still_lightnings(tmp_path):
    """Renamed, it would be asked again unnoticed, and wait for the GPU in each step."""
    asks = "sigterm" in inspect.getsource(_TrainingEpochLoop.advance)
    assert asks == hasattr(_TrainingEpochLoop, "_broadcast_sigterm_tensor")
    trainer = quiet(tmp_path)
    lightning_private.ask_no_device_for_signals(trainer)
    if asks:
        assert trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor() is None


def test_a_signal_before_a_callback_listens_reaches_it_and_no_other_process(tmp_path):
    heard = []
    before = signal.getsignal(signal.SIGTERM)
    trainer = quiet(tmp_path)
    lightning_private.call_first_on_signal(trainer, lambda number, frame: heard.append(number))
    trainer._signal_connector.register_signal_handlers()
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        trainer._signal_connector.teardown()
    assert heard == [signal.SIGTERM]
    assert not trainer.received_sigterm  # else Lightning would leave by itself, on this device only
    assert signal.getsignal(signal.SIGTERM) == before


def test_what_lightning_registers_for_the_end_is_what_is_taken_back(monkeypatch):
    taken = []
    monkeypatch.setattr(atexit, "unregister", taken.append)
    lightning_private.keep_group_at_exit()
    (function,) = taken
    registers = inspect.getsource(distributed._init_dist_connection)
    assert f"atexit.register({function.__name__})" in registers
