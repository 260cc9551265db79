"""What several GPUs need of the program, as far as it shows without them."""

import atexit
import os
import signal
import threading
from types import SimpleNamespace

import pytest
import torch

from dmdd import launch
from dmdd.errors import Interrupted, UserError
from dmdd.runtime import whole_float32
from dmdd.training.distillation import DistillationModule
from dmdd.training.interruption import LeaveMeasuring, StateSaver
from dmdd.training.progress import StageProgress


@pytest.fixture
def child(monkeypatch):
    """Run work as a child process would, here; gives what it told, and whether it left the group in order."""
    told: list[str] = []
    left: list[str] = []
    for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "NODE_RANK", "LOCAL_RANK", "DMDD_SPAWNED"):
        monkeypatch.setenv(name, "")
    threads, handler = torch.get_num_threads(), signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(launch, "_end_with", lambda parent: None)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: left.append("in order"))
    monkeypatch.setattr(atexit, "unregister", lambda function: left.append(function.__name__))

    def run(work):
        launch._child(0, work, (), 2, 1, SimpleNamespace(put=told.append), os.getpid())

    yield run, told, left
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, handler)


def fail(error: Exception):
    def work() -> None:
        raise error

    return work


def test_a_process_that_fails_waits_for_no_other(child):
    """NCCL leaves a group in order only when all do, and the others may be in an exchange with this one."""
    run, told, left = child
    run(lambda: None)
    assert left == ["in order"]
    left.clear()
    for error, code in ((UserError("memory"), 2), (Interrupted("stopped", number=15), launch.STOPPED)):
        with pytest.raises(SystemExit) as leave:
            run(fail(error))
        assert leave.value.code == code
    with pytest.raises(ZeroDivisionError):
        run(fail(ZeroDivisionError()))
    assert told == ["memory", "stopped"]
    assert left == ["_destroy_dist_connection"] * 3  # what Lightning would do at the end


@pytest.mark.parametrize("begin", ["on_validation_start", "on_test_start"])
def test_a_signal_while_measuring_leaves_without_an_exchange(begin):
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        getattr(LeaveMeasuring(), begin)(None, None)
        with pytest.raises(Interrupted, match="stopped while measuring, training is done") as stopped:
            os.kill(os.getpid(), signal.SIGTERM)
        assert stopped.value.exit_code == 143
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_losses_are_asked_for_only_when_they_are_shown(capsys):
    asked = []

    class Trainer:
        global_step, max_steps = 0, 100

        @property
        def callback_metrics(self):
            asked.append(self.global_step)
            return {"distillation/loss": torch.tensor(0.5)}

    log, trainer = StageProgress(every_n_steps=50), Trainer()
    module = DistillationModule.__new__(DistillationModule)
    log.on_train_start(trainer, module)
    for step in range(1, 101):
        trainer.global_step = step
        log.on_train_batch_end(trainer, module, None, None, 0)
    assert asked == [50, 100]
    assert capsys.readouterr().err.count("loss 0.5000") == 2


def test_float32_is_whole_inside_for_all_threads_and_as_before_after():
    convolutions = torch.backends.cudnn.conv
    before = convolutions.fp32_precision
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with whole_float32():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with whole_float32():
        thread.start()
        assert inside.wait(10)
        assert convolutions.fp32_precision == "ieee"
    assert convolutions.fp32_precision == "ieee"  # the other one is still inside
    leave.set()
    thread.join()
    assert convolutions.fp32_precision == before


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), torch.distributed.DistBackendError("NCCL")]
)
def test_what_a_gpu_meets_while_a_state_is_saved_is_not_told_as_a_full_disk(tmp_path, error):
    def save_checkpoint(file) -> None:
        raise error

    saver = StateSaver(tmp_path / "stage.ckpt", every_n_steps=1)
    with pytest.raises(type(error)):
        saver.save(SimpleNamespace(loggers=[], save_checkpoint=save_checkpoint, is_global_zero=True))
