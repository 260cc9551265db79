"""The detector as a graph for images of one size: no shape is computed, so that compilers for devices take it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmdd.core.errors import UserError
from dmdd.core.resize import resize_masks
from dmdd.data.regions import GREY
from dmdd.deploy.export.graph import Network, smoothing_matrices
from dmdd.deploy.export.resizing import FixedResize
from dmdd.models.detector import Detector, Tiling
from dmdd.models.score_scale import ScoreScale
from dmdd.models.teacher import STRIDES
from dmdd.models.tiling import Axis, blend, place_tiles, share_inside

LAYOUTS = ("nhwc", "nchw")


class FixedGraph(nn.Module):
    """One image of a fixed size in, its map and score out.

    All that follows the networks is linear but for the score: smoothing, enlarging and blending of tiles are one matrix
    for the rows and one for the columns.

    Args:
        detector: In evaluation mode; it is copied, not changed.
        size: Height and width of the image in pixels.
        layout: ``nhwc``, uint8 in [0, 255], or ``nchw``, float32 in [0, 1].
        tiling: Cut the image into tiles; None sees it whole.
        region: ``(H, W)`` bool, the region of interest, of the image's size; None where all pixels count.

    Raises:
        UserError: The region is of another size.

    Source: ours.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        size: tuple[int, int],
        layout: str = "nhwc",
        tiling: Tiling | None = None,
        region: Tensor | None = None,
    ) -> None:
        super().__init__()
        if region is not None and tuple(region.shape) != size:
            height, width = region.shape
            raise UserError(f"fixed_size=[{size[0]},{size[1]}]: the region of interest is of [{height},{width}] px")
        self.size, self.layout, self.tiling, self.region = size, layout, tiling, region
        self.network, self.scale = Network(detector), ScoreScale.of(detector.calibration)
        self.outputs = ("map", "score") if self.scale is None else ("map", "score", "raw_score")
        tile, overlap = tiling or Tiling(size, 0.0)
        axes = [place_tiles(length, side, overlap) for length, side in zip(size, tile, strict=True)]
        self.starts = [axis.starts.tolist() for axis in axes]
        self.tile = (axes[0].size, axes[1].size)
        self.resize = FixedResize(self.tile, detector.input_size)
        level = (detector.input_size[0] // STRIDES[0], detector.input_size[1] // STRIDES[0])
        rows, columns = smoothing_matrices(detector, level)
        self.rows: Tensor
        self.columns: Tensor
        self.register_buffer("rows", join(rows, axes[0]))
        self.register_buffer("columns", join(columns.T, axes[1]).T.contiguous())
        self.window: Tensor | None
        self.mask: Tensor | None
        self.register_buffer("window", None)
        self.register_buffer("mask", None)
        self.places: list[Tensor] = []
        if region is not None:
            windows = resize_masks(self._cut(region[None, None]), detector.input_size)
            inside = share_inside(windows, level)
            self.places = [torch.nonzero(kept.flatten())[:, 0] for kept in inside]
            self.register_buffer("window", windows.float())
            self.register_buffer("mask", region.float())
        self.eval()

    @property
    def example(self) -> Tensor:
        """An image of the kind that :meth:`forward` takes."""
        height, width = self.size
        if self.layout == "nhwc":
            return torch.zeros(1, height, width, 3, dtype=torch.uint8)
        return torch.zeros(1, 3, height, width)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs.

        Args:
            images: ``(1, H, W, 3)`` uint8 in [0, 255], or ``(1, 3, H, W)`` float32 in [0, 1], RGB.

        Returns:
            ``map`` ``(1, H, W)`` float32 in [0, 1], ``score`` ``(1,)``, and ``raw_score`` where the score has a scale.
        """
        pixels = images.float().permute(0, 3, 1, 2) if self.layout == "nhwc" else images * 255
        tiles = self.resize(self._cut(pixels))
        if self.window is not None:
            tiles = tiles * self.window + GREY * (1 - self.window)
        raw = self.network.raw_maps(tiles)
        raw_score = self._score(raw[self.network.score_map])
        scores = (raw_score,) if self.scale is None else (self.scale.readable_traced(raw_score), raw_score)
        heat = raw[self.network.anomaly_map][:, 0].unflatten(0, (len(self.starts[0]), len(self.starts[1])))
        heat = heat.permute(0, 2, 1, 3).flatten(2, 3).flatten(0, 1)
        whole = (self.rows @ heat @ self.columns).clamp(0, 1)
        return (whole if self.mask is None else whole * self.mask)[None], *scores

    def _cut(self, images: Tensor) -> Tensor:
        height, width = self.tile
        parts = [images[:, :, y : y + height, x : x + width] for y in self.starts[0] for x in self.starts[1]]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _score(self, raw: Tensor) -> Tensor:
        """Take the largest of the tiles' scores."""
        if not self.places:
            scores = self.network.image_score(self.network.score_map, raw)
            return scores if len(raw) == 1 else scores.amax(0, keepdim=True)
        parts = []
        for tile, places in enumerate(self.places):
            if len(places):
                values = raw[tile : tile + 1].flatten(1)[:, places].view(1, 1, 1, -1)
                parts.append(self.network.image_score(self.network.score_map, values))
        return parts[0] if len(parts) == 1 else torch.cat(parts).amax(0, keepdim=True)


def join(smoothing: Tensor, axis: Axis) -> Tensor:
    """Give the matrix that makes one side of the image's map from the raw maps of the tiles along it.

    Args:
        smoothing: ``(h, level)``, what smoothing does to one tile at the input size.
        axis: The tiles.

    Returns:
        ``(length, tiles * level)``.
    """
    enlarged = F.interpolate(smoothing.T[None].double(), size=axis.size, mode="linear")[0].T
    count = axis.starts.shape[0]
    blocks = torch.block_diag(*[enlarged] * count)
    if count == 1:
        return blocks.float()
    return (blend(torch.eye(count * axis.size), axis, dim=0).double() @ blocks).float()
