"""What is known of pairs while they are made: their pixels, what was decided about them, and groups of them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dmdd.pairs.scene import Scene
from dmdd.pairs.window import Window, as_float, crop, select, send

_CHUNK_PX = 8 * 256**2  # pixels of a plane that a CPU works on in one go: more would leave its cache at every pass


@dataclass(frozen=True)
class Pixels:
    """The pixels of one call, on the images' device."""

    images: Tensor  # (B, 3, H, W), as given: only what is worked on is converted
    others: Tensor
    textures: Tensor | None
    inside: Tensor | None  # (B, H, W) bool
    dtype: torch.dtype  # of the twins

    def some(self, pairs: "Pairs") -> Tensor:
        """Whole normal images (b, 3, H, W) float32."""
        return as_float(select(self.images, pairs.rows))

    def within(self, pairs: "Pairs") -> Tensor | None:
        """Windows (b, h, w) of the foreground."""
        return None if self.inside is None else crop(self.inside[:, None], pairs.rows, pairs.window)[:, 0]

    def cut(self, pairs: "Pairs") -> Tensor:
        """Windows of normal images (b, 3, h, w) float32, channel by channel in memory."""
        return as_float(crop(self.images, pairs.rows, pairs.window).contiguous())


@dataclass(frozen=True)
class Pairs:
    """What is decided about some pairs; tensors on the images' device except where said."""

    rows: Tensor  # (b,) int64: their places in the batch
    uniform: Tensor  # (b, PLAN_LENGTH) float32
    mask_keys: Tensor  # (b,) int64
    source_keys: Tensor
    scene: Scene
    window: Window
    # On the CPU, so that selecting pairs by kind never waits for the device.
    source: Tensor  # (b,) int64, number of the source
    kind: Tensor  # (b,) int64, index into MASKS
    parts: Tensor  # (b,) int64, number of blobs or strokes
    reach: Tensor  # (b,) float64, share of the shorter side that the mask reaches from the anchor, at most
    # On a CPU, Perlin's shapes on whole images (n, H, W), shared by all groups, and each pair's place there (b,).
    fields: Tensor | None = None
    field: Tensor | None = None

    def with_fields(self, fields: Tensor, rows: Tensor) -> "Pairs":
        """Remember the shapes of some pairs, given by their places among these."""
        field = torch.zeros(len(self.rows), dtype=torch.int64)
        field[rows] = torch.arange(len(rows))
        return replace(self, fields=fields, field=field)

    def take(self, rows: Tensor) -> "Pairs":
        """Select pairs by their places among these, an int64 index on the CPU."""
        at = send(rows, self.rows.device)
        return Pairs(
            rows=self.rows[at],
            uniform=self.uniform[at],
            mask_keys=self.mask_keys[at],
            source_keys=self.source_keys[at],
            scene=self.scene.take(at),
            window=self.window.take(at),
            source=self.source[rows],
            kind=self.kind[rows],
            parts=self.parts[rows],
            reach=self.reach[rows],
            fields=self.fields,
            field=None if self.field is None else self.field[rows],
        )

    def split(self, choice: Tensor) -> Iterator[tuple[int, Tensor, "Pairs"]]:
        """Go through the values of a choice, with the places of the pairs that have it, and these pairs."""
        for value in choice.unique().tolist():
            at = torch.nonzero(choice == value)[:, 0]
            yield value, send(at, self.rows.device), self if len(at) == len(choice) else self.take(at)


def chunks(pairs: Pairs) -> Iterator[Pairs]:
    """Split pairs into as many at a time as a CPU's cache has room for."""
    length = max(1, _CHUNK_PX // math.prod(pairs.window.size))
    for rows in torch.arange(len(pairs.rows)).split(length):
        yield pairs if len(rows) == len(pairs.rows) else pairs.take(rows)
