"""Which of the images given as good are like none of the others? Judged by the teacher, which has seen none of them."""

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

SUSPICIOUS = 3.5
"""Robust standard deviations above the median from which on an image is named."""


def strangeness(detector: Detector, images: Slices, *, batch_size: int) -> Tensor:
    """Say how far each image lies from the others, in robust standard deviations.

    Every patch at stride 16 is looked up in other images; its distance is the one to the ``NEAREST``-th of them, and an
    image's strangeness the mean over the strangest ``SHARE`` of its patches. Neither student nor segmentation network
    takes part, which have learnt the images by heart.

    Args:
        detector: Gives the teacher.
        images: ``(N, 3, h, w)`` uint8 of images given as good; batches are moved to the detector's device.
        batch_size: Images that go through the teacher at once.

    Returns:
        ``(N,)`` float32 on the CPU; zeros for fewer than ``NEAREST + 2`` images.

    Source: nearest neighbours of patches as in PatchCore (Roth et al., CVPR 2022), leaving one image out;
    docs/calibration.md has what it finds.
    """
    if len(images) < NEAREST + 2:
        return torch.zeros(len(images))
    spread = torch.linspace(0, len(images) - 1, min(REFERENCES, len(images))).round().long()
    references = torch.cat([_patches(detector, images[part]) for part in spread.split(batch_size)])
    found = []
    for first in range(0, len(images), batch_size):
        for place, patches in enumerate(_patches(detector, images[first : first + batch_size]), start=first):
            others = references[(spread != place).to(references.device)]
            nearest = torch.stack([torch.cdist(patches, other).amin(1) for other in others])
            strange = nearest.sort(0).values[NEAREST - 1]
            found.append(strange.topk(max(1, round(SHARE * len(strange)))).values.mean())
    values = torch.stack(found).float().cpu().log()
    middle = values.median()
    deviation = 1.4826 * (values - middle).abs().median().clamp(min=1e-6)
    return (values - middle) / deviation


@torch.no_grad()
def _patches(detector: Detector, images: Tensor) -> Tensor:
    """Describe images by the features of all levels at stride 16 or coarser, ``(B, places, C)``, each of length 1."""
    device = next(detector.parameters()).device
    levels = detector.teacher(detector.preprocess(images.to(device)))
    height, width = (min(side, MOST_PLACES) for side in levels[-1].shape[-2:])
    parts = [F.normalize(F.adaptive_avg_pool2d(level.float(), (height, width)), dim=1) for level in levels]
    return torch.cat(parts, 1).flatten(2).transpose(1, 2)
