"""What a SLURM job needs of a training; tests/cluster tries it on a real cluster."""

import os
import signal
from types import SimpleNamespace

import pytest

from dmdd.experiment import launch
from dmdd.training.callbacks.interruption import StateSaver

TASK = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": "12345", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}


def test_a_task_of_srun_takes_its_place_among_the_processes(monkeypatch):
    monkeypatch.setattr(os, "environ", dict(TASK))
    launch.join_srun()
    added = {name: value for name, value in os.environ.items() if name not in TASK}
    assert added == {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "22345",
        "WORLD_SIZE": "2",
        "NODE_RANK": "0",
        "RANK": "1",
        "LOCAL_RANK": "1",
    }


@pytest.mark.parametrize("given", [{}, TASK | {"SLURM_STEP_NUM_TASKS": "1"}, TASK | {"LOCAL_RANK": "0"}])
def test_a_process_alone_or_of_torchrun_is_left_as_it_is(monkeypatch, given):
    monkeypatch.setattr(os, "environ", dict(given))
    launch.join_srun()
    assert os.environ == given


def test_a_scheduler_s_signal_is_handed_on_once_the_state_is_saved(tmp_path, monkeypatch):
    done: list[str] = []
    saver = StateSaver(tmp_path / "stage.ckpt", every_n_steps=100)
    monkeypatch.setattr(saver, "save", lambda trainer: done.append("saved"))
    trainer = SimpleNamespace(global_step=3, max_steps=10, world_size=1, should_stop=False)
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        signal.signal(signal.SIGUSR2, lambda number, frame: done.append(f"told {number}"))
        saver.on_train_start(trainer, None)
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL  # nobody listens, so nothing changes
        os.kill(os.getpid(), signal.SIGUSR2)
        assert done == []
        saver.on_train_batch_end(trainer, None, None, None, 0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert done == ["saved", f"told {int(signal.SIGUSR2)}"]
    assert trainer.should_stop
