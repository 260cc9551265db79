"""From the scores of a few normal images to a threshold, the false-alarm rate it has, and how sure that is.

Nothing here needs torch: a server calibrates an exported file without it.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from dmdd.core.logits import logit

SPREAD_GROWS = 1.3
"""How much wider new normal images scatter than those trained on: the median of seven sets, which have 0.5 to 2.0."""

SPREAD_UNSURE = 0.4
"""Standard deviation of that factor's logarithm."""

INTRUDERS = 0.02
"""Share of the images given as normal that may not be, before they have been seen."""

INTRUDER_RANGE = 20.0
"""Over how many spreads intruders may lie."""

INTRUDER = 0.5
"""Probability from which on an image given as good is taken for an intruder, and named."""

STRANGE_RANGE = 10.0
"""Over how many robust standard deviations the strangeness of intruders may lie; that of good images is logistic."""

MOST_DOUBT = 0.5
"""The highest probability that looks alone give: good parts that are worn or dirty look strange too."""

PROMISE = 3.0
"""A rate is promised where the upper end of its 90 % interval is at most so many times the rate itself."""

LOT_SHIFT = 1.3
"""How many spreads the median of another lot lies above that of the held-out images, root mean square: that of seven
sets is 1.0 and 1.2 with two kinds of maps, rounded up as seven are few (docs/results/decisions.md)."""

FAMILIES = {"normal": 0.5, "gumbel": 0.25, "logistic": 0.25}
"""Forms of the distribution, and how likely each is before any score: real ones are close to normal on this scale."""

_SPREADS, _PLACES = 25, 41
_INTERVAL = (0.05, 0.95)


class Rate(NamedTuple):
    """A false-alarm rate and its 90 % interval, all in [0, 1]."""

    expected: float
    low: float
    high: float


@dataclass(frozen=True)
class NormalScores:
    """What is known of the scores of normal images, after some have been seen.

    Args:
        places: ``(K,)``, the medians on the logit scale that are possible.
        spreads: ``(K,)``, the spreads (interquartile range / 1.349) that go with them, above 0.
        families: ``(K,)``, indices into ``FAMILIES``.
        weights: ``(K,)``, their probabilities; the sum is 1.
        intruders: Of each image seen, in the order given, the probability that it is none of them.
    """

    places: np.ndarray
    spreads: np.ndarray
    families: np.ndarray
    weights: np.ndarray
    intruders: np.ndarray

    @property
    def typical(self) -> float:
        """The score of the median normal image, in (0, 1)."""
        return _squash(float(self.weights @ self.places))

    @property
    def spread(self) -> float:
        """The expected spread on the logit scale."""
        return float(self.weights @ self.spreads)

    def rate(self, threshold: float) -> Rate:
        """Say how many normal images will reach a threshold.

        Args:
            threshold: A score in [0, 1].

        Returns:
            Share of normal images at or above it: expected, and its 90 % interval.
        """
        rates = self._rates(float(logit(threshold)))
        order = np.argsort(rates)
        below = np.cumsum(self.weights[order])
        ends = np.minimum(np.searchsorted(below, _INTERVAL), len(order) - 1)
        low, high = rates[order[ends]].tolist()
        return Rate(float(self.weights @ rates), low, high)

    def expected(self, scores: ArrayLike) -> np.ndarray:
        """Give the share of normal images that is expected at or above each score.

        Args:
            scores: ``(N,)`` in [0, 1].

        Returns:
            ``(N,)`` in [0, 1].
        """
        return np.array([float(self.weights @ self._rates(float(z))) for z in np.atleast_1d(logit(scores))])

    def threshold(self, rate: float) -> float:
        """Find the threshold that a wanted share of normal images is expected to reach.

        Args:
            rate: In (0, 1).

        Returns:
            A score in (0, 1).
        """
        widest = 50 * float(self.spreads.max())
        low, high = float(self.places.min()) - widest, float(self.places.max()) + widest
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if float(self.weights @ self._rates(middle)) > rate else (low, middle)
        return _squash(high)

    def of_other_lots(self) -> "NormalScores":
        """Say what is known of images of other parts, lots or days: their median lies somewhere above this one.

        Returns:
            The same with the shift kept open: half-normal, of scale ``LOT_SHIFT``, by its ten deciles' middles.
        """
        shifts = [LOT_SHIFT * NormalDist().inv_cdf((1 + (step + 0.5) / 10) / 2) for step in range(10)]
        count = len(shifts)
        return replace(
            self,
            places=np.concatenate([self.places + shift * self.spreads for shift in shifts]),
            spreads=np.tile(self.spreads, count),
            families=np.tile(self.families, count),
            weights=np.tile(self.weights / count, count),
        )

    def _rates(self, z: float) -> np.ndarray:
        x = (z - self.places) / self.spreads
        rates = np.empty_like(x)
        for family, name in enumerate(FAMILIES):
            own = self.families == family
            rates[own] = _above(name, x[own])
        return rates


def calibrate_scores(
    scores: ArrayLike,
    *,
    rate: float,
    training: ArrayLike = (),
    known_spread: float | None = None,
    strangeness: ArrayLike | None = None,
    anomalous: ArrayLike = (),
    other_lots: bool = False,
) -> dict[str, Any]:
    """Set an image threshold, and say how far it can be trusted.

    Args:
        scores: ``(N,)`` in [0, 1] of normal images that were not trained on, at least 1.
        rate: Wanted share of normal images at or above the threshold, in (0, 1).
        training: ``(M,)`` scores of the images trained on.
        known_spread: The spread that an earlier calibration found, in place of ``training``.
        strangeness: ``(N,)``, see :func:`learn_normal_scores`.
        anomalous: ``(A,)`` scores of anomalous images, synthetic or real.
        other_lots: Whether new images may be of other parts, lots or days than these, as after a training.

    Returns:
        Plain JSON values for a detector's calibration: ``image_threshold``, ``image_false_alarm_rate`` and its 90 %
        interval, whether the wanted rate is promised and a sentence that says so, ``typical_score``, ``spread``, a
        table of false-alarm probabilities, ``normal_images``, the share of ``anomalous`` found, and with ``other_lots``
        the rate that these may have, ``other_lots_rate``.
    """
    known = learn_normal_scores(scores, training=training, known_spread=known_spread, strangeness=strangeness)
    # The smallest float32 from here on, since scores are compared in float32 too.
    threshold = float(np.nextafter(np.float32(known.threshold(rate)), np.float32(np.inf)))
    promised = known.rate(threshold)
    elsewhere = known.of_other_lots().rate(threshold).high if other_lots else None
    middle = float(logit(known.typical))
    knots = [_squash(middle + float(step) * known.spread) for step in np.arange(-2, 10, 0.5)]
    found = np.asarray(anomalous, np.float64)
    return {
        "image_threshold": threshold,
        "image_false_alarm_rate": promised.expected,
        "image_false_alarm_interval": [promised.low, promised.high],
        "wanted_false_alarm_rate": rate,
        "promised": promised.high <= PROMISE * rate,
        "promise": promise(promised, rate, len(np.atleast_1d(scores)), elsewhere=elsewhere),
        **({} if elsewhere is None else {"other_lots_rate": elsewhere}),
        "normal_images": len(np.atleast_1d(scores)),
        "typical_score": known.typical,
        "spread": known.spread,
        "false_alarm_table": {"scores": knots, "rates": np.maximum(known.expected(knots), 1e-9).tolist()},
        **({"anomalous_found": float((found >= threshold).mean())} if len(found) else {}),
    }


def promise(found: Rate, wanted: float, count: int, *, elsewhere: float | None = None) -> str:
    """Say in a sentence what a threshold promises.

    Args:
        found: The rate at the threshold.
        wanted: The wanted rate.
        count: Normal images it was set on.
        elsewhere: What the rate of other lots may be; None leaves it out.

    Returns:
        One sentence without a full stop.
    """
    range_ = f"between {_percent(found.low)} and {_percent(found.high)} of good images (90 % interval)"
    images = f"{count} good image{'' if count == 1 else 's'}"
    more = "" if elsewhere is None else f", and up to {_percent(elsewhere)} where parts, lot or light are others"
    if found.high <= PROMISE * wanted:
        return f"{images}: expect {_percent(found.expected)} false alarms, {range_}{more}"
    return f"{_percent(wanted)} false alarms cannot be promised with {images}: expect {range_}{more}"


def smallest_promise(known: NormalScores) -> float:
    """Find the smallest false-alarm rate that can be promised.

    Args:
        known: Of normal images.

    Returns:
        In (0, 1); of a few steps a decade.
    """
    for rate in (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2):
        if known.rate(known.threshold(rate)).high <= PROMISE * rate:
            return rate
    return 0.5


def images_needed(found: Rate, count: int) -> int:
    """Estimate how many normal images promise the rate that fewer do not.

    Args:
        found: What ``count`` images leave open.
        count: How many there were.

    Returns:
        A round number; the interval's width on the logarithmic scale falls with the square root of the count.
    """
    width = np.log(max(found.high, 1e-9) / max(found.expected, 1e-9)) / np.log(PROMISE)
    return int(np.ceil(count * max(float(width), 1) ** 2 / 10) * 10)


def move_pixel_threshold(found: ArrayLike, calibration: Mapping[str, Any]) -> dict[str, float]:
    """Move the pixel threshold as the maps of good images have moved.

    Args:
        found: ``(N,)``, the largest map value of each good photograph.
        calibration: The former one.

    Returns:
        ``pixel_threshold`` and ``typical_peak``; nothing where the former calibration does not know its own peak.
    """
    threshold, before = calibration.get("pixel_threshold"), calibration.get("typical_peak")
    if threshold is None or before is None:
        return {}
    now = float(np.median(np.asarray(found, np.float64)))
    moved = _squash(float(logit(threshold) + logit(now) - logit(before)))
    return {"pixel_threshold": moved, "typical_peak": now}


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share >= 0.0005 else "0 %"


def learn_normal_scores(
    scores: ArrayLike,
    *,
    training: ArrayLike = (),
    known_spread: float | None = None,
    strangeness: ArrayLike | None = None,
) -> NormalScores:
    """Learn how normal images score from some that were not trained on.

    On the logit scale their distribution has a median, a spread and one of three forms (normal, skewed, heavy tails);
    what the scores leave open of these is kept open and averaged over. Less than half of the images may be intruders
    instead, which score anywhere, so one bad image among many decides nothing. Among few a score alone cannot tell an
    intruder from a good image, so how strange an image looks counts too. Images trained on score too low, but scatter
    similarly: with few others their spread is what the spread is expected to be.

    Args:
        scores: ``(N,)`` in [0, 1] of images given as normal that were not trained on, at least 1.
        training: ``(M,)`` scores of the images trained on.
        known_spread: The spread that an earlier calibration found, in place of ``training``.
        strangeness: ``(N,)`` how far each image lies from the others by its looks and not by its score, in robust
            standard deviations, as :func:`dmdd.models.suspicion.strangeness` gives it; None where that is not known.

    Returns:
        What is known then.

    Raises:
        ValueError: There are no scores, or one is no number.

    Source: Bayesian averaging over a grid; the forms and the prior ours, measured in docs/calibration.md.
    """
    z, seen = logit(scores), logit(training)
    if z.ndim != 1 or len(z) == 0 or not np.isfinite(z).all() or not np.isfinite(seen).all():
        raise ValueError("finite scores of at least one normal image are needed")
    doubt = _doubt(len(z), strangeness)
    expected, unsure = _expected_spread(z, seen, known_spread)
    middle, own = float(np.median(z)), _robust_spread(z)
    widest = max(own, expected)
    log_spreads = np.linspace(np.log(min(own or expected, expected) / 8), np.log(widest * 8), _SPREADS)
    places = np.linspace(middle - 5 * widest, middle + 5 * widest, _PLACES)
    for _ in range(2):  # the second time where the first has found something
        weights, intruders = _weigh(z, doubt, places, log_spreads, float(np.log(expected)), unsure)
        where = (places, log_spreads)
        places = _narrow(places, weights.sum((0, 1)), _PLACES)
        log_spreads = _narrow(log_spreads, weights.sum((0, 2)), _SPREADS)
    kept = weights.ravel() > 1e-9 * weights.max()
    family, spread, place = (index.ravel()[kept] for index in np.indices(weights.shape))
    chosen = weights.ravel()[kept] / weights.ravel()[kept].sum()
    return NormalScores(
        places=where[0][place],
        spreads=np.exp(where[1][spread]),
        families=family,
        weights=chosen,
        intruders=intruders,
    )


def _doubt(count: int, strangeness: ArrayLike | None) -> np.ndarray:
    """Give for each image the probability that it is an intruder, before its score is looked at."""
    if strangeness is None:
        return np.full(count, INTRUDERS)
    looks = np.asarray(strangeness, np.float64)
    # Most are good: where the middle one looks strange, all are of another lot.
    looks = np.maximum(looks - max(0.0, float(np.sort(looks)[(count - 1) // 2])), 0.0)
    odds = INTRUDERS / (1 - INTRUDERS) / STRANGE_RANGE / _density("logistic", looks)
    return np.minimum(odds / (1 + odds), MOST_DOUBT)


def _expected_spread(z: np.ndarray, seen: np.ndarray, known: float | None) -> tuple[float, float]:
    """Give what the spread is expected to be before the scores are looked at, and how unsure its logarithm is."""
    if known is not None:
        return known, SPREAD_UNSURE
    if len(seen) > 3 and (spread := _robust_spread(seen)) > 0:
        return SPREAD_GROWS * spread, float(np.hypot(SPREAD_UNSURE, 1 / np.sqrt(len(seen))))
    return max(_robust_spread(z), 0.02), 1.5  # nothing is known: the scores themselves, nearly without weight


def _robust_spread(z: np.ndarray) -> float:
    """Interquartile range / 1.349; for a few values the standard deviation, since their quartiles say little."""
    if len(z) < 2:
        return 0.0
    if len(z) < 8:
        return float(z.std(ddof=1))
    return float((np.quantile(z, 0.75) - np.quantile(z, 0.25)) / 1.349)


def _narrow(axis: np.ndarray, weights: np.ndarray, count: int) -> np.ndarray:
    """Keep the part of an axis that has weight, in ``count`` steps."""
    places = np.flatnonzero(weights > 1e-7 * weights.max())
    return np.linspace(axis[max(places[0] - 1, 0)], axis[min(places[-1] + 1, len(axis) - 1)], count)


def _weigh(
    z: np.ndarray, doubt: np.ndarray, places: np.ndarray, log_spreads: np.ndarray, expected: float, unsure: float
) -> tuple[np.ndarray, np.ndarray]:
    """Weigh every family, spread and place by prior and scores.

    Returns:
        Their probabilities ``(families, spreads, places)``, and for each image ``(N,)`` that of being an intruder.
    """
    logs, strange = np.empty((len(FAMILIES), len(log_spreads), len(places))), doubt / INTRUDER_RANGE
    for row, log_spread in enumerate(log_spreads):
        prior = -0.5 * ((log_spread - expected) / unsure) ** 2 - len(z) * log_spread
        for family, density in enumerate(_densities(z, doubt, places, log_spread)):
            logs[family, row] = np.log(density).sum(1) + prior + np.log(tuple(FAMILIES.values())[family])
            # Most of what looks good is good: otherwise all might be intruders, and the median of the others anywhere.
            logs[family, row, (strange / density) @ (1 - doubt) >= 0.5 * (1 - doubt).sum()] = -np.inf
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    intruders = np.zeros(len(z))
    for row, log_spread in enumerate(log_spreads):
        for family, density in enumerate(_densities(z, doubt, places, log_spread)):
            intruders += weights[family, row] @ (strange / density)
    return weights, intruders


def _densities(z: np.ndarray, doubt: np.ndarray, places: np.ndarray, log_spread: float) -> Iterator[np.ndarray]:
    """Yield for each family the density of each score at each place, ``(places, N)``, intruders counted in."""
    x = (z[None] - places[:, None]) / np.exp(log_spread)
    for name in FAMILIES:
        yield (1 - doubt) * _density(name, x) + doubt / INTRUDER_RANGE


# Each family with median 0 and the interquartile range of a standard normal distribution.
_IQR = 1.3489795
_erfc = np.frompyfunc(math.erfc, 1, 1)
_GUMBEL_MEDIAN, _GUMBEL_RATIO = float(-np.log(np.log(2))), 1.5725 / _IQR
_LOGISTIC_RATIO = float(2 * np.log(3)) / _IQR


def _density(family: str, x: np.ndarray) -> np.ndarray:
    if family == "normal":
        return np.asarray(np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi))
    if family == "gumbel":
        g = np.clip(_GUMBEL_MEDIAN + _GUMBEL_RATIO * x, -5, None)
        return np.asarray(_GUMBEL_RATIO * np.exp(-g - np.exp(-g)))
    small = np.exp(-np.abs(_LOGISTIC_RATIO * x))
    return np.asarray(_LOGISTIC_RATIO * small / (1 + small) ** 2)


def _above(family: str, x: np.ndarray) -> np.ndarray:
    """Give the share of a family's values at or above ``x``."""
    if family == "normal":
        return np.asarray(_erfc(x / np.sqrt(2)) / 2, np.float64)
    if family == "gumbel":
        return np.asarray(-np.expm1(-np.exp(-np.clip(_GUMBEL_MEDIAN + _GUMBEL_RATIO * x, -700, None))))
    return np.asarray(1 / (1 + np.exp(np.clip(_LOGISTIC_RATIO * x, -700, 700))))


def _squash(z: float) -> float:
    return float(1 / (1 + np.exp(-z)))
