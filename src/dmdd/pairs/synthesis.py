"""Anomalous twins of a batch of normal images."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dmdd.pairs import masks, sources, structure
from dmdd.pairs.group import Pairs, Pixels, chunks
from dmdd.pairs.hashing import key_from_uniform
from dmdd.pairs.plan import PLAN_LENGTH, Column
from dmdd.pairs.scene import coarse, survey
from dmdd.pairs.window import Window, as_float, crop, paste, select, send

TEXTURE_SOURCES = ("dtd", "procedural", "tone", "scramble")
STRUCTURE_SOURCES = ("shift", "warp", "missing")
SOURCES = TEXTURE_SOURCES + STRUCTURE_SOURCES
MASKS = ("perlin", "blob", "stroke", "patch")

_DRAWN = (*TEXTURE_SOURCES, "own", *STRUCTURE_SOURCES)  # `own` is what a subclass paints
_FIRST_STRUCTURE = _DRAWN.index(STRUCTURE_SOURCES[0])

_SMALLEST_FOREGROUND = 1e-3  # share of the image; less is an estimation failure and the whole image is used instead
_FALLBACK_RADIUS = 0.02  # share of the shorter side: 5 px at 256 px, an area of 0.12 %
_FALLBACK_CHANGE = 0.25
_MARGIN_PX = 4  # around a mask's reach: soft edges, rounding and the fallback spot's neighbourhood


@dataclass(frozen=True, kw_only=True)
class PairSynthesis:
    """Make an anomalous twin and its mask for each normal image, batched, on the images' device.

    A pair draws what its anomaly is made of (a source) and its shape (a mask kind) by the weights given, which need
    not sum to one. Every random number comes from the plan, so equal plans give equal pairs on any device and in any
    batch.

    Sources that cover the part: `dtd` (a texture image), `procedural` (noises, stripes, plain colour), `tone` (stain,
    shadow, wear), `scramble` (shuffled patches of another normal image), `own` (what a subclass
    paints in :meth:`own_source`). Sources that change its structure, of the
    same image: `shift` (a piece moved or turned), `warp` (bent, bulged, twisted), `missing` (a piece gone, background
    in its place). The latter use the kinds `blob` and `patch` only (`blob` if both weigh nothing), are not blended,
    and may leave the foreground, as a bent tip does.

    Args:
        dtd, procedural, tone, scramble, own, shift, warp, missing: Weights of the sources, >= 0.
        perlin, blob, stroke, patch: Weights of the mask kinds, >= 0.
        blend_max: The normal image's share in the blend is U(0, blend_max), in [0, 1). Strokes use a third of it: a
            scratch of one pixel that is also transparent cannot be seen.
        foreground: Keep anomalies on the foreground when one is given.
        threshold: Perlin masks: the classic fixed threshold, or None for a drawn share of the foreground.
        area_min: Perlin masks without threshold: smallest share of the foreground, in (0, 1).
        area_max: ... and the largest.
        gathered: Perlin masks without threshold: share of them gathered around a point, not scattered over the
            foreground, in [0, 1].
        rotate: Perlin masks: rotate the field.
        radius_min: Blobs and patches: smallest radius, share of the shorter side.
        radius_max: ... and the largest.
        width_min: Strokes: smallest width, share of the shorter side (never below 1 px).
        width_max: ... and the largest.
        length_min: Strokes: smallest length, share of the shorter side.
        length_max: ... and the largest.
        move_min: `shift`: smallest displacement, share of the shorter side.
        move_max: ... and the largest.
        contrast_min: `procedural` and `tone`: smallest brightness difference to the part, in (0, 1].
        contrast_max: ... and the largest.
        soft_edges: Fade the blend out over up to a third of the radius; otherwise masks cut hard.
        patch_grid: `scramble`: patches per axis.
        min_change: Pixels whose channels all change less are left as they are and out of the mask, unless a neighbour
            within 2 px changes more; 0 keeps the drawn mask. In [0, 1).
        min_pixels: A mask of fewer pixels at 256 x 256 (scaled with the area) is replaced by a small spot.
        empty_rate: Share of pairs left without an anomaly, in [0, 1].

    Raises:
        ValueError: If a weight is negative, all weights of a group are zero, or a value is out of range.

    Source: paper for the pairs, reconstructed for the classic recipe (`dtd`, `prototype`); the other kinds are ours.
    """

    dtd: float = 0.0
    procedural: float = 0.0
    tone: float = 0.0
    scramble: float = 0.0
    own: float = 0.0
    shift: float = 0.0
    warp: float = 0.0
    missing: float = 0.0
    perlin: float = 0.0
    blob: float = 0.0
    stroke: float = 0.0
    patch: float = 0.0
    blend_max: float = 0.8
    foreground: bool = True
    threshold: float | None = None
    area_min: float = 0.005
    area_max: float = 0.2
    gathered: float = 2 / 3
    rotate: bool = True
    radius_min: float = 0.016
    radius_max: float = 0.12
    width_min: float = 0.004
    width_max: float = 0.016
    length_min: float = 0.04
    length_max: float = 0.4
    move_min: float = 0.012
    move_max: float = 0.1
    contrast_min: float = 0.1
    contrast_max: float = 0.5
    soft_edges: bool = True
    patch_grid: int = 8
    min_change: float = 0.03
    min_pixels: int = 20
    empty_rate: float = 0.0

    def __post_init__(self) -> None:
        for names, drawn in ((SOURCES, _DRAWN), (MASKS, MASKS)):
            weights = [getattr(self, name) for name in drawn]
            if min(weights) < 0 or sum(weights) == 0:
                raise ValueError(f"weights of {', '.join(names)} must be >= 0 and not all 0, got {weights}")
        for name in ("blend_max", "min_change"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        for name in ("empty_rate", "gathered"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        for name in ("area", "radius", "width", "length", "move", "contrast"):
            low, high = self._range(name)
            if not 0 < low <= high <= 1:
                raise ValueError(f"0 < {name}_min <= {name}_max <= 1 must hold, got {low} and {high}")
        if self.patch_grid < 1:
            raise ValueError(f"patch_grid must be at least 1, got {self.patch_grid}")

    @property
    def needs_textures(self) -> bool:
        """Whether calls need texture images."""
        return self.dtd > 0

    def __call__(
        self,
        images: Tensor,
        plan: Tensor,
        *,
        others: Tensor,
        foreground: Tensor | None = None,
        textures: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Make the twins.

        Args:
            images: (B, 3, H, W) float32, float16 or bfloat16 in [0, 1], or uint8, whose twins are float32.
            plan: (B, PLAN_LENGTH) float64 uniforms, best left on the CPU: on a GPU reading it back stops the queue.
            others: Another normal image for each pair, of any of these types.
            foreground: (B, 1, H, W) bool, True on the part, or None for the whole image.
            textures: A texture for each pair, of any of these types; may be None where `dtd` weighs nothing.

        Returns:
            The anomalous images, like `images`, in [0, 1], channels last in memory, and the masks (B, 1, H, W), of
            exactly 0 and 1, of the same dtype: 1 where something was changed. Outside the mask the pixels are
            bit-identical to `images` (to `images / 255` of uint8).

        Raises:
            ValueError: If shapes do not fit, or textures are needed and missing.

        Source: reconstructed; batching and kinds are ours.
        """
        self._check(images, plan, others, foreground, textures)
        plan = plan.detach().cpu()
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            inside = self._inside(foreground)
            dtype = torch.float32 if images.dtype == torch.uint8 else images.dtype
            pixels = Pixels(images, others, textures, inside, dtype)
            # Channels last, as networks want it: converting later would take another pass.
            twin = as_float(images, dtype).contiguous(memory_format=torch.channels_last)
            twin = twin.clone() if twin.data_ptr() == images.data_ptr() else twin
            mask = torch.zeros_like(images[:, :1], dtype=dtype)
            for pairs in self._windows(self._decide(plan, pixels), pixels):
                part, part_mask = self._make(pixels, pairs)
                paste(twin, part, pairs.rows, pairs.window)
                paste(mask, part_mask, pairs.rows, pairs.window)
        return twin, mask

    def own_source(self, pixels: Pixels, pairs: Pairs, shape: Tensor) -> Tensor:
        """Paint what covers the part in pairs of the source `own`; for subclasses (docs/extending.md).

        Args:
            pixels: The pixels of this call; `pixels.cut(pairs)` gives the windows of the normal images.
            pairs: b pairs that share a window size; `pairs.uniform[:, Column.VARIANT]` and its neighbours are drawn for
                them.
            shape: (b, h, w), positive inside the mask, px from its edge.

        Returns:
            (b, 3, h, w) float32 in [0, 1], drawn from `pairs.uniform` and `pairs.source_keys` alone.

        Raises:
            NotImplementedError: This class paints nothing of its own.
        """
        raise NotImplementedError(f"{type(self).__name__} has the weight own={self.own} but no own_source")

    def _own_source(self, pixels: Pixels, pairs: Pairs, shape: Tensor) -> Tensor:
        return self.own_source(pixels, pairs, shape)

    def _range(self, name: str) -> tuple[float, float]:
        return getattr(self, f"{name}_min"), getattr(self, f"{name}_max")

    def _check(
        self, images: Tensor, plan: Tensor, others: Tensor, foreground: Tensor | None, textures: Tensor | None
    ) -> None:
        if images.ndim != 4 or images.shape[1] != 3 or len(images) == 0:
            raise ValueError(f"images must be (B, 3, H, W) with B >= 1, got {tuple(images.shape)}")
        batch, _, height, width = images.shape
        if plan.shape != (batch, PLAN_LENGTH):
            raise ValueError(f"plan must be {(batch, PLAN_LENGTH)}, got {tuple(plan.shape)}")
        if self.needs_textures and textures is None:
            raise ValueError("textures are missing although the source dtd has weight: give them or set dtd=0")
        for name, given in (("others", others), ("textures", textures)):
            if given is not None and given.shape != images.shape:
                raise ValueError(f"{name} must be {tuple(images.shape)} like images, got {tuple(given.shape)}")
        if foreground is not None and foreground.shape != (batch, 1, height, width):
            raise ValueError(f"foreground must be {(batch, 1, height, width)}, got {tuple(foreground.shape)}")

    def _inside(self, foreground: Tensor | None) -> Tensor | None:
        """Foreground (B, H, W) bool, whole where it is too small to be true; None where anomalies may lie anywhere."""
        if foreground is None or not self.foreground:
            return None
        foreground = foreground[:, 0].bool()
        failed = coarse(foreground).float().mean((1, 2)) < _SMALLEST_FOREGROUND
        # Asking is free on a CPU only.
        if failed.device.type == "cpu" and not failed.any():
            return foreground
        return foreground | failed[:, None, None]

    def _decide(self, plan: Tensor, pixels: Pixels) -> Pairs:
        device = pixels.images.device
        source = _draw(plan[:, Column.SOURCE], [getattr(self, name) for name in _DRAWN])
        kind = _draw(plan[:, Column.MASK], [getattr(self, name) for name in MASKS])
        solid = [0.0, self.blob or float(not self.patch), 0.0, self.patch]
        structural = source >= _FIRST_STRUCTURE
        kind = torch.where(structural, _draw(plan[:, Column.MASK], solid), kind)
        # A deformation needs the smooth window of a blob.
        kind = kind.masked_fill(source == _DRAWN.index("warp"), MASKS.index("blob"))
        escaping = source == _DRAWN.index("missing")
        parts = masks.count_parts(plan).masked_fill(structural, 1)
        uniform = send(plan.float(), device)
        anchor = uniform[:, Column.ANCHOR]
        return Pairs(
            rows=torch.arange(len(plan), device=device),
            uniform=uniform,
            mask_keys=send(key_from_uniform(plan[:, Column.MASK_KEY]), device),
            source_keys=send(key_from_uniform(plan[:, Column.SOURCE_KEY]), device),
            scene=survey(pixels.images, anchor, inside=pixels.inside, structural=structural, escaping=escaping),
            window=Window.whole(pixels.images),
            source=source,
            kind=kind,
            parts=parts,
            reach=self._reach(plan, kind, parts),
        )

    def _reach(self, plan: Tensor, kind: Tensor, parts: Tensor) -> Tensor:
        """Largest distance (B,) from the anchor, along an axis, at which a mask can be; share of the shorter side."""
        radius = masks.between(plan[:, Column.SIZE], *self._range("radius"))
        length = masks.between(plan[:, Column.SIZE], *self._range("length"))
        blob = masks.blob_reach(radius, plan[:, Column.ASPECT])
        patch = masks.rectangle_reach(radius, plan[:, Column.ASPECT])
        stroke = masks.stroke_reach(length, self.width_max)
        several = torch.where(parts > 1, masks.PARTS_APART, 0.0)
        reaches = torch.stack([torch.full_like(blob, 2.0), blob + several, stroke + several, patch])
        return reaches.gather(0, kind[None])[0]

    def _windows(self, pairs: Pairs, pixels: Pixels) -> Iterator[Pairs]:
        """Group pairs by the window they need: a quarter, half or three quarters of the shorter side, or the image."""
        if pairs.rows.device.type != "cpu":
            # More, smaller groups would cost a GPU more in launches than they save in work.
            yield pairs
            return
        centre, needed = pairs.scene.anchor.clone(), 2 * pairs.reach
        noisy = torch.nonzero(pairs.kind == MASKS.index("perlin"))[:, 0]
        if len(noisy):
            # How far noise reaches is known when it is there.
            fields = [self._perlin_shape(part, pixels.within(part)) for part in chunks(pairs.take(noisy))]
            pairs = pairs.with_fields(torch.cat(fields), noisy)
            centre[noisy], needed[noisy] = self._frame(pairs.take(noisy), pixels)
        needed += 2 * _MARGIN_PX / pairs.window.side
        for quarters, at, group in pairs.split((needed * 4).ceil().long().clamp_(1, 4)):
            side = -(-quarters * group.window.side // 4)
            window = group.window if quarters == 4 else group.window.around(centre[at], side)
            yield from chunks(replace(group, window=window))

    def _frame(self, pairs: Pairs, pixels: Pixels) -> tuple[Tensor, Tensor]:
        """Middle (b, 2), px, and longer side (b,), share of the shorter side of the image, of what noise fills."""
        assert pairs.fields is not None
        filled, inside = pairs.fields > -0.5, pixels.within(pairs)  # the weight is zero elsewhere
        if inside is not None:
            filled &= inside
        # The anchor too, where a spot may have to be written.
        # The largest byte: reducing a bool takes ten times as long.
        ends = [_ends(filled.byte().amax(3 - axis), pairs.scene.anchor[:, axis - 1]) for axis in (1, 2)]
        low, high = (torch.stack(places, dim=1) for places in zip(*ends, strict=True))
        return (low + high) / 2, (high - low).amax(1).double() / pairs.window.side

    def _make(self, pixels: Pixels, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Twins (b, 3, h, w) and masks (b, 1, h, w) of pairs that share a window size."""
        normal, inside = pixels.cut(pairs), pixels.within(pairs)
        shape = self._draw_shapes(pairs, inside)
        weight = self._weigh(pairs, shape, inside)
        # Clamped before the blend: a mean of two values in [0, 1] stays there, and where the weight is zero the normal
        # pixel comes through bit for bit.
        painted = self._paint(pixels, pairs, shape).clamp(0, 1)
        mask = self._changed(normal, painted, weight)
        self._rescue(pairs, inside, normal, painted, weight, mask)
        if self.empty_rate > 0:
            mask *= (pairs.uniform[:, Column.EMPTY] >= self.empty_rate).float()[:, None, None]
        twin = torch.lerp(normal, painted, weight.mul_(mask)[:, None], out=painted)
        return twin.to(pixels.dtype), mask[:, None].to(pixels.dtype)

    def _draw_shapes(self, pairs: Pairs, inside: Tensor | None) -> Tensor:
        """Signed fields (b, h, w), positive inside the mask."""
        shape = torch.empty(len(pairs.rows), *pairs.window.size, device=pairs.rows.device)
        for kind, at, group in pairs.split(pairs.kind):
            within = inside if inside is None or group is pairs else inside[at]
            drawn = getattr(self, f"_{MASKS[kind]}_shape")(group, within)
            if group is pairs:
                return drawn
            shape.index_copy_(0, at, drawn)
        return shape

    def _weigh(self, pairs: Pairs, shape: Tensor, inside: Tensor | None) -> Tensor:
        """Turn signed fields into the source's share (b, h, w) in [0, 1]: hard, or fading inwards."""
        structural = pairs.source >= _FIRST_STRUCTURE
        if self.soft_edges:
            radius = self._radius_px(pairs) * pairs.uniform[:, Column.SOFTNESS] ** 2
            sharp = send(structural | (pairs.kind == MASKS.index("stroke")), shape.device)
            width = 1 + torch.where(sharp, 0.0, 0.7 * radius)
            weight = (shape + 0.5).mul_(1 / width[:, None, None]).clamp_(0, 1)
        else:
            weight = torch.gt(shape, 0, out=torch.empty_like(shape))
        if inside is not None:
            if structural.any():
                inside = inside | send(structural, shape.device)[:, None, None]
            # Converted first: a product of floats and bools is four times slower on a CPU.
            weight *= inside.float()
        return weight.mul_(self._opacity(pairs)[:, None, None])

    def _opacity(self, pairs: Pairs) -> Tensor:
        """Share (b,) of the source in the blend."""
        share = torch.full(pairs.kind.shape, self.blend_max)
        share[pairs.kind == MASKS.index("stroke")] = self.blend_max / 3
        share[pairs.source >= _FIRST_STRUCTURE] = 0
        return 1 - send(share, pairs.rows.device) * pairs.uniform[:, Column.BLEND]

    def _paint(self, pixels: Pixels, pairs: Pairs, shape: Tensor) -> Tensor:
        """What covers the normal images: (b, 3, h, w) float32."""
        painted = torch.empty(len(pairs.rows), 3, *pairs.window.size, device=pairs.rows.device)
        for source, at, group in pairs.split(pairs.source):
            make = getattr(self, f"_{_DRAWN[source]}_source")
            if group is pairs:
                return make(pixels, group, shape)
            own = make(pixels, group, shape[at])
            painted.index_copy_(0, at, own)
        return painted

    def _radius_px(self, pairs: Pairs) -> Tensor:
        return masks.between(pairs.uniform[:, Column.SIZE], *self._range("radius")) * pairs.window.side

    def _perlin_shape(self, pairs: Pairs, inside: Tensor | None) -> Tensor:
        if pairs.fields is not None and pairs.field is not None:
            return crop(pairs.fields[:, None], pairs.field, pairs.window)[:, 0]
        uniform, keys, window = pairs.uniform, pairs.mask_keys, pairs.window
        if self.threshold is not None:
            return masks.classic_shape(uniform, keys, window, threshold=self.threshold, rotate=self.rotate)
        if inside is None:
            inside = torch.ones(len(keys), *window.size, dtype=torch.bool, device=keys.device)
        area, anchor = self._range("area"), pairs.scene.anchor
        return masks.area_shape(
            uniform, keys, anchor, inside, area_range=area, gathered=self.gathered, rotate=self.rotate
        )

    def _blob_shape(self, pairs: Pairs, inside: Tensor | None) -> Tensor:
        def draw(few: Pairs, part: int) -> Tensor:
            place = few.scene.anchor, few.window
            return masks.blob_shape(few.uniform, few.mask_keys, *place, radii=self._range("radius"), part=part)

        return _join_parts(draw, pairs)

    def _stroke_shape(self, pairs: Pairs, inside: Tensor | None) -> Tensor:
        widths, lengths = self._range("width"), self._range("length")

        def draw(few: Pairs, part: int) -> Tensor:
            place = few.scene.anchor, few.window
            return masks.stroke_shape(few.uniform, few.mask_keys, *place, widths=widths, lengths=lengths, part=part)

        return _join_parts(draw, pairs)

    def _patch_shape(self, pairs: Pairs, inside: Tensor | None) -> Tensor:
        return masks.rectangle_shape(pairs.uniform, pairs.scene.anchor, pairs.window, radii=self._range("radius"))

    def _dtd_source(self, pixels: Pixels, pairs: Pairs, shape: Tensor) -> Tensor:
        assert pixels.textures is not None  # checked on entry
        return sources.fit_colour(as_float(crop(pixels.textures, pairs.rows, pairs.window).contiguous()), pairs.scene)

    def _procedural_source(self, pixels: Pixels, pairs: Pairs, shape: Tensor) -> Tensor:
        facts = pairs.uniform, pairs.source_keys, pairs.scene, pairs.window
        return sources.procedural_texture(*facts, contrasts=self._range("contrast"))

    def _tone_source(self, pixels: Pixels, pairs: Pairs, shape: Tensor) -> Tensor:
        normal = pixels.cut(pairs)
        facts = pairs.uniform, pairs.source_keys, pairs.scene, pairs.window
        return sources.changed_tone(normal, *facts, contrasts=self._range("contrast"))

    def _scramble_source(self, pixels: Pixels, pairs: Pairs, shape: Tensor) -> Tensor:
        others = select(pixels.others, pairs.rows)
        return sources.scrambled_patches(others, pairs.uniform, pairs.source_keys, pairs.window, grid=self.patch_grid)

    def _shift_source(self, pixels: Pixels, pairs: Pairs, shape: Tensor) -> Tensor:
        lengths_px = (self.move_min * pairs.window.side, self.move_max * pairs.window.side)
        motion = structure.shift_motion(pairs.uniform, pairs.source_keys, lengths_px)
        return structure.resample(pixels.some(pairs), pairs.scene.anchor, *motion, None, pairs.window)

    def _missing_source(self, pixels: Pixels, pairs: Pairs, shape: Tensor) -> Tensor:
        motion = structure.missing_motion(pairs.uniform, pairs.scene, self._radius_px(pairs))
        return structure.resample(pixels.some(pairs), pairs.scene.anchor, *motion, None, pairs.window)

    def _warp_source(self, pixels: Pixels, pairs: Pairs, shape: Tensor) -> Tensor:
        radius = self._radius_px(pairs)
        depth = (shape / (0.8 * radius)[:, None, None]).clamp_(0, 1)
        motion = structure.warp_motion(pairs.uniform, pairs.source_keys, radius)
        weight = depth**2 * (3 - 2 * depth)
        return structure.resample(pixels.some(pairs), pairs.scene.anchor, *motion, weight, pairs.window)

    def _changed(self, normal: Tensor, painted: Tensor, weight: Tensor) -> Tensor:
        """Keep of the covered pixels those near a visible change: (b, h, w) float32, 0 or 1."""
        if self.min_change == 0:
            return weight.sign()
        visible = (painted - normal).abs_().amax(1).mul_(weight) >= self.min_change
        return _dilate(visible, 2).float().mul_(weight.sign())

    def _rescue(
        self, pairs: Pairs, inside: Tensor | None, normal: Tensor, painted: Tensor, weight: Tensor, mask: Tensor
    ) -> None:
        """Where a mask came out too small, write a small bright or dark spot at the anchor into the last three."""
        height, width = pairs.window.image_size
        small = mask.flatten(1).sum(1) < max(1.0, self.min_pixels * height * width / 256**2)
        # Asking is free on a CPU only; there hardly any pair needs it.
        if small.device.type == "cpu" and not small.any():
            return
        # Only the spot's surroundings are touched, in every pair: asking a GPU which pairs need it would stop its work.
        mask *= (~small).float()[:, None, None]
        radius = max(1, round(_FALLBACK_RADIUS * pairs.window.side))
        near = torch.arange(-radius, radius + 1, device=small.device)
        centre = (pairs.scene.anchor - pairs.window.origin).long()
        rows = (centre[:, :1] + near).clamp_(0, pairs.window.size[0] - 1)
        columns = (centre[:, 1:] + near).clamp_(0, pairs.window.size[1] - 1)
        squared = ((rows - centre[:, :1]) ** 2)[:, :, None] + ((columns - centre[:, 1:]) ** 2)[:, None, :]
        at = torch.arange(len(small), device=small.device)[:, None, None], rows[:, :, None], columns[:, None, :]
        spot = (squared <= radius**2) & small[:, None, None]
        if inside is not None:
            spot &= inside[at]
        before, colours = normal.permute(0, 2, 3, 1)[at], painted.permute(0, 2, 3, 1)
        away = torch.where(before.mean(3, keepdim=True) < 0.5, _FALLBACK_CHANGE, -_FALLBACK_CHANGE)
        colours[at] = torch.where(spot[..., None], (before + away).clamp_(0, 1), colours[at])
        weight[at] = torch.where(spot, 1.0, weight[at])
        mask[at] = torch.where(spot, 1.0, mask[at])


def _draw(uniform: Tensor, weights: list[float]) -> Tensor:
    """Draw indices (B,) by weights from uniforms (B,)."""
    edges = torch.tensor(weights, dtype=torch.float64).cumsum(0)
    return torch.searchsorted(edges, uniform * edges[-1], right=True)


def _ends(filled: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
    """First and last place (b,) float32 of (b, n) that is filled (not zero), or is the anchor's (b,)."""
    places = torch.arange(filled.shape[1], dtype=torch.float32)
    low = torch.where(filled > 0, places, torch.inf).amin(1)
    high = torch.where(filled > 0, places, -torch.inf).amax(1)
    return torch.minimum(low, anchor), torch.maximum(high, anchor)


def _join_parts(draw: Callable[[Pairs, int], Tensor], pairs: Pairs) -> Tensor:
    """Union (b, h, w) of the one to three parts of each pair; later parts only where a pair has them."""
    union = draw(pairs, 0)
    for part in range(1, masks.MOST_PARTS):
        having = torch.nonzero(pairs.parts > part)[:, 0]
        if len(having):
            at = send(having, union.device)
            union[at] = torch.maximum(union[at], draw(pairs.take(having), part))
    return union


def _dilate(mask: Tensor, radius: int) -> Tensor:
    """Grow (B, H, W) bool by a square: shifted copies cost a tenth of max-pooling floats."""
    for axis in (1, 2):
        length = mask.shape[axis]
        grown = mask.clone()
        for step in range(1, min(radius, length - 1) + 1):
            grown.narrow(axis, step, length - step).logical_or_(mask.narrow(axis, 0, length - step))
            grown.narrow(axis, 0, length - step).logical_or_(mask.narrow(axis, step, length - step))
        mask = grown
    return mask
