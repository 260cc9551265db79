"""Bootstrap of the image metrics over images, for one model and for the difference of two."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dmdd.metrics.functional import Floats
from dmdd.metrics.image import RECALL_LIMITS
from dmdd.metrics.intervals import Interval, sample_interval

# The interval's samples are drawn from the test set and this much of one more image of each kind, ranked as wrongly as
# can be. Without it nothing is known of what 24 perfectly ranked images do not show; a whole image doubles the
# interval of a large test set. Chosen by `benchmarks/coverage.py`.
_UNSEEN = 0.1


def resample(kind: NDArray[np.bool_] | NDArray[np.int64], n_resamples: int, seed: int) -> NDArray[np.int32]:
    """Draw images with replacement, as many of each kind as there are.

    Args:
        kind: (I,) the kind of each image, such as whether it is anomalous.
        n_resamples: number of test sets to draw.
        seed: seed of the draws; the same seed and the same images give the same draws, so that two models can be
            compared pair by pair.

    Returns:
        (n_resamples, I) int32, how often each image is drawn.

    Source: the stratified bootstrap; how many images of a kind a test set holds is its makers' choice, not chance.
    """
    return _resample(kind, np.ones(kind.size), n_resamples, seed)


def _resample(
    kind: NDArray[np.bool_] | NDArray[np.int64], weight: Floats, n_resamples: int, seed: int
) -> NDArray[np.int32]:
    """Draw in proportion to weights, as many images of a kind as there are whole ones."""
    rng = np.random.default_rng(seed)
    drawn = np.zeros((n_resamples, kind.size), dtype=np.int32)
    for value in np.unique(kind):
        members = np.flatnonzero(kind == value)
        whole = int((weight[members] == 1).sum())
        chance = weight[members] / weight[members].sum() if whole else weight[members]
        for row in drawn if whole else ():  # one at a time: numpy draws int64
            row[members] = rng.multinomial(whole, chance)
    return drawn


def bootstrap_image_metrics(
    scores: Tensor, labels: Tensor, *, n_resamples: int = 1000, seed: int = 0
) -> dict[str, Floats]:
    """Draw the image metrics' bootstrap distribution.

    Args:
        scores: (I,) floating, finite.
        labels: (I,) 0 normal and 1 anomalous.
        n_resamples: number of test sets to draw.
        seed: see `resample`.

    Returns:
        (n_resamples,) values of `image_auroc`, `image_ap`, `image_f1_max` and of the recall at each of
        `RECALL_LIMITS`, exact for each drawn test set; NaN with images of one class only.

    Source: ours, see `resample`.
    """
    values, anomalous = _host(scores, labels)
    return weighted_image_metrics(values, anomalous, resample(anomalous, n_resamples, seed))


def image_intervals(scores: Tensor, labels: Tensor, *, n_resamples: int = 1000, seed: int = 0) -> dict[str, Interval]:
    """Compute the 95 % intervals of the image metrics over the choice of test images.

    Args:
        scores: (I,) floating, finite.
        labels: (I,) 0 normal and 1 anomalous.
        n_resamples: number of test sets to draw.
        seed: see `resample`.

    Returns:
        The intervals of the metrics of `bootstrap_image_metrics`; none with images of one class only.

    Source: ours, see `dmdd.metrics.intervals.sample_interval`. The samples are drawn from the images and a tenth of one
    more of each kind, a normal one above all and an anomalous one below all.
    """
    values, anomalous = _host(scores, labels)
    n_anomalous, n_normal = int(anomalous.sum()), int((~anomalous).sum())
    if not n_anomalous or not n_normal:
        return {}
    more = np.append(values, [np.inf, -np.inf]).astype(np.float32), np.append(anomalous, [False, True])
    weight = np.append(np.ones(values.size), [_UNSEEN, _UNSEEN])
    samples = weighted_image_metrics(*more, _resample(more[1], weight, n_resamples, seed))
    whole, centre = (
        weighted_image_metrics(values, anomalous, np.ones((1, values.size))),
        weighted_image_metrics(*more, weight[None]),
    )
    count = 2 * n_normal * n_anomalous / (n_normal + n_anomalous)
    return {
        name: sample_interval(float(whole[name][0]), drawn, count=count, centre=float(centre[name][0]))
        for name, drawn in samples.items()
    }


def _host(scores: Tensor, labels: Tensor) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    return scores.detach().cpu().float().numpy(), labels.cpu().numpy().astype(bool)


def weighted_image_metrics(
    scores: NDArray[np.float32], anomalous: NDArray[np.bool_], weights: NDArray[np.generic]
) -> dict[str, Floats]:
    """Compute the image metrics of many test sets that hold the same images in other numbers.

    Args:
        scores: (I,) float32, may be infinite.
        anomalous: (I,) whether an image is anomalous.
        weights: (R, I) how often each test set holds each image, from 0; fractions count as such.

    Returns:
        (R,) values by name; equal scores are one threshold, NaN where a class is missing.

    Source: the definitions of `dmdd.metrics.functional`.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    weights = weights[:, order].astype(np.float64)
    found, wrong = (np.cumsum(weights * kind[order], axis=1)[:, last] for kind in (anomalous, ~anomalous))
    total_found, total_wrong = found[:, -1:], wrong[:, -1:]
    found_before, wrong_before = (np.pad(counts, ((0, 0), (1, 0)))[:, :-1] for counts in (found, wrong))
    added = found - found_before
    with np.errstate(invalid="ignore", divide="ignore"):
        area = (added * (2 * total_wrong - wrong - wrong_before)).sum(axis=1) / (2 * total_found * total_wrong)[:, 0]
        # a weight of 0 leaves no precision at the first thresholds, and adds no recall there
        precision = found / np.maximum(found + wrong, np.finfo(float).tiny)
        metrics = {
            "image_auroc": area,
            "image_ap": (added * precision).sum(axis=1) / total_found[:, 0],
            "image_f1_max": (2 * found / (found + wrong + total_found)).max(axis=1),
        }
        for name, limit in RECALL_LIMITS.items():
            allowed = wrong <= limit * total_wrong * (1 + 1e-9)
            metrics[name] = np.where(allowed, found, 0).max(axis=1) / total_found[:, 0]
    undefined = (total_found[:, 0] == 0) | (total_wrong[:, 0] == 0)
    return {name: np.where(undefined, np.nan, values) for name, values in metrics.items()}
