"""A scale that people can read: threshold at 0.5, a typical good image at 0.1, false-alarm probability beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from dmdd.core.errors import UserError
from dmdd.core.logits import logit

if TYPE_CHECKING:
    from torch import Tensor

TYPICAL = 0.1
"""Where the median good image lies on the scale."""

DRIFT_IMAGES = 10
"""Fewer normal-looking images say nothing of a drift."""

_SLOPE = (1 - 2 * TYPICAL) / (2 * TYPICAL)  # of u in (1 + u / (1 + |u|)) / 2, so that u = -1 gives TYPICAL


def find_category(name: str, known: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Give the calibration of one of the categories that a model is for.

    Args:
        name: Of the category.
        known: Calibrations by category; empty where the model is for one.

    Returns:
        Its calibration.

    Raises:
        UserError: There is none of that category.
    """
    if name not in known:
        reason = (
            f"the model is for {', '.join(known)}" if known else "the model is for one category; leave category= out"
        )
        raise UserError(f"category={name}: {reason}")
    return known[name]


@dataclass(frozen=True)
class ScoreScale:
    """From a detector's raw scores to those that users see.

    ``u`` is how far the raw score lies above the threshold on the logit scale, in units of the way from the typical
    good image to the threshold; the score is ``(1 + a u / (1 + |a u|)) / 2``. It never saturates, so the order of
    images stays what it was.

    Args:
        threshold: Raw image threshold, in (0, 1).
        typical: Raw score of the median good image, below the threshold.
        table: Raw scores, ascending, and the false-alarm probability at each.
    """

    threshold: float
    typical: float
    table: tuple[tuple[float, ...], tuple[float, ...]]

    @classmethod
    def of(cls, calibration: Mapping[str, Any]) -> "ScoreScale | None":
        """Read the scale from a detector's calibration.

        Args:
            calibration: As in ``detector.json``, checked.

        Returns:
            The scale; None for models calibrated before there was one, whose raw scores are what users see.
        """
        threshold, typical = calibration.get("image_threshold"), calibration.get("typical_score")
        table = calibration.get("false_alarm_table")
        if threshold is None or typical is None or table is None or not typical < threshold:
            return None
        return cls(float(threshold), float(typical), (tuple(table["scores"]), tuple(table["rates"])))

    @property
    def steepness(self) -> float:
        """``a u`` for one step on the logit scale."""
        return _SLOPE / float(logit(self.threshold) - logit(self.typical))

    def readable(self, raw: float) -> float:
        """Give the score that users see.

        Args:
            raw: In [0, 1].

        Returns:
            In (0, 1); at least 0.5 exactly where ``raw`` reaches the threshold.
        """
        u = self.steepness * float(logit(raw) - logit(self.threshold))
        return (1 + u / (1 + abs(u))) / 2

    def readable_traced(self, raw: "Tensor") -> "Tensor":
        """Do the same for ``(B,)`` float32 scores, in operations that can be exported."""
        import torch  # here, so that a server with another runtime can do without it

        inside = raw.clamp(1e-6, 1 - 1e-6)
        z = inside.log() - (1 - inside).log()
        u = self.steepness * (z - float(logit(self.threshold)))
        score = (1 + u / (1 + u.abs())) / 2
        # In float32 a score beside the threshold could fall on its other side.
        return torch.where(raw >= self.threshold, score.clamp(min=0.5), score.clamp(max=0.5 - 2**-25))

    def false_alarm_probability(self, raw: float) -> float:
        """Estimate how many good images score at least so high.

        Args:
            raw: In [0, 1].

        Returns:
            In (0, 1]; no smaller than the last entry of the table.
        """
        scores, rates = self.table
        return float(np.exp(np.interp(float(logit(raw)), logit(scores), np.log(rates))))


def describe_drift(scores: ArrayLike, calibration: Mapping[str, Any]) -> str | None:
    """Compare the scores of normal-looking images with what they were when the threshold was set.

    Args:
        scores: ``(N,)`` raw scores of the images that were called normal.
        calibration: Of the detector.

    Returns:
        A sentence; None where the calibration or fewer than ``DRIFT_IMAGES`` images leave nothing to say.
    """
    typical, spread = calibration.get("typical_score"), calibration.get("spread")
    z = logit(scores)
    if typical is None or spread is None or len(z) < DRIFT_IMAGES:
        return None
    shift = float(np.median(z) - logit(typical)) / spread
    # Of a median, 1.25 standard deviations of a mean; the calibration's own one has the same uncertainty.
    unsure = 1.25 * float(np.sqrt(1 / len(z) + 1 / max(1, calibration.get("normal_images") or 1)))
    where = f"{abs(shift):.1f} spreads {'above' if shift > 0 else 'below'} the calibration's"
    if abs(shift) <= 0.5 + 1.64 * unsure:
        return f"none seen: the median of {len(z)} normal-looking images is {where}"
    return (
        f"the median of {len(z)} normal-looking images is {where}: camera, light or parts have changed, "
        "and the false-alarm rate with them; set the threshold anew with dmdd.calibrate"
    )
