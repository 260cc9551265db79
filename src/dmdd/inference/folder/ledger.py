"""What has been scored so far: a line an image in scores.jsonl, and the same as scores.csv."""

import contextlib
import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from dmdd.core.errors import UserError
from dmdd.core.files import whole_file
from dmdd.inference.folder.inputs import Item
from dmdd.inference.folder.known import KnownFiles

JSONL, CSV = "scores.jsonl", "scores.csv"
CLAIM = "predict.json"
"""What wrote the folder: model, input and settings."""

OUTCOMES = ("normal", "anomalous", "unjudged", "bad")


@dataclass(frozen=True)
class Record:
    """One line: an image and what was found, or why it could not be looked at.

    Args:
        file: Path below the input folder, with ``/``.
        score: In [0, 1], as in :class:`dmdd.inference.predictor.Prediction`; None for an image that could not be read.
        label: ``normal`` or ``anomalous``; None for an image that could not be read and without an image threshold.
        image_threshold: What the score was held against.
        width: Of the image, in pixels.
        height: Of the image, in pixels.
        time_ms: Decoding, network and pictures; in a batch the image's share.
        error: Why the image is bad: it could not be read, or its pictures not be written; None if it is not.
        bytes: Size of the file.
        mtime_ns: When the file was last written, in nanoseconds since 1970.
        scored_at: When this line was written, UTC.
        raw_score: Does not depend on the calibration; None for a bad image.
        false_alarm_probability: Of a good image to score at least so high; None if the model cannot say.
    """

    file: str
    score: float | None
    label: str | None
    image_threshold: float | None
    width: int | None
    height: int | None
    time_ms: float
    error: str | None
    bytes: int | None
    mtime_ns: int | None
    scored_at: str
    raw_score: float | None = None  # these two are missing in older files
    false_alarm_probability: float | None = None

    @property
    def outcome(self) -> str:
        """One of ``OUTCOMES``."""
        return "bad" if self.error is not None else self.label or "unjudged"


COLUMNS = tuple(field.name for field in fields(Record))


class Ledger:
    """The two files, appended to line by line.

    scores.jsonl is what counts: a line is there once the image is done, so a killed process loses the image in hand
    and repeats no other. A last line that was torn is dropped when the file is opened again, and scores.csv, whose
    lines follow those of scores.jsonl, is written anew from it.

    Args:
        folder: The output folder.

    Raises:
        UserError: scores.jsonl holds a line that is none of ours.

    Source: ours.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known = KnownFiles(OUTCOMES)
        self.added = Counter(dict.fromkeys(OUTCOMES, 0))
        """Lines by outcome since the files were opened."""
        with _told(folder):
            _write_csv(folder / CSV, self._earlier(folder / JSONL))
            self._files: list[BinaryIO] = [(folder / JSONL).open("ab"), (folder / CSV).open("ab")]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files:
            with contextlib.suppress(OSError):  # all lines were flushed, or that has failed and been told
                file.close()

    def outcome(self, item: Item) -> str | None:
        """Give one of ``OUTCOMES`` if the file is recorded as it is now (same name, size and time of writing)."""
        return self._known.outcome(item.name, item.version)

    def holds(self, item: Item) -> bool:
        """Say whether the file is recorded as it is now."""
        return self.outcome(item) is not None

    def append(self, record: Record) -> None:
        """Write a line into both files, down to the operating system.

        Args:
            record: The line.

        Raises:
            UserError: The disk is full or gone.
        """
        # First the file that counts: a kill in between costs a line of scores.csv, which a restart writes anew.
        lines = (_json_line(record), _csv_line(vars(record).values()))
        with _told(self.folder):
            for file, line in zip(self._files, lines, strict=True):
                file.write(line)
                file.flush()
        self._note(record)
        self.added[record.outcome] += 1

    def counts(self) -> Counter[str]:
        """Count all files that are recorded by the outcome of their latest line."""
        return self._known.counts()

    def _earlier(self, file: Path) -> Iterator[Record]:
        for record in _read(file):
            self._note(record)
            yield record

    def normal_scores(self) -> np.ndarray:
        """Give the raw scores of all images that were called normal by their latest line, in no order."""
        return self._known.scores("normal")

    def _note(self, record: Record) -> None:
        self._known.note(record.file, (record.bytes, record.mtime_ns), record.outcome, record.raw_score)


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}; the same command goes on from here") from None


def _read(file: Path) -> Iterator[Record]:
    """Read all whole lines one by one and cut off what follows the last of them."""
    if not file.exists():
        return
    whole = 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                os.truncate(file, whole)
                return
            try:
                record = Record(**json.loads(line))
            except (ValueError, TypeError):
                raise UserError(f"{file}: line {number} is damaged; overwrite=true begins anew") from None
            whole += len(line)
            yield record


def _write_csv(file: Path, records: Iterable[Record]) -> None:
    with whole_file(file) as partial, partial.open("wb") as target:
        target.write(_csv_line(COLUMNS))
        target.writelines(_csv_line(vars(record).values()) for record in records)


def _json_line(record: Record) -> bytes:
    # ASCII only, so that a file name that is no Unicode is still a valid line.
    return (json.dumps(vars(record), allow_nan=False) + "\n").encode("ascii")


def _csv_line(values: Iterable[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([f"{v:.9g}" if isinstance(v, float) else v for v in values])
    return text.getvalue().encode("utf-8", "surrogateescape")
