"""Start one process a device.

Lightning's own launcher starts the whole command again in every child, which in a Hydra sweep starts the whole sweep
again. Here the children get the finished configuration instead and never see Hydra.
"""

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, get_context, start_processes

from dmdd.core.errors import Interrupted, UserError
from dmdd.training.callbacks.interruption import USER_SIGNALS

Work = Callable[..., None]
STOPPED = 143  # exit code of a child that was told to stop
LOOK_EVERY_S = 2.0
MASTER_PORTS = range(20000, 30000)  # by the number of a SLURM job, so that two jobs on one machine do not meet


def join_srun() -> None:
    """Take the place among the processes that ``srun`` has started several of, as torchrun would have given it.

    Without it each of them would start a process for every device.
    """
    if "LOCAL_RANK" in os.environ or int(os.environ.get("SLURM_STEP_NUM_TASKS") or 1) < 2:
        return
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",  # trainer.devices= is of one machine
        "MASTER_PORT": str(MASTER_PORTS[0] + int(os.environ["SLURM_JOB_ID"]) % len(MASTER_PORTS)),
        "WORLD_SIZE": os.environ["SLURM_STEP_NUM_TASKS"],
        "NODE_RANK": "0",
        "RANK": os.environ["SLURM_PROCID"],
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
    }


def check_processes(devices: int, run_dir: Path) -> None:
    """Check what torchrun or a scheduler has started, where it has.

    Args:
        devices: ``trainer.devices``.
        run_dir: The run folder. One that has its time for a name is another in each process.

    Raises:
        UserError: There are more or fewer processes than devices: each would train the whole model, all into one
            folder, or wait for others. Or they would write to a folder each.
    """
    if "LOCAL_RANK" not in os.environ or "DMDD_SPAWNED" in os.environ:
        return
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes != str(devices):
        raise UserError(
            f"trainer.devices={devices}, but {processes} processes were started for this run, by torchrun or alike; "
            f"use trainer.devices={processes}, or start the command without it"
        )
    if devices > 1 and re.match(r"\d{4}-\d\d-\d\d_\d\d-", run_dir.name):
        raise UserError(
            f"{processes} processes were started for this run, by torchrun or alike, and each would make a folder of "
            "its own; give one, as in run_dir=runs/mine"
        )


def starts_processes(devices: int) -> bool:
    """Tell whether :func:`launch` starts processes: not for one device, nor where torchrun or a scheduler has."""
    return devices > 1 and "LOCAL_RANK" not in os.environ


def launch(work: Work, *arguments: Any, devices: int) -> None:
    """Run ``work(*arguments)`` here, or in ``devices`` processes joined to one group.

    SIGTERM and SIGINT are passed on to the processes, which save their state and end.

    Args:
        work: A function of a module, so that a fresh process can import it.
        arguments: What it gets; must pickle.
        devices: Number of processes.

    Raises:
        UserError: A child met one; :class:`Interrupted` if they were told to stop.
        RuntimeError: A child failed; the others were ended.
    """
    if not starts_processes(devices):
        work(*arguments)
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    messages = get_context("spawn").SimpleQueue()
    processes: list[Any] = []
    with _signals_passed_to(processes) as relay:
        context: Any = start_processes(
            _child,
            (work, arguments, devices, port, messages, os.getpid()),
            nprocs=devices,
            start_method="spawn",
            join=False,
        )
        processes += context.processes
        relay.pass_on()  # what came while they were started
        try:
            while not context.join():
                pass
        except (ProcessRaisedException, ProcessExitedException) as error:
            raise _reason(error, messages, relay.number) from None
        if relay.number is not None:
            raise Interrupted("stopped when the run was done", number=relay.number)


def _reason(error: Exception, messages: Any, number: int | None) -> Exception:
    """Say why the processes ended.

    Args:
        error: What torch says of the first that ended.
        messages: What the processes have told.
        number: The signal that this process was sent; None without one.

    Returns:
        What to raise.
    """
    if not messages.empty():  # the others fail at the next exchange with the one that met it
        text, stopped = messages.get()
        return Interrupted(text, number=number or signal.SIGTERM) if stopped else UserError(text)
    if number is not None:  # children that are still importing die of a signal
        return Interrupted(
            "stopped; with resume=true the same command goes on from the state saved last, if any", number=number
        )
    if isinstance(error, ProcessExitedException):
        reason = f"signal {error.signal_name}" if error.signal_name else f"exit code {error.exit_code}"
        return UserError(
            f"the process of device {error.error_index} was ended by {reason}, so the others were ended too; "
            "the same command with resume=true goes on from the state saved last"
        )
    return RuntimeError(f"the process of device {getattr(error, 'error_index', '?')} failed:\n{error}")


class _SignalRelay:
    """The signal that this process was sent.

    Args:
        processes: The children, who are told; filled when they are there.
    """

    def __init__(self, processes: list[Any]) -> None:
        self.processes = processes
        self.number: int | None = None

    def note(self, number: int, frame: Any) -> None:
        """Remember a signal and pass it on."""
        self.number = number
        self.pass_on()

    def pass_on(self) -> None:
        """Tell the children, if a signal has come."""
        for process in self.processes if self.number is not None else []:
            if process.is_alive():
                os.kill(process.pid, signal.SIGTERM)


@contextmanager
def _signals_passed_to(processes: list[Any]) -> Iterator[_SignalRelay]:
    """Pass SIGTERM, SIGINT and a scheduler's signal on to the children as SIGTERM and go on waiting for them."""
    relay = _SignalRelay(processes)
    if threading.current_thread() is not threading.main_thread():
        yield relay
        return
    listened = [number for number in USER_SIGNALS if callable(signal.getsignal(number))]
    numbers = (signal.SIGTERM, signal.SIGINT, *listened)
    old: dict[int, Any] = {number: signal.signal(number, relay.note) for number in numbers}
    try:
        yield relay
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        if relay.number in listened:
            old[relay.number](relay.number, None)  # the children have saved their state; the job is queued again


def _end_with(parent: int) -> None:
    """Tell this process to stop when its parent is gone, which holds the lock on the run folder.

    torch asks the system for a SIGINT then, which a child ignores until its training has begun.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_EVERY_S)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _leave_at_once() -> None:
    """Leave the group without waiting for the others, who may wait in an exchange for this process.

    Leaving in order waits for them, and Lightning does it at the end of a process.
    """
    from dmdd.training.lightning_private import keep_group_at_exit  # Lightning takes seconds to import

    keep_group_at_exit()
    if torch.distributed.is_initialized() and torch.distributed.get_backend() == "nccl":
        everyone: Any = torch.distributed.group.WORLD
        with suppress(Exception):  # without it NCCL warns of the disorder at the end
            everyone.abort()


def _child(
    rank: int, work: Work, arguments: tuple[Any, ...], devices: int, port: int, messages: Any, parent: int
) -> None:
    # What Lightning's default environment reads; with LOCAL_RANK set it starts no processes of its own.
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(devices),
        "NODE_RANK": "0",
        "LOCAL_RANK": str(rank),
        "DMDD_SPAWNED": "1",
    }
    for number in USER_SIGNALS:  # a scheduler sends them to every process of a job; the parent passes them on
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the parent passes it on
    _end_with(parent)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // devices))
    try:
        work(*arguments)
    except BaseException as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _leave_at_once()
        if not isinstance(error, UserError):
            raise
        messages.put((str(error), isinstance(error, Interrupted)))
        raise SystemExit(STOPPED if isinstance(error, Interrupted) else 2) from None
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
