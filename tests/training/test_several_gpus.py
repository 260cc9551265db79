"""What several GPUs need of the program, as far as it shows without them."""

import atexit
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import dmdd
from dmdd.core.errors import Interrupted, UserError
from dmdd.core.hardware import whole_float32
from dmdd.experiment import experiment, launch
from dmdd.experiment.experiment import Experiment
from dmdd.training.callbacks.interruption import LeaveMeasuring, StateSaver
from dmdd.training.callbacks.progress import StageProgress
from dmdd.training.distillation import DistillationModule
from dmdd.training.optimization import adamw_one_cycle
from patience import PATIENCE_S
from tiny import draw_pixels, save_tiny_model


@pytest.fixture
def child(monkeypatch):
    """Run work as a child process would, here; gives what it told, and whether it left the group in order."""
    told: list[tuple[str, bool]] = []
    left: list[str] = []
    for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "NODE_RANK", "LOCAL_RANK", "DMDD_SPAWNED"):
        monkeypatch.setenv(name, "")
    threads = torch.get_num_threads()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setattr(launch, "_end_with", lambda parent: None)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "nccl")
    assert callable(torch.distributed.ProcessGroup.abort)
    group = SimpleNamespace(abort=lambda: left.append("aborted"))
    monkeypatch.setattr(torch.distributed, "group", SimpleNamespace(WORLD=group))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: left.append("in order"))
    monkeypatch.setattr(atexit, "unregister", lambda function: left.append(function.__name__))

    def run(work):
        launch._child(0, work, (), 2, 1, SimpleNamespace(put=told.append), os.getpid())

    yield run, told, left
    torch.set_num_threads(threads)
    for number, handler in handlers.items():
        signal.signal(number, handler)


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
    queues = [SimpleNamespace(empty=lambda: False, get=lambda message=message: message) for message in told]
    reasons = [launch._reason(ZeroDivisionError(), queue, None) for queue in queues]
    assert [type(reason) for reason in reasons] == [UserError, Interrupted]
    assert [str(reason) for reason in reasons] == ["memory", "stopped"]
    assert left == ["_destroy_dist_connection", "aborted"] * 3  # the first is what Lightning would do at the end


@pytest.mark.parametrize("begin", ["on_validation_start", "on_test_start"])
def test_a_signal_while_measuring_leaves_without_an_exchange(begin):
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        getattr(LeaveMeasuring(), begin)(None, None)
        with pytest.raises(SystemExit) as stopped:  # Experiment says what it means
            os.kill(os.getpid(), signal.SIGTERM)
        assert stopped.value.code == 143
        os.kill(os.getpid(), signal.SIGTERM)  # the parent's, after that of the terminal: heard once
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
    cudnn = torch.backends.cudnn
    assert cudnn.allow_tf32
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with whole_float32():
            inside.set()
            leave.wait(PATIENCE_S)

    thread = threading.Thread(target=other)
    with whole_float32():
        thread.start()
        assert inside.wait(PATIENCE_S)
        assert not cudnn.allow_tf32
        assert cudnn.conv.fp32_precision != "tf32"
    assert not cudnn.allow_tf32  # the other one is still inside
    leave.set()
    thread.join()
    assert cudnn.allow_tf32


@pytest.mark.parametrize("newer", [False, True])
def test_matrix_products_are_whole_too_where_the_program_chose_less(newer):
    """Lightning advises `torch.set_float32_matmul_precision("high")` on a GPU."""
    matmul = torch.backends.cuda.matmul
    try:
        if newer:
            matmul.fp32_precision = "tf32"
        else:
            torch.set_float32_matmul_precision("high")
        with whole_float32():
            assert matmul.fp32_precision == "ieee"
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = "ieee"
        torch.set_float32_matmul_precision("highest")


def test_an_inspector_computes_in_whole_float32(tmp_path):
    allowed = []
    predictor = dmdd.load(save_tiny_model(tmp_path / "model"), device="cpu")
    handle = predictor.detector.register_forward_pre_hook(lambda *_: allowed.append(torch.backends.cudnn.allow_tf32))
    predictor(draw_pixels(0))
    handle.remove()
    assert allowed == [False]


def test_a_signal_after_the_last_question_is_told_to_all():
    """It may have come to one device while the last state of a stage was written."""

    class Told:
        global_step = max_steps = 7
        world_size = 2
        strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, all: not all)

    saver = StateSaver(Path("never written"), every_n_steps=100)
    with pytest.raises(Interrupted, match="stopped after step 7 of 7"):
        saver.check_stopped(Told())
    Told.strategy.reduce_boolean_decision = lambda decision, all: decision
    saver.check_stopped(Told())


BY_TIME = Path("runs/mvtec_ad/screw/2026-01-31_12-00-00")


@pytest.mark.parametrize(("started", "devices", "fits"), [("4", 4, True), ("4", 1, False), ("2", 4, False)])
def test_torchrun_starts_as_many_processes_as_devices(monkeypatch, started, devices, fits):
    launch.check_processes(devices, BY_TIME)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", started)
    if fits:
        launch.check_processes(devices, Path("runs/mine"))
        with pytest.raises(UserError, match=r"4 processes were started .*; give one, as in run_dir=runs/mine"):
            launch.check_processes(devices, BY_TIME)
        monkeypatch.setenv("DMDD_SPAWNED", "1")  # ours share one
        launch.check_processes(devices, BY_TIME)
        return
    with pytest.raises(UserError, match=f"trainer.devices={devices}, but {started} processes were started"):
        launch.check_processes(devices, Path("runs/mine"))


MET = (
    torch.OutOfMemoryError("CUDA out of memory"),
    torch.distributed.DistBackendError("NCCL"),
    RuntimeError("Connection closed by peer"),
)


@pytest.mark.parametrize("error", MET)
def test_what_a_gpu_meets_while_a_state_is_saved_is_not_told_as_a_full_disk(tmp_path, error):
    def save_checkpoint(file) -> None:
        raise error

    saver = StateSaver(tmp_path / "stage.ckpt", every_n_steps=1)
    with pytest.raises(type(error)):
        saver.save(SimpleNamespace(loggers=[], save_checkpoint=save_checkpoint, is_global_zero=True))


@pytest.mark.parametrize(("synchronised", "sent"), [("auto", False), (False, True)])
def test_devices_exchange_no_more_than_they_must(tmp_path, synchronised, sent):
    """Statistics that are each device's own must be sent, or the devices would measure with different networks."""
    trainer = {"_target_": "lightning.Trainer", "devices": 2, "sync_batchnorm": synchronised}
    run = SimpleNamespace(
        settings=SimpleNamespace(trainer=trainer),
        devices=2,
        accelerator="cpu",
        precision="32-true",
        run_dir=tmp_path,
        loggers=[],
    )
    trainer = Experiment._trainer(run, steps=3, callbacks=[])
    wanted = {"broadcast_buffers": sent, "gradient_as_bucket_view": True, "static_graph": True}
    assert trainer.strategy._ddp_kwargs == wanted


@pytest.mark.parametrize(
    ("accelerator", "steps", "more", "tried"),
    [
        ("gpu", 3, {}, True),
        ("gpu", 3, {"benchmark": False}, False),
        ("gpu", 3, {"deterministic": True}, None),
        ("gpu", -1, {}, None),  # a test: the same figures whatever the GPU
        ("cpu", 3, {}, None),
    ],
)
def test_a_training_on_a_gpu_lets_cudnn_try_what_is_fastest(tmp_path, monkeypatch, accelerator, steps, more, tried):
    given = {}

    def build(settings, **more):
        given.update(settings)
        return SimpleNamespace(is_global_zero=True)

    monkeypatch.setattr(experiment, "build", build)
    settings = SimpleNamespace(trainer={"devices": 1, **more})
    run = SimpleNamespace(
        settings=settings, devices=1, accelerator=accelerator, precision="32-true", run_dir=tmp_path, loggers=[]
    )
    Experiment._trainer(run, steps=steps, callbacks=[])
    assert given.get("benchmark") is tried


@pytest.mark.parametrize("clips", [False, True])
def test_the_optimiser_updates_all_weights_at_once_unless_gradients_are_clipped(clips):
    """Lightning cannot clip for a fused optimiser."""
    weights = [torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))]
    built = adamw_one_cycle(weights, learning_rate=1e-3, weight_decay=0.1, steps=3, fused=not clips)
    assert built["optimizer"].defaults["fused"] is not clips
