"""One of several processes of a run dies: the others end within a minute, and somebody says why."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from patience import PATIENCE_S
from processes import Command

STEPS = 4000  # never reached

pytestmark = [
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one CPU core"),
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes in /proc"),
]


def children(pid: int) -> list[int]:
    """Worker processes of a process, without the helpers of multiprocessing."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone_within(pids: list[int], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while any(map(alive, pids)):
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def start(cwd: Path, demo_root: Path) -> Command:
    """Start a training on two devices that would go on for hours."""
    command = [
        *("dataset=demo", "category=plate", f"data_dir={demo_root}", "name=two"),
        *("teacher=resnet18", "teacher.random_weights=true", "recipe=smoke", "image_size=[64,64]"),
        *("trainer.accelerator=cpu", "trainer.devices=2", f"distillation.steps={STEPS}"),
        *("callbacks.progress.every_n_steps=1", "save_state_every_n_steps=2"),
    ]
    return Command("train", command, cwd=cwd, variables={})


def wait_for_workers(process: Command) -> list[int]:
    end = time.monotonic() + PATIENCE_S
    while len(workers := children(process.pid)) < 2:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)
    return workers


@pytest.fixture
def training(tmp_path, demo_root) -> Iterator[tuple[Command, list[int]]]:
    """Such a training that has saved a state, and its worker processes."""
    process = start(tmp_path, demo_root)
    for line in process.stderr:
        if line.startswith("distillation 3/"):
            break
    else:
        pytest.fail("no step was reached")
    workers = wait_for_workers(process)
    yield process, workers
    for pid in (process.pid, *workers):
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()


@pytest.mark.parametrize("victim", [0, 1])
def test_the_other_process_ends_too_and_the_reason_is_told(training, tmp_path, victim):
    process, workers = training
    os.kill(workers[victim], signal.SIGKILL)
    _, printed = process.communicate(timeout=PATIENCE_S)  # it would go on for hours
    assert process.returncode == 2
    assert gone_within(workers, PATIENCE_S)
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in printed
    assert f"the process of device {victim} was ended by signal SIGKILL, so the others were ended too" in errors[0]
    assert "resume=true goes on from the state saved last" in errors[0]
    state = torch.load(tmp_path / "runs/demo/plate/two/state/distillation.ckpt", weights_only=True)
    assert state["global_step"] >= 2


def test_no_process_is_left_over_when_the_first_one_is_killed(training):
    process, workers = training
    process.kill()
    assert gone_within(workers, PATIENCE_S)


def test_no_process_is_left_over_when_the_first_one_is_killed_before_training_begins(tmp_path, demo_root):
    process = start(tmp_path, demo_root)
    try:
        workers = wait_for_workers(process)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    try:
        assert gone_within(workers, PATIENCE_S)
    finally:
        for pid in filter(alive, workers):
            os.kill(pid, signal.SIGKILL)
    assert not (tmp_path / "runs/demo/plate/two/state").exists()
