"""Start one process a device.

Lightning's own launcher starts the whole command again in every child, which in a Hydra sweep starts the whole sweep
again. Here the children get the finished configuration instead and never see Hydra.
"""

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, get_context, start_processes

from dmdd.errors import UserError

Work = Callable[..., None]


def launch(work: Work, *arguments: Any, devices: int) -> None:
    """Run ``work(*arguments)`` here, or in ``devices`` processes joined to one group.

    Args:
        work: A function of a module, so that a fresh process can import it.
        arguments: What it gets; must pickle.
        devices: Number of processes.

    Raises:
        UserError: A child met one.
        RuntimeError: A child failed; the others were ended.
    """
    if devices == 1:
        work(*arguments)
        return
    if "LOCAL_RANK" in os.environ:  # torchrun or a scheduler has started the processes already
        work(*arguments)
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    messages = get_context("spawn").SimpleQueue()
    try:
        start_processes(_child, (work, arguments, devices, port, messages), nprocs=devices, start_method="spawn")
    except ProcessRaisedException as error:
        if not messages.empty():  # the others fail at the next exchange with the one that met it
            raise UserError(messages.get()) from None
        raise RuntimeError(f"the process of device {error.error_index} failed:\n{error}") from None
    except ProcessExitedException as error:
        if not messages.empty():
            raise UserError(messages.get()) from None
        raise RuntimeError(
            f"the process of device {error.error_index} ended with exit code {error.exit_code}"
        ) from None


def _child(rank: int, work: Work, arguments: tuple[Any, ...], devices: int, port: int, messages: Any) -> None:
    # What Lightning's default environment reads; with LOCAL_RANK set it starts no processes of its own.
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(devices),
        "NODE_RANK": "0",
        "LOCAL_RANK": str(rank),
    }
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // devices))
    try:
        work(*arguments)
    except UserError as error:
        messages.put(str(error))
        raise SystemExit(2) from None
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
