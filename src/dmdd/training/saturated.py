"""sPRO of a test set in the layout of MVTec LOCO, measured beside the other figures."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dmdd.data.saturation import ImageDefects
from dmdd.metrics import Interval, PixelBootstrap, SaturatedAUPRO, saturated_overlap, united_masks

METRIC, FPR_LIMIT = "au_spro_5", 0.05


class SaturatedFigures(nn.Module):
    """Measure AU-sPRO to a false-positive rate of 0.05, for each type of defect against the normal images.

    Args:
        read: Reads the defects of a test image by its index.
        defects: Type of each test image, by index; "good" for a normal one.
        resamples: Test sets drawn for the intervals; 0 for none.

    Maps are brought to the images' own size, since saturations are pixels.

    Source: the authors' evaluation of MVTec LOCO AD (Bergmann et al., IJCV 2022), which measures each type with the
    normal images only.
    """

    def __init__(self, read: Callable[[int], ImageDefects], *, defects: Sequence[str], resamples: int) -> None:
        super().__init__()
        self.read, self.defects, self.resamples = read, tuple(defects), resamples
        self.types = sorted(set(defects) - {"good"})
        self.metrics = nn.ModuleList(SaturatedAUPRO(FPR_LIMIT) for _ in self.types)
        self.bootstraps = nn.ModuleList(PixelBootstrap(n_resamples=max(resamples, 1)) for _ in self.types)

    def reset(self) -> None:
        """Forget everything seen."""
        for metric in (*self.metrics, *self.bootstraps):
            metric.reset()

    def update(self, maps: Tensor, indices: Sequence[int]) -> None:
        """Add a batch.

        Args:
            maps: ``(B, 1, h, w)``, or ``(B, h, w)``.
            indices: B positions in the test set.
        """
        for own, index in zip(maps.flatten(0, -3), indices, strict=True):
            size, channels = self.read(index)
            native = F.interpolate(own[None, None].float(), size=size, mode="bilinear", align_corners=False)[0]
            for name, metric, bootstrap in zip(self.types, self.metrics, self.bootstraps, strict=True):
                if self.defects[index] in (name, "good"):
                    metric.update(native, [channels])  # type: ignore[operator]
                    if self.resamples:
                        masks, overlap = united_masks(native, [channels]), saturated_overlap(native, [channels])
                        bootstrap.update(native, masks, [index], overlap)  # type: ignore[operator]

    def values(self) -> dict[str, float]:
        """Compute the figure of each type over the images of all processes; what is undefined is absent."""
        values = {name: float(metric.compute()) for name, metric in zip(self.types, self.metrics, strict=True)}  # type: ignore[operator]
        return {name: value for name, value in values.items() if not math.isnan(value)}

    def intervals(self, values: Mapping[str, float]) -> dict[str, Interval]:
        """Compute the 95 % intervals of the figures.

        Args:
            values: By type; a process that gives none only sends its part to the others.

        Returns:
            By type; none without resamples.
        """
        found: dict[str, Interval] = {}
        if not self.resamples:
            return found
        for name, module in zip(self.types, self.bootstraps, strict=True):
            bootstrap: Any = module
            with bootstrap.sync_context():  # with these regions AUPRO to 0.05 is AU-sPRO
                drawn = bootstrap.intervals({"aupro_5": values[name]}) if name in values else {}
            if "aupro_5" in drawn:
                found[name] = drawn["aupro_5"]
        return found
