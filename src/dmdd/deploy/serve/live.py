"""The newest results, for the live list: of images sent to the endpoint, and of a folder that predict follows."""

import base64
import json
import threading
from collections import defaultdict, deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
from fastapi import FastAPI, Query
from pydantic import BaseModel, Field

from dmdd.core.drawing import draw_overlay, encode
from dmdd.core.errors import UserError
from dmdd.data.images import read_image
from dmdd.deploy.serve.api import Inspected, Inspection
from dmdd.deploy.serve.model import ServedModel
from dmdd.inference.folder.ledger import CLAIM, JSONL, Record
from dmdd.models.score_scale import describe_drift

PICTURE_PX = 192
"""Longest side of a picture in the list."""

DRIFT_SCORES = 500
"""Newest normal-looking images whose median is compared with the calibration's."""

TAIL_BYTES = 500_000
"""What is read of scores.jsonl at once: some 1,500 images."""


class LiveResult(BaseModel):
    """One image of the list."""

    number: int = Field(description="Grows from image to image.")
    name: str
    at: str = Field(description="When it was inspected, UTC.")
    score: float | None = Field(description="In [0, 1]; null for an image that could not be read.")
    label: bool | None = Field(description="True for anomalous; null without a threshold.")
    error: str | None
    picture: str | None = Field(description="Base64 JPEG; null if the image cannot be read any more.")


class LiveAnswer(BaseModel):
    """What is new since the last time."""

    results: list[LiveResult] = Field(description="The newest first.")
    most: int = Field(description="How many the list holds.")
    drift: str | None = Field(description="How normal-looking images differ from the calibration's, in a sentence.")


class Newest:
    """The newest results, a bounded number of them in memory.

    Args:
        model: What inspects; its calibration is what drift is told against.
        most: Results to keep.
        follow: Output folder of ``dmdd predict``, whose results are listed too; None for no folder.

    Raises:
        UserError: ``follow`` is no such folder.

    Source: ours.
    """

    def __init__(self, model: ServedModel, *, most: int, follow: Path | None) -> None:
        self.model, self.most = model, most
        self._tail = None if follow is None else Tail(follow)
        self._results: deque[LiveResult] = deque(maxlen=most)
        self._normal: dict[str | None, deque[float]] = defaultdict(lambda: deque(maxlen=DRIFT_SCORES))  # by category
        # From the clock: a page that outlives the server does not take new results for known ones.
        self._number = int(1000 * datetime.now(UTC).timestamp())
        self._posted, self._lock = 0, threading.Lock()
        self._read_folder()

    def add_posted(self, found: Inspected, name: str | None, category: str | None = None) -> None:
        """Add an image that was sent to the endpoint.

        Args:
            found: Image and prediction.
            name: What the sender calls it; counted if None.
            category: By whose thresholds it was judged; None for those of all.
        """
        prediction = found.prediction
        picture = draw_small(found, prediction.pixel_threshold)
        with self._lock:
            self._posted += 1
            if prediction.label is False and prediction.raw_score is not None:
                self._normal[category].append(prediction.raw_score)
            self._add(
                name=name or f"image {self._posted}",
                at=datetime.now(UTC).isoformat(timespec="seconds"),
                score=prediction.score,
                label=prediction.label,
                picture=picture,
            )

    def since(self, number: int) -> LiveAnswer:
        """Give what is new.

        Args:
            number: The largest that is known already.

        Returns:
            Results with larger numbers.
        """
        with self._lock:
            self._read_folder()
            fresh = [result for result in reversed(self._results) if result.number > number]
            drifts = [self._drift(category) for category in self._normal]
        return LiveAnswer(results=fresh, most=self.most, drift="; ".join(filter(None, drifts)) or None)

    def _drift(self, category: str | None) -> str | None:
        calibration = self.model.of(category).predictor.detector.calibration
        told = describe_drift(np.array(self._normal[category]), calibration)
        return told if told is None or category is None else f"{category}: {told}"

    def _read_folder(self) -> None:
        if (tail := self._tail) is None:
            return
        records = tail.read()
        category = tail.category if tail.category in self.model.categories else None
        self._normal[category].extend(
            record.raw_score for record in records if record.outcome == "normal" and record.raw_score is not None
        )
        for record in records[-self.most :]:
            self._add(
                name=record.file.encode("utf-8", "replace").decode(),  # a name may be no Unicode
                at=record.scored_at,
                score=record.score,
                label=None if record.label is None else record.label == "anomalous",
                error=record.error,
                picture=tail.picture(record),
            )

    def _add(self, *, error: str | None = None, **values: Any) -> None:
        self._number += 1
        self._results.append(LiveResult(number=self._number, error=error, **values))


class Tail:
    """What ``dmdd predict`` adds to its output folder, read without disturbing it.

    Args:
        folder: The output folder.

    Raises:
        UserError: It is none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._offset = folder, 0
        try:
            claim = json.loads((folder / CLAIM).read_text(encoding="utf-8"))
            self.images, self.category = Path(claim["input"]), claim.get("category")
        except (OSError, ValueError, LookupError, TypeError):
            raise UserError(
                f"follow={folder} is no output folder of dmdd predict (no readable {CLAIM}); start predict first"
            ) from None

    def read(self) -> list[Record]:
        """Give the lines that are new since the last call, of very many the last ones."""
        try:
            with (self.folder / JSONL).open("rb") as file:
                size = file.seek(0, 2)
                if self._offset > size:  # predict began anew
                    self._offset = 0
                begin = max(self._offset, size - TAIL_BYTES)
                torn = begin != self._offset  # in the middle of a line
                file.seek(begin)
                text = file.read()
        except OSError:
            return []
        whole = text.rfind(b"\n") + 1
        self._offset = begin + whole
        return [record for line in text[:whole].splitlines()[torn:] if (record := _parse(line)) is not None]

    def picture(self, record: Record) -> str | None:
        """Draw a result: its overlay where predict has written one, else the image itself."""
        for file in (self.folder / "overlays" / f"{record.file}.jpg", self.images / record.file):
            if file.is_file():
                try:
                    return _encode(_shrink(read_image(file)))
                except UserError:
                    continue
        return None


def _parse(line: bytes) -> Record | None:
    try:
        return Record(**json.loads(line))
    except (ValueError, TypeError):
        return None


def draw_small(found: Inspected, pixel_threshold: float | None) -> str:
    """Draw an inspected image small, under its map's colours and with the mask's outline.

    Args:
        found: Image and prediction.
        pixel_threshold: The model's; None for no outline.

    Returns:
        Base64 JPEG, its longest side at most ``PICTURE_PX``.
    """
    rgb, heat = _shrink(found.pixels), _shrink(found.prediction.map)
    mask = None if pixel_threshold is None else heat >= pixel_threshold
    return _encode(draw_overlay(rgb, heat, mask, middle=pixel_threshold or 0.5))


def _shrink(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    scale = min(1.0, PICTURE_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _encode(rgb: np.ndarray) -> str:
    return base64.b64encode(encode(rgb, ".jpg")).decode("ascii")


def add_live(app: FastAPI, inspection: Inspection, *, follow: Path | None) -> None:
    """Add the route behind the live list, and have the endpoint tell it of each image.

    Args:
        app: The application of :func:`dmdd.deploy.serve.api.build_api`.
        inspection: The inspection behind it.
        follow: Output folder of ``dmdd predict``; None for none.

    Raises:
        UserError: ``follow`` is no such folder.
    """
    newest = Newest(inspection.model, most=inspection.limits.live_images, follow=follow)
    inspection.tell = newest.add_posted

    @app.get("/page/live", include_in_schema=False)
    def live(after: Annotated[int, Query(ge=0)] = 0) -> LiveAnswer:
        return newest.since(after)
