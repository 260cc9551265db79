"""One calibration: score the photographs, set thresholds, refuse what cannot be promised, show before and after."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from dmdd.core.errors import UserError
from dmdd.data.listing import list_images
from dmdd.deploy.calibrate.histogram import draw_histogram
from dmdd.deploy.calibrate.subject import Subject
from dmdd.models.normal_scores import (
    INTRUDER,
    calibrate_scores,
    images_needed,
    learn_normal_scores,
    move_pixel_threshold,
    smallest_promise,
)
from dmdd.models.score_scale import ScoreScale


class CannotPromise(UserError):
    """So few photographs cannot promise the wanted rate.

    Args:
        rate: Wanted.
        count: Good photographs.
        high: What the rate may be, upper end of its 90 % interval.
        smallest: The smallest rate that they promise.
        images: About how many photographs promise the wanted rate.
    """

    def __init__(self, rate: float, *, count: int, high: float, smallest: float, images: int) -> None:
        super().__init__(
            f"rate={rate:g} cannot be promised with {count} good image{'s' if count > 1 else ''}: it may be up to "
            f"{high:.2g}; give rate={smallest:g}, or about {images} images"
        )
        self.rate, self.count, self.high, self.smallest, self.images = rate, count, high, smallest, images


@dataclass(frozen=True)
class Photographs:
    """What photographs score.

    Args:
        names: The images'.
        scores: ``(N,)`` raw scores.
        peaks: ``(N,)`` the maps' largest values.
    """

    names: Sequence[str]
    scores: np.ndarray
    peaks: np.ndarray


def look_at(subject: Subject, name: str, folder: str) -> Photographs:
    """Score the images of a folder and its subfolders.

    Args:
        subject: What scores them.
        name: Of the setting.
        folder: Its value.

    Returns:
        Names and scores.

    Raises:
        UserError: There is no such folder, or no image in it.
    """
    path = Path(folder)
    if not path.is_dir():
        raise UserError(f"{name}={folder}: no such folder")
    files = list_images(path, nested=True)
    if not files:
        raise UserError(f"{name}={folder}: no images in this folder")
    return Photographs([str(file) for file in files], *subject.score(files))


def calibrate(
    old: Mapping[str, Any], good: Photographs, bad: Photographs | None, *, rate: float, source: str
) -> dict[str, Any]:
    """Set thresholds from photographs.

    Args:
        old: The calibration in force.
        good: Photographs of good parts.
        bad: Photographs of bad parts, if there are any.
        rate: Wanted share of good images at or above the image threshold, in (0, 1).
        source: Where the photographs come from, in words.

    Returns:
        The new calibration, as plain JSON values.

    Raises:
        CannotPromise: So few photographs cannot promise the rate.
    """
    spread = old.get("spread")
    new = calibrate_scores(
        good.scores, rate=rate, known_spread=spread, anomalous=[] if bad is None else bad.scores.tolist()
    )
    if not new["promised"]:
        known = learn_normal_scores(good.scores, known_spread=spread)
        found, count = known.rate(new["image_threshold"]), len(good.names)
        raise CannotPromise(
            rate,
            count=count,
            high=found.high,
            smallest=smallest_promise(known),
            images=images_needed(found, count),
        )
    kept = ("pixel_threshold", "pixel_f1_on_synthetic", "typical_peak", "spot_area_px", "smallest_area_px")
    return {
        **{name: old[name] for name in kept if name in old},
        **new,
        **move_pixel_threshold(good.peaks, old),
        "source": source,
        "calibrated_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def intruders(old: Mapping[str, Any], good: Photographs) -> list[int]:
    """Find the photographs given as good that score like none of the others.

    Args:
        old: The calibration that was in force.
        good: Photographs of good parts.

    Returns:
        Their places, the strangest first.
    """
    strange = learn_normal_scores(good.scores, known_spread=old.get("spread")).intruders
    return [int(place) for place in np.argsort(-strange) if strange[place] > INTRUDER]


def describe(old: dict[str, Any], new: dict[str, Any], good: Photographs, bad: Photographs | None) -> list[str]:
    """Show what changes.

    Args:
        old: The calibration so far.
        new: The new one.
        good: Photographs of good parts.
        bad: Photographs of bad parts.

    Returns:
        Lines for the terminal.
    """
    lines: list[str] = []
    for title, calibration in (("before", old), ("now", new)):
        scale = ScoreScale.of(calibration)
        cut = calibration.get("image_threshold")
        shown = [
            [float(score) if scale is None else scale.readable(float(score)) for score in photographs.scores]
            for photographs in (good, bad)
            if photographs is not None
        ]
        above = [
            f"{sum(photographs.scores >= cut)} of {len(photographs.scores)} {what}"
            for what, photographs in (("good rejected", good), ("bad found", bad))
            if photographs is not None and cut is not None
        ]
        head = f"{title}: score, good #, bad x; {', '.join(above) or 'no threshold'}"
        lines += draw_histogram(head, shown[0], shown[1] if bad else [], cut if scale is None else 0.5)
    for place in intruders(old, good):
        lines.append(f"look at   {good.names[place]}: given as good, scores like none of the others; it was left out")
    lines.append(f"promise   {new['promise']}")
    if "anomalous_found" in new:
        lines.append(f"found     {100 * new['anomalous_found']:.0f} % of the bad images")
    changed = [
        f"{name.partition('_')[0]} {_number(old.get(name))} -> {_number(new.get(name))}"
        for name in ("image_threshold", "pixel_threshold")
    ]
    return [*lines, f"raw thresholds: {', '.join(changed)}"]


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"
