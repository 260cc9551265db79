"""Are images that stand beside each other by name alike, because they show one part, one sheet or one minute?"""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dmdd.data.store import ImageStore

THUMBNAIL_PX = 16

MOST_IMAGES, STRETCH = 2000, 50

OTHERS = 32
"""Other images that a neighbour is compared with."""

SURE = 5.0
"""Standard errors above chance from which on neighbours are alike. Of seven real sets, five have at most 1.4 and two,
with several photographs of a part or one camera over time, 12 and 17; those two are the ones whose new images a frozen
network finds stranger than held-out ones."""


def kin_order(images: ImageStore | Tensor, files: Sequence[Path]) -> list[int] | None:
    """Find an order of the files' names in which neighbours are more alike than other images.

    Two orders are tried: that of the whole names, numbers by their value, and that of the last number alone, which
    brings several photographs of one part together where the names begin with the light or the camera.

    Args:
        images: ``(N, 3, h, w)`` uint8; of more than ``MOST_IMAGES`` some stretches are looked at.
        files: The N files.

    Returns:
        Indices of the images in that order; None where neighbours are as different as any two images.
    """
    if len(images) != len(files) or len(files) < 2 * THUMBNAIL_PX:
        return None
    orders = [sorted(range(len(files)), key=lambda row, key=key: key(files[row])) for key in (_whole, _last)]  # type: ignore[misc]
    found = [alikeness(_thumbnails(images, torch.tensor(_stretches(order)))) for order in orders]
    best = max(range(len(orders)), key=lambda place: found[place])
    return orders[best] if found[best] >= SURE else None


def _stretches(order: list[int]) -> list[int]:
    """Thin a long order out to stretches of neighbours, evenly spread."""
    if len(order) <= MOST_IMAGES:
        return order
    parts = MOST_IMAGES // STRETCH
    starts = [part * (len(order) - STRETCH) // (parts - 1) for part in range(parts)]
    return [row for start in starts for row in order[start : start + STRETCH]]


def _thumbnails(images: ImageStore | Tensor, rows: Tensor) -> Tensor:
    """Shrink images to ``(N, C)`` of mean 0 and length 1: by their light alone, images are not of a kind."""
    parts = (F.adaptive_avg_pool2d(images[part].float(), THUMBNAIL_PX).flatten(1) for part in rows.split(64))
    values = torch.cat(list(parts))
    return F.normalize(values - values.mean(1, keepdim=True), dim=1)


def alikeness(values: Tensor) -> float:
    """Say how much more alike neighbours are than other images.

    Args:
        values: ``(N, C)``, images in order.

    Returns:
        Standard errors above chance of the share of others that are farther from an image than its neighbour.
    """
    count = len(values)
    near = (values[:-1] - values[1:]).norm(dim=1)
    steps = torch.linspace(2, count - 2, min(OTHERS, max(1, count - 3))).round().long().unique()
    rows = torch.arange(count - 1)
    farther = torch.stack([((values[:-1] - values[(rows + s) % count]).norm(dim=1) > near) for s in steps])
    # A share is even in [0, 1] by chance, so its variance is 1 / 12; neighbouring pairs have an image in common.
    return float((farther.float().mean() - 0.5) / (1 / 12 / count) ** 0.5)


def _whole(file: Path) -> tuple[object, ...]:
    parts = re.split(r"(\d+)", file.as_posix())
    return tuple((int(part), "") if place % 2 else (0, part) for place, part in enumerate(parts))


def _last(file: Path) -> tuple[object, ...]:
    numbers = re.findall(r"\d+", file.stem)
    return (int(numbers[-1]) if numbers else 0, file.as_posix())
