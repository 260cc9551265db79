"""One calibration: score the photographs, set thresholds, refuse what cannot be promised, show before and after."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from dmdd.core.errors import UserError
from dmdd.data.listing import list_images
from dmdd.deploy.calibrate.histogram import draw_histogram
from dmdd.deploy.calibrate.subject import Subject
from dmdd.metrics.calibration import (
    calibrate_scores,
    images_needed,
    learn_normal_scores,
    move_pixel_threshold,
    smallest_promise,
)
from dmdd.models.score_scale import ScoreScale

SUSPICIOUS = 0.5
"""Probability from which on a photograph given as good is named."""


@dataclass(frozen=True)
class Photographs:
    """What a folder of photographs scores.

    Args:
        files: The images.
        scores: ``(N,)`` raw scores.
        peaks: ``(N,)`` the maps' largest values.
    """

    files: list[Path]
    scores: np.ndarray
    peaks: np.ndarray


def look_at(subject: Subject, name: str, folder: str) -> Photographs:
    """Score the images of a folder and its subfolders.

    Args:
        subject: What scores them.
        name: Of the setting.
        folder: Its value.

    Returns:
        Files and scores.

    Raises:
        UserError: There is no such folder, or no image in it.
    """
    path = Path(folder)
    files = list_images(path, nested=True) if path.is_dir() else []
    if not files:
        raise UserError(f"{name}={folder}: no images in this folder")
    return Photographs(files, *subject.score(files))


def calibrate(subject: Subject, good: Photographs, bad: Photographs | None, *, rate: float) -> dict[str, Any]:
    """Set thresholds from photographs.

    Args:
        subject: What is calibrated.
        good: Photographs of good parts.
        bad: Photographs of bad parts, if there are any.
        rate: Wanted share of good images at or above the image threshold, in (0, 1).

    Returns:
        The new calibration, as plain JSON values.

    Raises:
        UserError: So few photographs cannot promise the rate.
    """
    old = subject.calibration
    spread = old.get("spread")
    new = calibrate_scores(
        good.scores, rate=rate, known_spread=spread, anomalous=[] if bad is None else bad.scores.tolist()
    )
    if not new["promised"]:
        known = learn_normal_scores(good.scores, known_spread=spread)
        found, count = known.rate(new["image_threshold"]), len(good.files)
        raise UserError(
            f"rate={rate:g} cannot be promised with {count} good image{'s' if count > 1 else ''}: it may be up to "
            f"{found.high:.2g}; give rate={smallest_promise(known):g}, or about {images_needed(found, count)} images"
        )
    kept = ("pixel_threshold", "pixel_f1_on_synthetic", "typical_peak", "smallest_area_px")
    return {
        **{name: old[name] for name in kept if name in old},
        **new,
        **move_pixel_threshold(good.peaks, old),
        "source": "photographs of good parts given to dmdd.calibrate",
        "calibrated_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


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
    strange = learn_normal_scores(good.scores, known_spread=old.get("spread")).intruders
    for place in np.argsort(-strange):
        if strange[place] > SUSPICIOUS:
            lines.append(
                f"look at   {good.files[place]}: given as good, scores like none of the others; it was left out"
            )
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
