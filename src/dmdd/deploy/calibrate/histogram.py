"""Scores as bars in a terminal."""

from collections.abc import Sequence

import numpy as np

BINS = 14
WIDTH = 40


def draw_histogram(title: str, good: Sequence[float], bad: Sequence[float], threshold: float | None) -> list[str]:
    """Draw how many images have which score, good ones as ``#`` and bad ones as ``x``.

    Args:
        title: Stands above.
        good: Scores of good images, at least one.
        bad: Scores of bad images.
        threshold: Where the line is drawn; None for no line.

    Returns:
        Lines, the lowest scores first.
    """
    values = [*good, *bad, *([] if threshold is None else [threshold])]
    low, high = min(values), max(values)
    edges = np.linspace(low, high if high > low else low + 1e-3, BINS + 1)
    if threshold is not None:  # an edge of its own, so that no bar lies on both sides
        edges[np.abs(edges - threshold).argmin()] = threshold
        edges = np.unique(edges)
    # The last edge belongs to its bin, which at the threshold must be the one above.
    edges[-1] = np.nextafter(max(edges[-1], high), np.inf)
    counts = [np.histogram(scores, edges)[0] for scores in (good, bad)]
    scale = min(1, WIDTH / max(1, int((counts[0] + counts[1]).max())))
    lines = [title]
    for index, (normal, anomalous) in enumerate(zip(*counts, strict=True)):
        if threshold is not None and edges[index] == threshold:
            lines.append(f"  {'-' * 12} threshold {threshold:.4f}")
        bars = "#" * int(np.ceil(scale * normal)) + "x" * int(np.ceil(scale * anomalous))
        lines.append(f"  {edges[index]:.4f} {normal:>5} {anomalous:>5}  {bars}".rstrip())
    if threshold is not None and threshold >= high:
        lines.append(f"  {'-' * 12} threshold {threshold:.4f}")
    return lines
