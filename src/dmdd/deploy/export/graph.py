"""The detector as one graph: from camera pixels of any size to map and score, nothing left to do outside."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmdd.core.errors import UserError
from dmdd.core.resize import resize_masks
from dmdd.data.regions import GREY
from dmdd.deploy.export.resizing import enlarge_traced, resize_traced
from dmdd.deploy.export.rewriting import FastSegmentation, SplitHead
from dmdd.models.detector import (
    IMAGE_MAPS,
    WHITENED_MAPS,
    Detector,
    DetectorOutput,
    Tiling,
    combine,
    fuse,
    gaussian_kernel,
    geometric_distance,
    joint_distance,
    level_distances,
    mean_distance,
    whitened_distance,
)
from dmdd.models.folding import fold_batch_norms
from dmdd.models.own_maps import Evidence, compute
from dmdd.models.score_scale import ScoreScale
from dmdd.models.teacher import STRIDES
from dmdd.models.tiling import detect_tiled, share_inside


def output_names(detector: Detector, tiling: Tiling | None) -> tuple[str, ...]:
    """Name what a detector's graph gives.

    Args:
        detector: What is exported; without a scale for people its score is the raw one, which is then not given twice.
        tiling: With tiles there is no map at the input size.

    Returns:
        ``map``, ``score``, and ``raw`` and ``raw_score`` where there are such.
    """
    scaled = ScoreScale.of(detector.calibration) is not None
    return ("map", "score", *(("raw",) if tiling is None else ()), *(("raw_score",) if scaled else ()))


class Network(nn.Module):
    """Teacher, student and segmentation network with folded batch norms, from pixels at the input size to maps.

    The linear steps after the networks (upsampling and Gaussian) are one matrix for the rows and one for the columns.

    Args:
        detector: In evaluation mode; it is copied, not changed.
        region: ``(H, W)`` bool, the region of interest of images that are seen whole, at their size or in the same
            shape; None where all pixels count.

    Source: ours.
    """

    def __init__(self, detector: Detector, *, region: Tensor | None = None) -> None:
        super().__init__()
        detector = copy.deepcopy(detector).cpu().float().eval().to(memory_format=torch.contiguous_format)
        height, width = detector.input_size
        fold_batch_norms(detector, torch.zeros(1, 3, height, width))
        self.input_size = detector.input_size
        self.anomaly_map, self.score_map = detector.anomaly_map, detector.score_map
        self.image_score, self.own_maps = detector.image_score, detector.own_maps
        detector.smooth = self._smooth  # type: ignore[method-assign]
        self.features, self.student = detector.teacher.network, detector.student
        self.student.heads = nn.ModuleList(SplitHead(head) for head in detector.student.heads)  # type: ignore[arg-type]
        used = detector.segmentation.inputs == "whitened" or {self.anomaly_map, self.score_map} & set(WHITENED_MAPS)
        self.segmentation = FastSegmentation(detector.segmentation, detector.whitening if used else None)
        self.whitening = detector.whitening if {self.anomaly_map, self.score_map} & set(IMAGE_MAPS) else None
        self.mean: Tensor
        self.factor: Tensor
        self.rows: Tensor
        self.columns: Tensor
        self.register_buffer("mean", 255 * detector.teacher.mean)
        self.register_buffer("factor", 1 / (255 * detector.teacher.std))
        level = (height // STRIDES[0], width // STRIDES[0])
        rows, columns = smoothing_matrices(detector, level)
        self.window: Tensor | None
        self.places: Tensor | None
        window = None if region is None else resize_masks(region[None, None], detector.input_size)
        places = None if window is None else torch.nonzero(share_inside(window, level).flatten())[:, 0]
        self.register_buffer("window", None if window is None else window.float())
        self.register_buffer("places", places)
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns)

    def forward(self, pixels: Tensor) -> DetectorOutput:
        """Compute map and score.

        Args:
            pixels: ``(B, 3, h, w)`` float32, whole numbers in [0, 255], RGB, at the input size.

        Returns:
            Map ``(B, 1, h, w)`` and score ``(B,)``, as ``Detector.forward``.
        """
        if self.window is not None:
            pixels = pixels * self.window + GREY * (1 - self.window)
        raw = self.raw_maps(pixels)
        scored = raw[self.score_map]
        if self.places is not None:
            scored = scored.flatten(1).index_select(1, self.places)[:, None, None]
        return DetectorOutput(self._smooth(raw[self.anomaly_map]), self.image_score(self.score_map, scored))

    def raw_maps(self, pixels: Tensor) -> dict[str, Tensor]:
        """Compute the maps that map and score are read from, as :meth:`forward`, by name, ``(B, 1, h/4, w/4)``."""
        features = list(self.features((pixels - self.mean) * self.factor))
        normality, abnormality = self.student(pixels / 255, features)
        logits, distances, lengths = self.segmentation(features, normality, abnormality)
        segmented, geometric = torch.sigmoid(logits), geometric_distance(distances)
        raw = {}
        for name in dict.fromkeys((self.anomaly_map, self.score_map)):
            if name in WHITENED_MAPS:
                whitened = whitened_distance(lengths)
                joint = joint_distance(geometric, whitened)
                found = {"whitened": whitened, "distance": joint, "combined": combine(segmented, joint)}
                if self.whitening is not None:
                    found["relative"] = self.whitening.against_grain(found["combined"], distances[0])
                    found["overall"] = self.whitening.against_images(joint, features[-1])
                raw[name] = found[name]
            elif name == "fused":
                raw[name] = fuse(segmented, geometric)
            elif name == "geometric":
                raw[name] = geometric
            elif name == "segmentation":
                raw[name] = segmented
            elif name in self.own_maps:
                evidence = Evidence(features, normality, abnormality, segmented)
                raw[name] = compute(name, self.own_maps[name], evidence)
            else:
                parts = [mean_distance(distances)] if name != "abnormality" else []
                if name != "normality":
                    parts.append(mean_distance(level_distances(abnormality, features)))
                raw[name] = sum(parts[1:], parts[0]) / len(parts)
        return raw

    def _smooth(self, raw: Tensor) -> Tensor:
        return (self.rows @ raw @ self.columns).clamp(0, 1)


class PixelDetector(nn.Module):
    """The network with the resize before it: what :func:`detect_tiled` takes for a detector when traced.

    Args:
        network: From pixels at the input size to maps.

    Source: ours.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network, self.input_size = network, network.input_size

    def forward(self, images: Tensor) -> DetectorOutput:
        """Compute map and score of ``(B, 3, H, W)`` uint8 images, as ``Detector.forward``."""
        return self.network(resize_traced(images.permute(0, 2, 3, 1), self.input_size))


class DetectorGraph(nn.Module):
    """What is exported: uint8 pixels in, the outputs that :func:`output_names` names out.

    Args:
        detector: In evaluation mode; it is copied, not changed.
        tiling: Cut images into tiles of this kind; None sees each image whole.
        region: ``(H, W)`` bool, the region of interest, stretched over images of another size; None where all pixels
            count.

    Raises:
        UserError: There are tiles and a region.

    Source: ours.
    """

    def __init__(self, detector: Detector, *, tiling: Tiling | None = None, region: Tensor | None = None) -> None:
        super().__init__()
        if tiling is not None and region is not None:
            raise UserError(
                "a region of interest in tiles needs images of one size: give fixed_size=[height,width], or tile=false"
            )
        self.detector, self.tiling = PixelDetector(Network(detector, region=region)), tiling
        self.region: Tensor | None
        self.register_buffer("region", None if region is None else region.float())
        self.scale, self.outputs = ScoreScale.of(detector.calibration), output_names(detector, tiling)
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs.

        Args:
            images: ``(B, H, W, 3)`` uint8 in [0, 255], RGB, any size.

        Returns:
            ``map`` ``(B, H, W)`` float32 in [0, 1], ``score`` ``(B,)``, without tiles ``raw`` ``(B, h, w)``, the map at
            the input size, and with a scale for people ``raw_score`` ``(B,)``.
        """
        pixels = images.permute(0, 3, 1, 2)
        if self.tiling is not None:
            tile_px, overlap = self.tiling
            whole = detect_tiled(self.detector, pixels, tile_px=tile_px, overlap=overlap)
            return whole.map[:, 0], *self._scores(whole.score)
        small, raw_score = self.detector(pixels)
        score, *more = self._scores(raw_score)
        size = (pixels.shape[2], pixels.shape[3])
        enlarged = enlarge_traced(small[:, 0], size)
        return enlarged if self.region is None else enlarged * stretch(self.region, size), score, small[:, 0], *more

    def _scores(self, raw_score: Tensor) -> tuple[Tensor, ...]:
        return (raw_score,) if self.scale is None else (self.scale.readable_traced(raw_score), raw_score)


def stretch(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a mask ``(H, W)`` to ``size`` by taking the nearest pixel, as ``resize_masks`` does."""
    for dim, wanted in enumerate(size):
        places = (2 * torch.arange(wanted, device=mask.device) + 1) * mask.shape[dim] // (2 * wanted)
        mask = mask.index_select(dim, places)
    return mask


def smoothing_matrices(detector: Detector, level: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Turn upsampling and Gaussian of a raw map into matrices.

    Both are linear and separable, so each matrix is what they make of single ones along one side.

    Args:
        detector: Gives input size and Gaussian.
        level: Height and width of the raw map.

    Returns:
        ``rows`` ``(h, level height)`` and ``columns`` ``(level width, w)``; the map is ``rows @ values @ columns``.

    Source: ours.
    """

    def along(count: int, size: int) -> Tensor:
        lines = F.interpolate(torch.eye(count, dtype=torch.float64)[:, None], size=size, mode="linear")
        if detector.sigma_px:
            kernel = gaussian_kernel(detector.sigma_px, largest=min(detector.input_size) - 1, like=lines)
            radius = len(kernel) // 2
            lines = F.conv1d(F.pad(lines, (radius, radius), mode="reflect"), kernel.view(1, 1, -1))
        return lines[:, 0].float()

    rows, columns = (along(count, size) for count, size in zip(level, detector.input_size, strict=True))
    return rows.T.contiguous(), columns
