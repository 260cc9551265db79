"""Commands in processes of their own, forked from a server that has imported what takes ten seconds.

They are real processes, with their own working folder, variables, output, signals and exit code. Left out is what an
interpreter does at its start and end: for ``PYTHONWARNINGS`` and ``atexit``, say, take :mod:`subprocess`.
"""

import atexit
import importlib
import multiprocessing
import os
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TextIO

import pytest

from patience import PATIENCE_S

KILL_SEED = 0

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        *("dmdd.train", "dmdd.experiment.experiment", "dmdd.report", "albumentations", "hydra.main", "timm"),
        *("dmdd.predict", "dmdd.inference.folder.pipeline", "dmdd.inference.folder.watching"),
    ]
)
_started: list[BaseProcess] = []
_VARIABLES = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "NO_ALBUMENTATIONS_UPDATE": "1"}


def _start(target, *arguments) -> BaseProcess:
    with pytest.MonkeyPatch.context() as patch:  # the server is the first to see them
        for name, value in _VARIABLES.items():
            patch.setenv(name, value)
        forkserver.ensure_running()
    process = _context.Process(target=target, args=arguments)
    process.start()
    _started.append(process)
    return process


@atexit.register
def _end_all() -> None:
    """End what a failed test has left: Python would wait for it."""
    for process in _started:
        if process.is_alive():
            process.kill()


def _predict(arguments: list[str], log: Path) -> None:
    import torch

    from dmdd.predict import main

    torch.set_num_threads(1)
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(main(arguments))


def start(arguments: list[str], log: Path) -> BaseProcess:
    """Start a prediction."""
    return _start(_predict, arguments, log)


def _signal_itself(line: str, number: int) -> None:
    """Send this process a signal when it has printed a line to stderr that begins so."""
    printed = sys.stderr.write

    def write(text: str) -> int:
        count = printed(text)
        if text.startswith(line):
            sys.stderr.flush()
            os.kill(os.getpid(), number)
        return count

    sys.stderr.write = write


def _command(
    name: str,
    arguments: list[str],
    cwd: Path,
    variables: dict[str, str],
    stop: tuple[str, int] | None,
    out: Connection,
    err: Connection,
) -> None:
    import torch

    torch.set_num_threads(1)
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    out.close()
    err.close()
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(cwd)
    sys.path[:0] = filter(None, variables.get("PYTHONPATH", "").split(os.pathsep))
    module = importlib.import_module(f"dmdd.{name}")
    sys.argv = [module.__file__, *arguments]
    if stop:
        _signal_itself(*stop)
    sys.exit(module.main(arguments))


class Command:
    """A command of dmdd that runs, with the part of :class:`subprocess.Popen` that tests use.

    Args:
        name: As in ``python -m dmdd.NAME``.
        arguments: Its arguments.
        cwd: Its working folder.
        variables: Changes of the environment.
        stop: The beginning of a line of stderr, and the signal that the process sends itself with it: at the same
            place however busy the machine is.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        cwd: Path,
        variables: Mapping[str, str],
        stop: tuple[str, int] | None = None,
    ) -> None:
        ends = [_context.Pipe(duplex=False) for _ in range(2)]
        environment = {**os.environ, **_VARIABLES, **variables}
        self.process = _start(_command, name, list(arguments), cwd, environment, stop, *(write for _, write in ends))
        for _, write in ends:
            write.close()
        self.stdout, self.stderr = (self._open(read) for read, _ in ends)
        for read, _ in ends:
            read.close()
        self.pid = self.process.pid

    def _open(self, pipe: Connection) -> TextIO:
        """Give a stream that is closed with this object: a test that fails, or reads nothing, leaves it open."""
        descriptor = os.dup(pipe.fileno())
        weakref.finalize(self, os.close, descriptor)
        return os.fdopen(descriptor, encoding="utf-8", closefd=False)

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    poll = returncode.fget

    def wait(self, timeout: float | None = None) -> int | None:
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("dmdd", timeout or 0)
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; gives what was printed. Neither pipe may fill up meanwhile, so both are read at once."""
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(2) as pool:
            parts = [pool.submit(stream.read) for stream in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
            printed, errors = (part.result() for part in parts)
        self.stdout.close()
        self.stderr.close()
        return printed, errors


def run_command(
    name: str, *arguments: str, cwd: Path, timeout: float = PATIENCE_S, **variables: str
) -> subprocess.CompletedProcess:
    """Run a command to its end, as ``subprocess.run`` with ``capture_output`` would."""
    command = Command(name, arguments, cwd=cwd, variables=variables)
    printed, errors = command.communicate(timeout)
    return subprocess.CompletedProcess([name, *arguments], command.returncode, printed, errors)


def count_lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0
