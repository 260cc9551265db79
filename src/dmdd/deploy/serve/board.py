"""What the page shows of each image, kept in memory: pictures, the map at display size, score."""

import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from dmdd.deploy.serve.api import Inspected

PHOTO_PX = 1024
"""Longest side of the photo as shown."""

MAP_PX = 512
"""Longest side of the map as shown; the network's own is about half of it."""


@dataclass(frozen=True)
class Finding:
    """One image on the page; everything in it is small and ready to be shown.

    Args:
        name: Of the file, as the user has it.
        score: In [0, 1], as in :class:`dmdd.inference.predictor.Prediction`, like the next two.
        raw_score: In [0, 1]; None if it is not known.
        false_alarm_probability: None if the model cannot say.
        size: Height and width of the image in pixels.
        time_ms: Decoding and inspection.
        photo: JPEG.
        heat: JPEG, the map in colours.
        map: ``(h, w)`` float32, the map at display size.
    """

    name: str
    score: float
    size: tuple[int, int]
    time_ms: float
    photo: bytes
    heat: bytes
    map: np.ndarray
    raw_score: float | None = None
    false_alarm_probability: float | None = None

    @property
    def memory_bytes(self) -> int:
        """What it takes in memory."""
        return len(self.photo) + len(self.heat) + self.map.nbytes


def make_finding(name: str, found: Inspected, *, middle: float) -> Finding:
    """Turn what was found into what is shown.

    Args:
        name: Of the file.
        found: Image and detection.
        middle: Map value at the middle of the colour scale, in (0, 1].

    Returns:
        Pictures no larger than ``PHOTO_PX`` and ``MAP_PX``.
    """
    heat = _shrink(found.detection.map, MAP_PX)
    level = (np.clip(heat / (2 * middle), 0, 1) * 255).astype(np.uint8)
    return Finding(
        name=name,
        score=found.detection.score,
        size=(found.pixels.shape[0], found.pixels.shape[1]),
        time_ms=found.time_ms,
        photo=_jpeg(cv2.cvtColor(_shrink(found.pixels, PHOTO_PX), cv2.COLOR_RGB2BGR)),
        heat=_jpeg(cv2.applyColorMap(level, cv2.COLORMAP_INFERNO)),
        map=heat,
        raw_score=found.detection.raw_score,
        false_alarm_probability=found.detection.false_alarm_probability,
    )


def _shrink(pixels: np.ndarray, longest: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    if max(height, width) <= longest:
        return pixels
    scale = longest / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _jpeg(bgr: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def outline(finding: Finding, threshold: float) -> tuple[str, int, float]:
    """Trace where the map reaches a threshold.

    Args:
        finding: Holds the map.
        threshold: In [0, 1].

    Returns:
        An SVG path in pixels of the map, the number of regions (8-connected), and the share of the image in them.
    """
    mask = (finding.map >= threshold).astype(np.uint8)
    contours, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    path = "".join(f"M{' '.join(f'{x + 0.5:g},{y + 0.5:g}' for x, y in points[:, 0])}Z" for points in contours)
    regions = 0 if hierarchy is None else int((hierarchy[0, :, 3] < 0).sum())
    return path, regions, float(mask.mean())


class Board:
    """Findings by a key nobody can guess; the oldest go when the memory is full.

    Args:
        memory_bytes: How much to keep at most.

    Source: ours.
    """

    def __init__(self, memory_bytes: int) -> None:
        self.memory_bytes = memory_bytes
        self._findings: OrderedDict[str, Finding] = OrderedDict()
        self._used, self._lock = 0, threading.Lock()

    def add(self, finding: Finding) -> str:
        """Keep a finding.

        Args:
            finding: It is kept even if it alone is beyond the memory.

        Returns:
            Its key.
        """
        key = secrets.token_urlsafe(16)
        with self._lock:
            self._findings[key] = finding
            self._used += finding.memory_bytes
            while self._used > self.memory_bytes and len(self._findings) > 1:
                self._used -= self._findings.popitem(last=False)[1].memory_bytes
        return key

    def get(self, key: str) -> Finding | None:
        """Give a finding, or None if there is none of this key any more."""
        return self._findings.get(key)

    def forget(self, keys: Iterable[str]) -> None:
        """Drop findings; keys that are unknown are passed over."""
        with self._lock:
            for key in keys:
                finding = self._findings.pop(key, None)
                self._used -= 0 if finding is None else finding.memory_bytes
