"""How a command ends before its work has begun: no empty run folder, and the exit code of the signal."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dmdd.config.command import Job, S, run
from dmdd.core.errors import Interrupted
from dmdd.core.files import remove_if_empty


def run_whole(job: Job[S], schema: type[S], arguments: list[str] | None) -> int:
    """Run a command that writes to a run folder.

    Args:
        job: As for :func:`dmdd.config.command.run`.
        schema: Likewise.
        arguments: Likewise.

    Returns:
        Exit code; 143 after SIGTERM at any time.
    """
    with _leave_at_sigterm() as folders:
        code = run(job, schema, arguments)
    for folder in folders:  # the signal may have come before the job had the folder in its care
        remove_if_empty(folder)
    return code


@contextmanager
def no_empty_folder(folder: Path) -> Iterator[None]:
    """Remove the run folder where nothing was written to it, also at SIGTERM and Ctrl-C.

    Args:
        folder: The run folder.

    Raises:
        Interrupted: SIGTERM came and nothing else has told so.
    """
    try:
        yield
    except SystemExit as leave:
        if leave.code != 128 + signal.SIGTERM:
            raise
        begun = (folder / "config.yaml").is_file()
        remove_if_empty(folder)
        told = "stopped; with resume=true the same command goes on" if begun else "stopped before the work began"
        raise Interrupted(told) from None
    except BaseException:
        remove_if_empty(folder)
        raise


@contextmanager
def _leave_at_sigterm() -> Iterator[list[Path]]:
    """Turn SIGTERM into an exception, since without a handler it ends the process where it stands.

    Training has handlers of its own, which save its state; they replace this one while they are needed. Gives a list
    that holds the run folder of then, once the signal has come; Hydra has forgotten it when the job is left.
    """
    from hydra.core.hydra_config import HydraConfig

    own = os.getpid()
    folders: list[Path] = []

    def leave(number: int, frame: Any) -> None:
        if os.getpid() != own:  # a process forked from this one, before it has a handler of its own
            os._exit(128 + number)
        if HydraConfig.initialized():
            folders.append(Path(HydraConfig.get().runtime.output_dir))
        raise SystemExit(128 + number)  # no Exception, which a library that is imported just now might catch

    in_main = threading.current_thread() is threading.main_thread()
    # torchrun and schedulers start several processes, of which none may leave while others wait for it.
    if not in_main or "LOCAL_RANK" in os.environ or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield folders
        return
    signal.signal(signal.SIGTERM, leave)
    try:
        yield folders
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
