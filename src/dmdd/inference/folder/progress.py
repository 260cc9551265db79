"""What a prediction says while it runs, and how it is told to stop."""

import signal
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bar,
)

from dmdd.inference.folder.ledger import Record

LOG_EVERY_S = 5.0


class StopSignal:
    """Note SIGINT and SIGTERM instead of dying of them; a second SIGINT ends the process at once.

    A plain attribute, not a ``threading.Event``: setting one in a handler can wait for a lock its own thread holds.

    Source: ours.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)

    def requested(self) -> bool:
        """Say whether a signal has come."""
        return self.number is not None


class Progress:
    """Count images on stderr: a bar in a terminal, a line every few seconds in a log.

    Args:
        total: How many there will be; None when following a folder.

    Source: ours.
    """

    def __init__(self, total: int | None) -> None:
        self.total, self.done = total, 0
        self._started = self._shown = time.monotonic()
        self._bar: Bar | None = None
        self._console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
        if self._console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeElapsedColumn())
            left = (TextColumn("left"), TimeRemainingColumn()) if total is not None else ()
            self._bar = Bar(*columns, *left, console=self._console)
            self._task = self._bar.add_task("images", total=total, rate="")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, records: Sequence[Record]) -> None:
        """Count the images of a batch.

        Args:
            records: Their lines; bad images are told at once.
        """
        self.done += len(records)
        for record in records:
            if record.error is not None:
                self.say(f"bad image: {record.error}")
        now = time.monotonic()
        rate = self.done / max(now - self._started, 1e-9)
        if self._bar:
            self._bar.update(self._task, completed=self.done, rate=f"{rate:.3g} images/s" if self.total else "")
        elif self.done == self.total or now - self._shown >= LOG_EVERY_S:
            self._shown = now
            print(self._line(rate), file=sys.stderr, flush=True)

    def say(self, line: str) -> None:
        """Print a line without disturbing the bar."""
        if self._bar:
            self._console.print(line)
        else:
            print(line, file=sys.stderr, flush=True)

    def _line(self, rate: float) -> str:
        if self.total is None:
            return f"predict {self.done}"
        minutes, seconds = divmod(round((self.total - self.done) / rate), 60)
        return f"predict {self.done}/{self.total}  {rate:.3g} images/s  left {minutes}:{seconds:02d}"
