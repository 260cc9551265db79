"""Pixel scores of a test set, of any size, as three integer histograms."""

import numpy as np
import torch
from torch import Tensor

from dmdd.core.errors import UserError
from dmdd.metrics.binning import N_BINS, score_bins
from dmdd.metrics.regions import anomalous_pixels

# Rows of the state. Integers only: a sum of floats depends on its order, and with it on the number of processes.
ALL, ANOMALOUS, OVERLAP = 0, 1, 2
# A region's pixels share this much weight; 2^40 leaves room for 2^23 regions in an int64.
REGION_WEIGHT = 1 << 40
MAX_REGIONS = 1 << 22  # half of that, as rounding may add a little
# Pixels binned at a time on a CPU, where the temporary arrays (4 bytes a pixel) should stay small.
_CHUNK = 1 << 21


def check_maps(maps: Tensor, masks: Tensor, images_before: int = 0) -> tuple[Tensor, Tensor]:
    """Bring anomaly maps and masks into one checked form.

    Args:
        maps: (B, H, W) or (B, 1, H, W), floating, any finite values.
        masks: (B, H, W) or (B, 1, H, W), bool or numbers 0 and 1.
        images_before: images seen before this batch, so that an error names the image within the whole test set.

    Returns:
        Maps (B, H, W) float32 and masks (B, H, W) uint8.

    Raises:
        UserError: shapes differ, maps are not floating, a mask holds something else than 0 and 1, or a map holds NaN
            or an infinity.

    Source: ours.
    """
    maps, masks = _three_axes(maps, "maps"), _three_axes(masks, "masks")
    if maps.shape != masks.shape:
        raise UserError(
            f"maps {tuple(maps.shape)} and masks {tuple(masks.shape)} differ in shape; "
            "use dmdd.metrics.native_maps for masks of another size"
        )
    if not maps.is_floating_point():
        raise UserError(f"maps must be floating, not {maps.dtype}")
    maps = maps.detach().to(torch.float32)
    if maps.numel() == 0:
        return maps, masks.to(torch.uint8)
    lowest, highest = torch.aminmax(maps)
    if not bool(torch.isfinite(lowest) & torch.isfinite(highest)):
        finite = torch.isfinite(maps).flatten(1).all(dim=1)
        first = int(torch.nonzero(~finite)[0, 0])
        raise UserError(f"the map of image {images_before + first} holds NaN or an infinite score")
    if masks.dtype != torch.bool and not _is_binary(masks):
        bad = ((masks != 0) & (masks != 1)).flatten(1).any(dim=1)
        first = int(torch.nonzero(bad)[0, 0])
        raise UserError(f"the mask of image {images_before + first} holds values other than 0 and 1")
    return maps, masks.to(torch.uint8)


def _is_binary(masks: Tensor) -> bool:
    if not masks.is_floating_point():
        lowest, highest = torch.aminmax(masks)
        return bool((lowest >= 0) & (highest <= 1))
    return bool(((masks == 0) | (masks == 1)).all())


def _three_axes(images: Tensor, name: str) -> Tensor:
    if images.ndim == 4 and images.shape[1] == 1:
        images = images[:, 0]
    if images.ndim != 3:
        raise UserError(f"{name} must be (B, H, W) or (B, 1, H, W), not {tuple(images.shape)}")
    return images


def empty_histograms(device: torch.device | str | None = None) -> Tensor:
    """Give the histograms of no pixel.

    Args:
        device: Where; the CPU by default.

    Returns:
        (3, N_BINS) int64 zeros: all pixels, anomalous pixels, anomalous pixels weighted by their region. It is one
        zero seen everywhere, to be made contiguous before counting: a metric that is never updated, or that shares the
        histograms of another, then costs nothing.

    Source: ours.
    """
    return torch.zeros(3, 1, dtype=torch.int64, device=device).expand(3, N_BINS)


def add_pixels(histograms: Tensor, maps: Tensor, masks: Tensor) -> int:
    """Count a batch into the histograms, in place.

    Args:
        histograms: (3, N_BINS) int64, contiguous, see `empty_histograms`.
        maps: (B, H, W) float32, finite, on the device of the histograms.
        masks: (B, H, W) uint8, 0 and 1.

    Returns:
        The number of anomalous regions in the batch.

    Source: ours. All pixels are counted without looking at the mask, the few anomalous ones once more: the normal
    histogram is the difference. Splitting the pixels first costs more than the counting.
    """
    flat = maps.reshape(-1)
    for chunk in flat.split(_CHUNK if flat.device.type == "cpu" else max(1, flat.numel())):
        _count(histograms[ALL], score_bins(chunk))
    position, weight, n_regions = _weighted_pixels(masks)
    if n_regions:
        bins = score_bins(flat[position.to(flat.device)]).long()
        histograms[ANOMALOUS].index_add_(0, bins, torch.ones_like(bins))
        histograms[OVERLAP].index_add_(0, bins, weight.to(flat.device))
    return n_regions


def _count(histogram: Tensor, bins: Tensor) -> None:
    if bins.numel() < N_BINS:  # bincount would write more than it reads
        bins = bins.long()
        histogram.index_add_(0, bins, torch.ones((), dtype=torch.int64, device=bins.device).expand_as(bins))
    else:
        histogram.add_(torch.bincount(bins, minlength=N_BINS))


def _weighted_pixels(masks: Tensor) -> tuple[Tensor, Tensor, int]:
    host = masks.cpu().numpy()
    positions, weights, n_regions = [], [], 0
    for index, mask in enumerate(host):
        pixels = anomalous_pixels(mask)
        if pixels.region_size.size:
            positions.append(pixels.position + index * mask.size)
            # rounded to the nearest: (2w + s) // 2s
            share = (2 * REGION_WEIGHT + pixels.region_size) // (2 * pixels.region_size)
            weights.append(share[pixels.region])
            n_regions += pixels.region_size.size
    if not positions:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), 0
    return torch.from_numpy(np.concatenate(positions)), torch.from_numpy(np.concatenate(weights)), n_regions
