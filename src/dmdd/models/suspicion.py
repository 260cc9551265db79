"""Which of the images given as good are like none of the others? Judged by the teacher, which has seen none of them."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dmdd.models.detector import Detector, Slices

REFERENCES = 64
"""Other images that each image is compared with, evenly spread over the set."""

NEAREST = 3
"""A patch counts as known when so many other images have one like it: a few bad images may resemble each other."""

MOST_PLACES = 16
"""Patches along a side at most, as at 256 px: their comparison grows with the fourth power of it."""

SHARE = 0.05
"""Of an image's patches, the strangest that are averaged."""

SUSPICIOUS = 4.0
"""Robust standard deviations above the median from which on an image is named."""

UNLIKE = 2.0
"""The same above which no other image is compared with an image."""

MOST_UNLIKE = 1 / 3
"""Share of the images that may be left out so."""

ROUNDS = 6
"""How often images are left out at most: two of them may take turns."""


def strangeness(detector: Detector, images: Slices, *, batch_size: int, kinds: Sequence[str] = ()) -> Tensor:
    """Say how far each image lies from the others, in robust standard deviations.

    Every patch at stride 16 is looked up in other images; its distance is the one to the ``NEAREST``-th of them, and an
    image's strangeness the mean over the strangest ``SHARE`` of its patches. Bad images that resemble each other would
    hide each other, so the strangest are left out and all are looked up again, a few times. Neither student nor
    segmentation network takes part, which have learnt the images by heart.

    Args:
        detector: Gives the teacher.
        images: ``(N, 3, h, w)`` uint8 of images given as good; batches are moved to the detector's device.
        batch_size: Images that go through the teacher at once.
        kinds: ``(N,)`` the category of each, which is compared with its own alone; empty where all are of one.

    Returns:
        ``(N,)`` float32 on the CPU; zeros for fewer than ``NEAREST + 2`` images of a category.

    Source: nearest neighbours of patches as in PatchCore (Roth et al., CVPR 2022), leaving one image out;
    docs/calibration.md has what it finds.
    """
    groups: dict[str, list[int]] = {}
    for place, kind in enumerate(kinds or [""] * len(images)):
        groups.setdefault(kind, []).append(place)
    found = torch.zeros(len(images))
    for group in groups.values():
        rows = torch.tensor(group)
        found[rows] = _strangeness_among(detector, images, rows, batch_size)
    return found


def _strangeness_among(detector: Detector, images: Slices, rows: Tensor, batch_size: int) -> Tensor:
    """Say how far each image of some lies from the others of these."""
    count = len(rows)
    if count < NEAREST + 2:
        return torch.zeros(count)
    spread = torch.linspace(0, count - 1, min(REFERENCES, count)).round().long()
    references = torch.cat([_patches(detector, images[part]) for part in rows[spread].split(batch_size)])
    among = torch.stack([_distances(patches, references) for patches in references])
    known, values = _known(among), []
    for first in range(0, count, batch_size):
        part = images[rows[first : first + batch_size]]
        for place, patches in enumerate(_patches(detector, part), start=first):
            own = (spread == place).nonzero().flatten()
            values.append(_strange(_distances(patches, references), known, own=int(own[0]) if len(own) else None))
    return _standardised(values)


def _known(among: Tensor) -> Tensor:
    """Leave out the strangest references, and look again at what the others are without them.

    Args:
        among: ``(R, R, places)`` distances of each reference's patches to each other one.

    Returns:
        ``(R,)`` bool on the CPU: what images are compared with.
    """
    known = torch.ones(len(among), dtype=torch.bool)
    for _ in range(ROUNDS):
        found = _standardised([_strange(row, known, own=place) for place, row in enumerate(among)])
        least = found.kthvalue(math.ceil((1 - MOST_UNLIKE) * len(found))).values
        known = found <= max(UNLIKE, float(least))
    return known


def _distances(patches: Tensor, references: Tensor) -> Tensor:
    """Give the distance of each patch to the nearest one of each reference, ``(references, places)``."""
    squares = (references**2).sum(2)[:, None]
    apart = torch.baddbmm(squares, patches.expand(len(references), -1, -1), references.transpose(1, 2), alpha=-2)
    return (apart.amin(2) + (patches**2).sum(1)).clamp(min=1e-12).sqrt()


def _strange(distances: Tensor, known: Tensor, *, own: int | None) -> Tensor:
    """Average the strangest patches of an image by their distances to the references that are known, but not its own.

    Returns:
        Logarithm of a length, a scalar on the CPU.
    """
    others = known.clone()
    if own is not None:
        others[own] = False
    strange = distances[others.to(distances.device)].sort(0).values[NEAREST - 1]
    return strange.topk(max(1, round(SHARE * len(strange)))).values.mean().log().float().cpu()


def _standardised(values: list[Tensor]) -> Tensor:
    """Measure values in robust standard deviations from their median."""
    found = torch.stack(values)
    found = found - found.median()
    return found / (1.4826 * found.abs().median().clamp(min=1e-6))


@torch.no_grad()
def _patches(detector: Detector, images: Tensor) -> Tensor:
    """Describe images by the features of all levels at stride 16 or coarser, ``(B, places, C)``, each of length 1."""
    device = next(detector.parameters()).device
    levels = detector.teacher(detector.preprocess(images.to(device)))
    height, width = (min(side, MOST_PLACES) for side in levels[-1].shape[-2:])
    parts = [F.normalize(F.adaptive_avg_pool2d(level.float(), (height, width)), dim=1) for level in levels]
    return torch.cat(parts, 1).flatten(2).transpose(1, 2)
