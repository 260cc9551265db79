"""What anomalies are made of when they cover the part: a colour, a texture, a stain, another image's patches."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dmdd.pairs.hashing import derive_key, hash_uniforms
from dmdd.pairs.masks import between, relative_positions
from dmdd.pairs.perlin import perlin_field
from dmdd.pairs.plan import Column
from dmdd.pairs.scene import Scene
from dmdd.pairs.window import Window, as_float, send

_FINE = 64  # lattice cells of the finest octave: 4 px grains at 256 px
_LUMA = (0.299, 0.587, 0.114)


def _hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Convert (b,) hue, saturation and value in [0, 1] to (b, 3) red, green, blue."""
    sextant = (send(torch.tensor([5.0, 3.0, 1.0]), hue.device) + 6 * hue[:, None]) % 6
    dip = torch.minimum(sextant, 4 - sextant).clamp_(0, 1)
    return value[:, None] * (1 - saturation[:, None] * dip)


def _without_colour(colour: Tensor, grey: Tensor) -> Tensor:
    """Replace colours (b, 3) by their brightness where the image is grey."""
    luma = (colour * send(torch.tensor(_LUMA), colour.device)).sum(1, keepdim=True)
    return torch.where(grey[:, None], luma.expand_as(colour), colour)


def _shift_colour(colour: Tensor, uniform: Tensor, drawn: Tensor, contrasts: tuple[float, float]) -> Tensor:
    """Make (b, 3) colours lighter or darker by a drawn contrast, tinted a little; towards the side that has room."""
    contrast = between(uniform[:, Column.CONTRAST], *contrasts)
    brightness = colour.mean(1)
    up = torch.where(drawn[10] < 0.5, brightness + contrast < 1, brightness - contrast < 0)
    tint = drawn[11:14].T * 0.6 + 0.7
    return colour + torch.where(up, contrast, -contrast)[:, None] * tint


def _palette(uniform: Tensor, drawn: Tensor) -> Tensor:
    """Draw (b, 3) colours of what soils or bares parts: rust, bare grey, dark or pale, now and then any paint."""
    hue, saturation, value = (uniform[:, column] for column in (Column.HUE, Column.SATURATION, Column.VALUE))
    stark = torch.where(value < 0.5, 0.3 * value, 0.7 + 0.3 * value)
    kinds = (  # up to which share of the draws, hue, saturation, value
        (0.4, 0.04 + 0.09 * hue, 0.3 + 0.5 * saturation, 0.15 + 0.5 * value),  # rust
        (0.65, hue, 0.08 * saturation, 0.3 + 0.5 * value),  # bare
        (0.85, hue, 0.2 * saturation, stark),
        (1.0, hue, 0.3 + 0.7 * saturation, 0.2 + 0.8 * value),  # paint
    )
    chosen = list(kinds[-1][1:])
    for share, *colour in kinds[-2::-1]:
        chosen = [torch.where(drawn[14] < share, own, other) for own, other in zip(colour, chosen, strict=True)]
    return _hsv_to_rgb(*chosen)


def _colours(scene: Scene, uniform: Tensor, drawn: Tensor, contrasts: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Draw the two colours (b, 3) between which a procedural texture runs."""
    shifted = _shift_colour(scene.colour, uniform, drawn, contrasts)
    first = _without_colour(torch.where(drawn[15, :, None] < 0.5, shifted, _palette(uniform, drawn)), scene.grey)
    # A palette colour that happens to be the part's own would be invisible.
    seen = (first - scene.colour).abs().amax(1, keepdim=True) >= contrasts[0]
    first = torch.where(seen, first, _without_colour(shifted, scene.grey))
    spread = (0.05 + 0.25 * drawn[16]) * torch.where(drawn[17] < 0.5, 1.0, -1.0)
    return first, (first * (1 + spread[:, None]) + 0.3 * spread[:, None])


def procedural_texture(
    uniform: Tensor, keys: Tensor, scene: Scene, window: Window, *, contrasts: tuple[float, float]
) -> Tensor:
    """Make textures of two octaves of noise: clouds, blotches, grains, stripes, or nearly plain colour.

    Args:
        uniform: (b, PLAN_LENGTH) float32.
        keys: (b,) int64 source keys.
        scene: Facts of the normal images; half of the colours start from theirs, and grey images get grey textures.
        window: Where the texture is wanted.
        contrasts: Smallest and largest brightness difference against the part's colour (log-uniform), in (0, 1].

    Returns:
        (b, 3, h, w) float32, may leave [0, 1] a little.

    Source: ours.
    """
    drawn = hash_uniforms(keys, 24)
    scale = between(drawn[20], 2.0, 16.0)
    scales = torch.stack([scale, scale], dim=1)
    coarse = perlin_field(derive_key(keys, 21), scales, window, lattice=17)
    fine = perlin_field(derive_key(keys, 22), scales * (_FINE / 16), window, lattice=_FINE + 1)
    kind = (uniform[:, Column.VARIANT] * 5).long().clamp_(max=4)
    # Columns: clouds, blotches, grains, nearly plain, stripes.
    gains = send(torch.tensor([[1.0, 5.0, 0.6, 0.0, 2.5], [0.5, 2.5, 2.5, 0.4, 0.3]]), keys.device)[:, kind]
    noise = coarse.mul_(gains[0][:, None, None]).add_(fine.mul_(gains[1][:, None, None]))
    along, _ = relative_positions(torch.zeros_like(scales), uniform[:, Column.MOVE_ANGLE] * math.pi, window)
    waves = between(drawn[23], 6.0, 48.0) * (2 * math.pi / window.side)
    striped = torch.sin(along.mul_(waves[:, None, None]).add_(noise))
    level = noise.clamp_(-1, 1).lerp_(striped, (kind == 4).float()[:, None, None])
    first, second = _colours(scene, uniform, drawn, contrasts)
    middle, half = (first + second) / 2, (second - first) / 2
    return (level[:, None] * half[:, :, None, None]).add_(middle[:, :, None, None])


def changed_tone(
    images: Tensor, uniform: Tensor, keys: Tensor, scene: Scene, window: Window, *, contrasts: tuple[float, float]
) -> Tensor:
    """Change brightness, contrast and tint smoothly, so that the surface still shows: a stain, a shadow, wear.

    Args:
        images: (b, 3, h, w) float32 in [0, 1].
        uniform: (b, PLAN_LENGTH) float32.
        keys: (b,) int64 source keys.
        scene: Facts of the normal images.
        window: Where the images were cut out.
        contrasts: Smallest and largest brightness change (log-uniform), in (0, 1].

    Returns:
        (b, 3, h, w) float32, may leave [0, 1].

    Source: ours.
    """
    drawn = hash_uniforms(keys, 33)
    scale = between(drawn[30], 2.0, 12.0)
    smooth = perlin_field(derive_key(keys, 31), torch.stack([scale, scale], dim=1), window, lattice=13)
    change = _without_colour(_shift_colour(scene.colour, uniform, drawn, contrasts), scene.grey) - scene.colour
    gain = torch.where(uniform[:, Column.VARIANT] < 0.5, 1.0, 0.3 + 1.4 * drawn[32])[:, None, None, None]
    offset = scene.colour * (1 - gain[:, 0, 0]) + change
    changed = (smooth[:, None] * (0.6 * change)[:, :, None, None]).add_(offset[:, :, None, None])
    return changed.add_(images * gain)


def scrambled_patches(others: Tensor, uniform: Tensor, keys: Tensor, window: Window, *, grid: int) -> Tensor:
    """Permute the patches of another normal image, in half of the pairs with changed brightness and contrast.

    Args:
        others: (b, 3, H, W) in [0, 1], or uint8; whole images.
        uniform: (b, PLAN_LENGTH) float32.
        keys: (b,) int64 source keys.
        window: Where the texture is wanted.
        grid: Patches per axis; the last ones repeat their edge where the size is no multiple of it.

    Returns:
        (b, 3, h, w) float32, may leave [0, 1] a little.

    Source: reconstructed, after MemSeg's "structural" source.
    """
    tall, wide = (-(-length // grid) for length in window.image_size)
    padding = (0, wide * grid - others.shape[3], 0, tall * grid - others.shape[2])
    padded = F.pad(as_float(others), padding, mode="replicate") if any(padding) else others
    order = derive_key(derive_key(keys, 40)[:, None], torch.arange(grid * grid, device=keys.device)).argsort(1)
    # Copied in runs of a patch's width, channels last: many times faster on a CPU than a gather of pixels.
    rows, first = window.pixels(0).long(), window.origin[:, 1].long() // wide
    runs = min(grid, (window.size[1] - 2) // wide + 2)
    columns = (first[:, None] + torch.arange(runs, device=keys.device)).clamp_(max=grid - 1)
    cells = (rows // tall)[:, :, None] * grid + columns[:, None, :]
    drawn = order.gather(1, cells.flatten(1)).view_as(cells)
    index = ((drawn // grid) * tall + (rows % tall)[:, :, None]) * grid + drawn % grid
    image = torch.arange(len(keys), device=keys.device)[:, None, None] * (tall * grid * grid)
    mixed = padded.permute(0, 2, 3, 1).reshape(-1, 3 * wide).index_select(0, (image + index).flatten())
    mixed = mixed.view(len(keys), window.size[0], runs * wide, 3).permute(0, 3, 1, 2)
    mixed = as_float(_cut_runs(mixed, window, wide).contiguous())
    changed = uniform[:, Column.VARIANT] < 0.5
    gain = torch.where(changed, 0.6 + 0.8 * uniform[:, Column.CONTRAST], 1.0)
    offset = torch.where(changed, 0.3 * (uniform[:, Column.VALUE] - 0.5), 0.0)
    return mixed * gain[:, None, None, None] + offset[:, None, None, None]


def _cut_runs(mixed: Tensor, window: Window, wide: int) -> Tensor:
    """Cut the window's columns out of the runs that cover them."""
    if window.is_whole:
        return mixed[..., : window.size[1]]
    starts = (window.origin[:, 1].long() % wide).tolist()  # windows exist on a CPU only
    return torch.stack([image[..., start : start + window.size[1]] for image, start in zip(mixed, starts, strict=True)])


def fit_colour(textures: Tensor, scene: Scene) -> Tensor:
    """Take the colour out of (b, 3, h, w) textures that go into grey images."""
    # Asking is free on a CPU only, where the answer saves a tenth of the whole pair.
    if scene.grey.device.type == "cpu" and not scene.grey.any():
        return textures
    # Not `where`: selecting by a mask takes three times as long on a CPU.
    return torch.lerp(textures, textures.mean(1, keepdim=True), scene.grey.float()[:, None, None, None])
