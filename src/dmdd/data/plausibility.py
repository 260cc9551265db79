"""Whether test images and masks can be what they are taken for: the same check and words in every command."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from dmdd.data.images import Decoded, decode, decode_mask, decoding_pool, peak_of_16_bit
from dmdd.data.listing import IMAGE_EXTENSIONS, Category, Sample, files_below, tell_unread

NO_ANOMALIES = (
    "no anomalous images: AUROC, AUPRO and how many defects are found are not measured, only scores, threshold and "
    "false alarms of good images"
)

FEW_HELD_OUT = 10
"""Held-out images below which a threshold says little."""

MORE_REGIONS = 1.1
"""How many times as many regions a mask may have at the input size."""

GREY_VALUES = 8
"""From so many values between 0 and the largest a mask is no drawing with a few labels."""

FAINT_SHARE, PALE_SHARE = 0.5, 0.25
"""Share of the marked pixels below half, and below an eighth, of the largest value: more are no soft edges."""

MOST = 0.5
"""Share of an image that a defect seldom exceeds."""

FAR_BEYOND, LARGE, FEW_MASKS = 25, 0.1, 4
"""A mask is doubted from so many times the median of the others of its type and this share of the image; the largest
ratio of such a mask on the real sets that were looked at is 23. Fewer masks have no median to speak of."""

LOOKED_AT = 64
"""Training images whose range is looked at; most folders come from one camera."""

LITTLE_RANGE = 65536 // 8
"""16-bit images whose largest value is below this are nearly black when they are scaled by their full range."""

TURNED = {
    **dict.fromkeys((2, 4), "is mirrored by its EXIF entry"),
    3: "is turned by 180 degrees by its EXIF entry",
    **dict.fromkeys(range(5, 9), "is turned by 90 degrees by its EXIF entry"),
}


@dataclass(frozen=True)
class MaskFacts:
    """What can be said of a mask without knowing its image.

    Args:
        pixels: Of the image.
        marked: Of them, how many count as defect.
        border: Whether the whole border of the image counts as defect.
        smallest: Smallest value of the file; a JPEG's are 0 or the largest once they are cut.
        largest: Largest value.
        between: How many different values lie between 0 and the largest.
        faint: How many pixels lie above 0 and below half of the largest value.
        pale: How many of them lie below an eighth.
        regions: Connected regions at the mask's own size; None if not counted.
        regions_left: The same at the size that maps are compared at.
    """

    pixels: int
    marked: int
    border: bool
    smallest: int
    largest: int
    between: int
    faint: int
    pale: int
    regions: int | None = None
    regions_left: int | None = None

    @property
    def share(self) -> float:
        """Part of the image that counts as defect, in [0, 1]."""
        return self.marked / self.pixels

    @property
    def shown(self) -> str:
        """The same as text."""
        return f"{100 * self.share:.3g} %, {self.marked:,} of {self.pixels:,} px"


@dataclass(frozen=True)
class Inspected:
    """A test image that can be read, and its mask.

    Args:
        sample: Which.
        size: Height and width in pixels, upright.
        turned: How the image's EXIF entry turns it and the mask's does not; None if they agree.
        peak: Largest value of a 16-bit image; None for other kinds.
        mask: None without a mask.
    """

    sample: Sample
    size: tuple[int, int]
    turned: str | None
    peak: int | None
    mask: MaskFacts | None


def inspect(sample: Sample, *, size: tuple[int, int] | None = None) -> Inspected:
    """Read an image and its mask, and keep what is needed to doubt them.

    Args:
        sample: What to read.
        size: Height and width in pixels that maps and masks are compared at; None does not count regions.

    Returns:
        The facts.

    Raises:
        UserError: A file cannot be read, or the mask has another size than its image; the message has its path.
    """
    image = decode(sample.path)
    own = (image.pixels.shape[0], image.pixels.shape[1])
    peak = int(image.pixels.max()) if image.pixels.dtype == np.uint16 else None
    if sample.mask_path is None:
        return Inspected(sample, own, None, peak, None)
    mask, files = decode_mask(sample.mask_path, of=image)
    turned = None if image.orientation in {file.orientation for file in files} else TURNED.get(image.orientation)
    return Inspected(sample, own, turned, peak, _facts(mask, files, size))


def inspect_all(samples: Sequence[Sample], *, size: tuple[int, int] | None = None) -> list[Inspected]:
    """Read images and masks once and keep nothing of them: a damaged test file is told before training.

    Args:
        samples: What will be read.
        size: As for :func:`inspect`.

    Returns:
        The facts, in order.

    Raises:
        UserError: As :func:`inspect`.
    """
    with decoding_pool([sample.path for sample in samples]) as pool:
        return list(pool.map(lambda sample: inspect(sample, size=size), samples))


def _facts(mask: np.ndarray, files: Sequence[Decoded], size: tuple[int, int] | None) -> MaskFacts:
    border = mask[0].all() and mask[-1].all() and mask[:, 0].all() and mask[:, -1].all()
    regions = left = None
    if size is not None:
        regions, left = _count_regions(mask, size)
    # Of several files, one for each region, the oddest counts.
    values = max((_values(file) for file in files), key=lambda found: (found[0], found[2]))
    return MaskFacts(mask.size, int(mask.sum()), bool(border), *values, regions, left)


def _values(file: Decoded) -> tuple[int, int, int, int, int]:
    """Give the smallest and the largest value, how many lie between 0 and that, and the faint and the pale pixels."""
    if file.format == "JPEG":  # cut at half, so its grey values are no part of the mask
        return 0, int(file.grey.max()), 0, 0, 0
    counts = np.bincount(file.grey.ravel())
    largest = len(counts) - 1
    between = int((counts[1:largest] > 0).sum())
    faint, pale = (int(counts[1 : -(-largest // part)].sum()) for part in (2, 8))
    return int(np.flatnonzero(counts)[0]), largest, between, faint, pale


def _count_regions(mask: np.ndarray, size: tuple[int, int]) -> tuple[int, int]:
    """Count the regions of a mask, and those that are left at another size."""
    import torch  # local: ``data check`` answers without it

    from dmdd.core.resize import resize_masks
    from dmdd.metrics.regions import anomalous_pixels

    own = left = int(anomalous_pixels(mask.astype(np.uint8)).region_size.size)
    if own and size != mask.shape:
        resized = resize_masks(torch.from_numpy(mask)[None, None], size)[0, 0].numpy()
        left = int(anomalous_pixels(resized.astype(np.uint8)).region_size.size)
    return own, left


def doubts_of_category(category: Category, *, size: tuple[int, int] | None) -> list[str]:
    """Say what cannot be right about a category, or is not measured as it seems; real large defects exist.

    Args:
        category: Its test files are read once, so that a damaged one is told before training and not hours later.
        size: Height and width in pixels that maps and masks are compared at; None for the masks' own.

    Returns:
        Sentences with numbers, mostly none; one for each kind of doubt.

    Raises:
        UserError: As :func:`inspect`.
    """
    found = inspect_all(category.test, size=size)
    paths = [sample.path for sample in category.train[:LOOKED_AT]]
    with decoding_pool(paths) as pool:
        peaks = list(pool.map(peak_of_16_bit, paths))
    return [*doubts_of_nothing(found), *doubts_of_content(found, peaks), *doubts_of_files(category)]


def doubts_of_files(category: Category) -> list[str]:
    """Say which pictures below a category's folder are not used.

    Args:
        category: Its images.

    Returns:
        Sentences, mostly none.
    """
    used = {path for sample in (*category.train, *category.test) for path in (sample.path, sample.mask_path) if path}
    files = files_below(category.root)
    counts: dict[str, int] = defaultdict(int)
    for path in files:
        place = path.relative_to(category.root).parent
        known = path in used or path.parent in used or {*place.parts} & PUT_ASIDE
        if path.suffix.lower() in IMAGE_EXTENSIONS and not known:
            counts[f"{place.as_posix()}/"] += 1
    total = sum(counts.values())
    shown = ", ".join(f"{number} in {place}" for place, number in sorted(counts.items())[:5])
    are = f"{total} image{' is' if total == 1 else 's are'}"
    unused = [f"{are} not used, below {category.root}: {shown}{', ...' if len(counts) > 5 else ''}"] if total else []
    return [*unused, *tell_unread(files)]


PUT_ASIDE = frozenset({"ground_truth", "masks", "validation"})
"""Folders of masks, whose pairing readers check, and of MVTec LOCO's validation images, left out by default."""


def doubts_of_counts(category: Category, *, held_out: int, wanted: float) -> list[str]:
    """Say what so few images, or good ones only, cannot give.

    Args:
        category: Its images.
        held_out: How many normal training images are held out for the thresholds.
        wanted: Wanted share of false alarms, in (0, 1).

    Returns:
        Sentences, mostly none.
    """
    told = [] if any(sample.label for sample in category.test) else [NO_ANOMALIES]
    if 0 < held_out < FEW_HELD_OUT:
        few = f"{held_out} of {len(category.train)} training images {'is' if held_out == 1 else 'are'} held out"
        told.append(
            f"{few} for the threshold, too few to promise evaluation.false_alarm_rate={wanted:g}: take more good "
            "images, or raise data.held_out_fraction or evaluation.false_alarm_rate"
        )
    return told


def doubts_of_content(found: Sequence[Inspected], peaks: Sequence[int | None] = ()) -> list[str]:
    """Say what ``data check`` says too, which names masks that mark nothing one by one.

    Args:
        found: What was inspected.
        peaks: Largest values of more images, as ``Inspected.peak``.

    Returns:
        Sentences.
    """
    told: dict[str, list[tuple[Inspected, str]]] = defaultdict(list)
    for one in found:
        if one.mask is not None and (doubt := _doubt(one.mask)):
            told[doubt[0]].append((one, doubt[1]))
    doubted = {one.sample.path for group in told.values() for one, _ in group}
    told["far beyond"] = _far_beyond([one for one in found if one.mask and one.sample.path not in doubted])
    told["turned"] = [(one, one.turned) for one in found if one.turned]
    sentences = [_tell(told[kind], ENDS[kind]) for kind in ENDS if told[kind]]
    return [*sentences, *_doubts_of_range([*(one.peak for one in found), *peaks])]


ENDS = {
    "ground": "so the whole image counts as defect; the ground must be 0",
    "whole": "look whether it is the right file",
    "grey": "as JPEG compression or a photograph leaves; every value above 0 counts as defect",
    "inverted": "it looks inverted; the ground must be 0 and the defect above 0",
    "most": "look whether the defect is that large",
    "far beyond": "look whether the defect is that large",
    "turned": "and its mask is not, so that they may not fit; save both upright",
    "empty": "so the pixels of that defect count as normal ones",
    "lost": "so the pixels of that defect count as normal ones",
}
"""How the sentence about each kind ends; what comes before names a file and its numbers."""


def doubts_of_nothing(found: Sequence[Inspected]) -> list[str]:
    """Say which masks mark nothing, or fall into pieces, at the size that maps and masks are compared at.

    Args:
        found: What was inspected, with that size.

    Returns:
        Sentences.
    """
    masks = [(one, one.mask) for one in found if one.mask is not None]
    empty = [(one, "marks nothing,") for one, mask in masks if not mask.marked]
    lost = [(one, "marks nothing at the input size,") for one, mask in masks if mask.marked and mask.regions_left == 0]
    told = [_tell(group, ENDS[kind]) for kind, group in (("empty", empty), ("lost", lost)) if group]
    own, left = (sum(getattr(mask, name) or 0 for _, mask in masks) for name in ("regions", "regions_left"))
    if in_pieces := left > MORE_REGIONS * own:
        told.append(
            f"the {own} regions of the masks are {left} pieces at the input size, each of which counts in AUPRO"
        )
    if lost or in_pieces:
        told.append("evaluation.native_masks=true compares maps with masks at their own size")
    return told


def _doubt(mask: MaskFacts) -> tuple[str, str] | None:
    """Give the first kind of doubt that fits, and what is said of the mask; None without a doubt."""
    if mask.marked == mask.pixels:
        if mask.smallest < mask.largest:
            return "ground", f"has no pixel of 0 (values from {mask.smallest} to {mask.largest}),"
        return "whole", "marks the whole image;"
    soft = mask.faint <= FAINT_SHARE * mask.marked and mask.pale <= PALE_SHARE * mask.marked
    if mask.between >= GREY_VALUES and not soft:
        faint = f"{mask.faint:,} of {mask.marked:,} marked pixels below half of it"
        return "grey", f"has {mask.between} grey values between 0 and {mask.largest}, and {faint},"
    if mask.share > MOST and mask.border:
        return "inverted", f"marks most of the image and all of its border ({mask.shown});"
    return ("most", f"marks most of the image ({mask.shown});") if mask.share > MOST else None


def _far_beyond(found: Sequence[Inspected]) -> list[tuple[Inspected, str]]:
    """Give the masks that mark far more than the others of their type, and what is said of them."""
    types: dict[str, list[tuple[Inspected, MaskFacts]]] = defaultdict(list)
    for one in found:
        if one.mask is not None and one.mask.marked:
            types[one.sample.defect].append((one, one.mask))
    beyond = []
    for name, group in types.items():
        for one, mask in group if len(group) >= FEW_MASKS else []:
            times = mask.share / median(other.share for _, other in group if other is not mask)
            if mask.share > LARGE and times > FAR_BEYOND:
                beyond.append((one, f"marks {times:.0f} times the area of the other masks of {name} ({mask.shown});"))
    return beyond


def _doubts_of_range(peaks: Sequence[int | None]) -> list[str]:
    deep = [peak for peak in peaks if peak is not None]
    dark = [peak for peak in deep if peak < LITTLE_RANGE]
    if not dark:
        return []
    return [
        f"{len(dark)} of {len(deep)} 16-bit images use less than an eighth of their range (up to {max(dark):,} of "
        "65,535), so they are nearly black here; scale them all by the same factor beforehand"
    ]


def _tell(group: Sequence[tuple[Inspected, str]], end: str) -> str:
    """Make one sentence of all files of a kind; the first is named, with what is said of it."""
    one, said = group[0]
    subject = f"the image {one.sample.path}" if said == one.turned else f"the mask {one.sample.mask_path}"
    return f"{subject}{f' (and {len(group) - 1} more)' if len(group) > 1 else ''} {said} {end}"
