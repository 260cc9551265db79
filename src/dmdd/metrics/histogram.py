"""Pixel scores of a test set, of any size, as three integer histograms."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dmdd.core.errors import UserError
from dmdd.metrics.binning import N_BINS, score_bins
from dmdd.metrics.regions import OverlapPixels, overlap_pixels

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


def add_pixels(histograms: Tensor, maps: Tensor, masks: Tensor, overlap: Sequence[OverlapPixels] | None = None) -> int:
    """Count a batch into the histograms, in place.

    Args:
        histograms: (3, N_BINS) int64, contiguous, see `empty_histograms`.
        maps: (B, H, W) float32, finite, on the device of the histograms.
        masks: (B, H, W) uint8, 0 and 1.
        overlap: B times the pixels that count for the overlap; those of the connected regions by default.

    Returns:
        The number of anomalous regions in the batch.

    Source: ours. All pixels are counted without looking at the mask, the few anomalous ones once more: the normal
    histogram is the difference. Splitting the pixels first costs more than the counting.
    """
    flat = maps.reshape(-1)
    count_bins(histograms[ALL], flat)
    counted = [overlap_pixels(mask) for mask in masks.cpu().numpy()] if overlap is None else overlap
    position, weight = _positions_and_weights(counted, maps[0].numel() if len(maps) else 0)
    bins = score_bins(flat[position.to(flat.device)]).long()
    histograms[OVERLAP].index_add_(0, bins, weight.to(flat.device))
    # those of connected regions are all anomalous pixels, each once
    marked = bins if overlap is None else score_bins(flat[masks.reshape(-1).bool()]).long()
    histograms[ANOMALOUS].index_add_(0, marked, torch.ones_like(marked))
    return sum(pixels.n_regions for pixels in counted)


def _positions_and_weights(overlap: Sequence[OverlapPixels], image_pixels: int) -> tuple[Tensor, Tensor]:
    nothing = np.zeros(0, dtype=np.int64)
    position = np.concatenate([nothing, *(pixels.position + i * image_pixels for i, pixels in enumerate(overlap))])
    size = np.concatenate([nothing, *(pixels.region_size for pixels in overlap)])
    weight = (2 * REGION_WEIGHT + size) // (2 * size)  # rounded to the nearest
    return torch.from_numpy(position), torch.from_numpy(weight)


def count_bins(histogram: Tensor, scores: Tensor) -> None:
    """Count scores into one histogram, in place.

    Args:
        histogram: (N_BINS,) int64.
        scores: (P,) float32, finite, on the device of the histogram.

    Source: ours.
    """
    for chunk in scores.split(_CHUNK if scores.device.type == "cpu" else max(1, scores.numel())):
        _count(histogram, score_bins(chunk))


def _count(histogram: Tensor, bins: Tensor) -> None:
    if bins.numel() < N_BINS:  # bincount would write more than it reads
        bins = bins.long()
        histogram.index_add_(0, bins, torch.ones((), dtype=torch.int64, device=bins.device).expand_as(bins))
    else:
        histogram.add_(torch.bincount(bins, minlength=N_BINS))
