"""What a layout is made of: samples, categories, file listings and pairing by name."""

import difflib
import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from dmdd.core.errors import UserError

IMAGE_EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"})
"""File name endings, in lower case, that count as images; other files (licences, Thumbs.db) are passed over."""

UNREAD_EXTENSIONS = frozenset(
    {
        *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".jfif", ".jpe", ".psd", ".tga", ".dds", ".exr", ".hdr"),
        *(".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw", ".x3f"),
        *(".dcm", ".fits", ".pbm", ".pnm", ".pfm", ".pcx", ".sgi", ".ico", ".apng"),
    }
)
"""Endings, in lower case, of pictures that are not read; that they were passed over is said."""

NORMAL = "good"
"""The `defect` of every normal sample, whatever its folder is called."""


PUBLISHED = frozenset(
    {
        *("mvtec_ad", "mpdd", "visa", "btad", "mvtec_loco", "mvtec_ad_2", "mvtec_3d", "real_iad", "kolektor_sdd"),
        *("kolektor_sdd2", "dagm", "bsdata", "aitex", "demo"),
    }
)
"""Data sets that can be got; every other name is of data of one's own."""

LAYOUT_FOLDERS = frozenset({"train", "test", "ground_truth", "good", "bad", "masks", "ok", "ko"})
"""Names that layouts are made of, as they are to be written."""


@dataclass(frozen=True)
class Sample:
    """One image of a category.

    Args:
        path: The image file.
        label: 0 normal, 1 anomalous.
        defect: Type of the defect, "good" for normal images.
        mask_path: The mask file (MVTec LOCO: the folder of masks whose union counts); None for normal images and
            where the data set has no masks.
        category: Name of its category where several are pooled, else empty.
        part: Of several views of one part, what names the part; else empty.
        held_out: Of a normal image to learn from: whether the data set sets it apart for thresholds.

    Source: ours.
    """

    path: Path
    label: int
    defect: str
    mask_path: Path | None
    category: str = ""
    part: str = ""
    held_out: bool = False


@dataclass(frozen=True)
class Category:
    """The samples of one category, sorted by path; or of several pooled, one after the other.

    Args:
        dataset: Name of the data set, such as "mvtec_ad".
        name: Name of the category; of several pooled what named them, such as "all" or "screw,cable".
        root: The category's folder; the folder that holds all of theirs where several are pooled.
        train: Normal images to learn from.
        test: Normal and anomalous images.
        has_masks: Whether every anomalous test image has a mask; False where there is no anomalous image.

    Source: ours.
    """

    dataset: str
    name: str
    root: Path
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    has_masks: bool

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the categories that are pooled; none in a category by itself."""
        return tuple(dict.fromkeys(sample.category for sample in self.train if sample.category))

    @property
    def train_groups(self) -> list[range]:
        """Which of the training images are of each category: one range for each."""
        starts, groups = 0, []
        for _, samples in groupby(self.train, key=lambda sample: sample.category):
            count = len(list(samples))
            groups.append(range(starts, starts + count))
            starts += count
        return groups


def pool(categories: Sequence[Category], *, name: str) -> Category:
    """Put several categories of a data set together, for one model.

    Args:
        categories: At least one; a single one stays as it is.
        name: What names them.

    Returns:
        Their samples in this order, each with the name of its category; a defect is named `<category>-<defect>`.
    """
    first, *others = categories
    if not others:
        return first

    def known(sample: Sample, category: str) -> Sample:
        defect = sample.defect if sample.label == 0 else f"{category}-{sample.defect}"
        return replace(sample, category=category, defect=defect)

    return Category(
        dataset=first.dataset,
        name=name,
        root=Path(os.path.commonpath([category.root for category in categories])),
        train=tuple(known(sample, category.name) for category in categories for sample in category.train),
        test=tuple(known(sample, category.name) for category in categories for sample in category.test),
        has_masks=all(category.has_masks for category in categories),
    )


def report(problems: list[str] | None, message: str) -> None:
    """Raise the problem as a `UserError`, or note it where a list is given to collect all of them.

    Args:
        problems: None to stop at the first problem, or the list to append to.
        message: One line: what is wrong and what would be right.

    Raises:
        UserError: `problems` is None.

    Source: ours.
    """
    if problems is None:
        raise UserError(message)
    problems.append(message)


def is_ignored(path: Path) -> bool:
    """Say whether a file or folder is litter that no layout means: hidden, or made by a file manager.

    Args:
        path: File or folder; only its name counts.

    Returns:
        True for `.DS_Store`, `._000.png`, `__MACOSX` and the like.

    Source: ours.
    """
    return path.name.startswith(".") or path.name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def tell_unread(paths: Sequence[Path]) -> list[str]:
    """Say that pictures of kinds that are not read were passed over.

    Args:
        paths: Files; those that are read are left out.

    Returns:
        One sentence with their counts, or none.

    Source: ours.
    """
    counts = Counter(path.suffix.lower() for path in paths if path.suffix.lower() in UNREAD_EXTENSIONS)
    if not counts:
        return []
    kinds = ", ".join(f"{number} x {kind}" for kind, number in sorted(counts.items()))
    total = sum(counts.values())
    return [
        f"{total} picture{'' if total == 1 else 's'} of a kind that is not read passed over ({kinds}); "
        "convert them to PNG, TIFF or JPEG"
    ]


def files_below(folder: Path) -> list[Path]:
    """List the visible files below a folder, at any depth.

    Args:
        folder: Where to look.

    Returns:
        The files' paths, sorted.

    Source: ours.
    """
    return [path for path in sorted(folder.rglob("*")) if not is_ignored(path) and path.is_file()]


def list_folders(folder: Path) -> list[Path]:
    """List the visible subfolders, sorted by name.

    Args:
        folder: Where to look; need not exist.

    Returns:
        The subfolders' paths.

    Raises:
        UserError: It may not be listed.

    Source: ours.
    """
    return sorted((path for path in _entries(folder) if path.is_dir() and not is_ignored(path)), key=lambda p: p.name)


def list_images(folder: Path, *, nested: bool = False, problems: list[str] | None = None) -> list[Path]:
    """List the visible image files, sorted by their path below the folder.

    Args:
        folder: Where to look; need not exist.
        nested: Whether to descend into visible subfolders; not into a link to a folder that the link lies in.
        problems: None to raise at the first link to what is not there, or a list that collects them.

    Returns:
        The files' paths.

    Raises:
        UserError: A folder may not be listed; a link to what is not there, where `problems` is None.

    Source: ours.
    """
    found = _images_below(folder, nested=nested, above=(), problems=problems)
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _images_below(folder: Path, *, nested: bool, above: tuple[Path, ...], problems: list[str] | None) -> list[Path]:
    wanted = [path for path in _entries(folder) if path.suffix.lower() in IMAGE_EXTENSIONS and not is_ignored(path)]
    for path in sorted(wanted):
        if path.is_symlink() and not path.exists():
            report(problems, f"{path} is a link to what is not there ({path.readlink()})")
    found = [path for path in wanted if path.is_file()]
    if nested:
        above = (*above, folder.resolve())
        for subfolder in list_folders(folder):
            # Two links that lead back up would double the listing at each of the 40 levels a system follows them.
            if not subfolder.is_symlink() or subfolder.resolve() not in above:
                found += _images_below(subfolder, nested=True, above=above, problems=problems)
    return found


def _entries(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise UserError(f"cannot list the folder {folder}: {error.strerror}") from error


def name_key(path: Path, *, below: Path) -> str:
    """Return the name by which an image and its mask find each other.

    Args:
        path: A file.
        below: The folder from which the name counts.

    Returns:
        The relative path without the ending of an image (a folder's name stays whole), in Unicode form NFC: file
        systems disagree on how an umlaut is stored.

    Source: ours.
    """
    relative = path.relative_to(below)
    if relative.suffix.lower() in IMAGE_EXTENSIONS:
        relative = relative.with_suffix("")
    return unicodedata.normalize("NFC", relative.as_posix())


def pair_masks(
    *,
    images: list[Path],
    image_root: Path,
    masks: list[Path],
    mask_root: Path,
    problems: list[str] | None,
) -> dict[Path, Path]:
    """Pair images with masks by name: `<name>_mask` first, then `<name>`, any image format.

    Args:
        images: Image files of defects.
        image_root: Folder from which their names count.
        masks: Mask files (or folders of masks).
        mask_root: Folder from which their names count.
        problems: See `report`.

    Returns:
        Mask of each image that has one.

    Raises:
        UserError: An image without mask, a mask without image, or two files of one name.

    Source: ours; paired by sorted position in RD4AD and PatchCore, which shifts all pairs after one missing mask.
    """
    by_name = _index(masks, below=mask_root, what="masks", problems=problems)
    pairs: dict[Path, Path] = {}
    missing: list[Path] = []
    for name, image in _index(images, below=image_root, what="images", problems=problems).items():
        mask = by_name.pop(f"{name}_mask", None) or by_name.pop(name, None)
        if mask is None:
            missing.append(image)
        else:
            pairs[image] = mask
    for image in missing:
        wanted = mask_root / image.relative_to(image_root).with_suffix("")
        report(problems, f"image without mask: {image} (expected {wanted}_mask.png or {wanted.name}.png)")
    for mask in by_name.values():
        report(problems, f"mask without image: {mask} (no image of that name in {image_root})")
    return pairs


def listing_digest(samples: Sequence[Sample]) -> str:
    """Tell by names and sizes whether files are still the same ones, without reading them.

    Args:
        samples: Of one category.

    Returns:
        SHA-256 over place below the folder that all share, size in bytes and defect of each, in their order. Equal
        for a copy elsewhere.

    Source: ours.
    """
    digest = hashlib.sha256()
    if samples:
        top = os.path.commonpath([sample.path.absolute().parent for sample in samples])
        for sample in samples:
            try:
                size = sample.path.stat().st_size
            except OSError:  # told by whoever reads it
                size = -1
            place = name_key(sample.path.absolute(), below=Path(top))
            digest.update(f"{place}\n{sample.path.suffix}\n{size}\n{sample.defect}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def all_masked(samples: list[Sample]) -> bool:
    """Say whether there are anomalous samples and each has a mask.

    Args:
        samples: Test samples.

    Returns:
        False as soon as one lacks its mask, and where none is anomalous.

    Source: ours.
    """
    masks = [sample.mask_path for sample in samples if sample.label == 1]
    return bool(masks) and all(mask is not None for mask in masks)


def find_category(*, root: Path | str, category: str, dataset: str, list_names: Callable[[Path], list[str]]) -> Path:
    """Find a category's folder or say what there is instead.

    Args:
        root: The data set's folder.
        category: Name of the category.
        dataset: Name of the data set.
        list_names: Lists the categories that a root holds.

    Returns:
        The category's folder.

    Raises:
        UserError: The root is missing or holds no category; the category is not given, not in it, or of another layout.

    Source: ours.
    """
    root = Path(root)
    names = list_category_names(root=root, dataset=dataset, list_names=list_names)
    # A category may be typed with another Unicode form of an umlaut than its folder was stored with.
    stored = {unicodedata.normalize("NFC", name): name for name in names}
    if (known := stored.get(unicodedata.normalize("NFC", str(category)))) is None:
        if category in (None, ""):
            raise UserError(f"category is missing: give category=NAME; {root.resolve()} has {', '.join(names)}")
        if (root / str(category)).is_dir():
            raise UserError(
                f"{(root / str(category)).resolve()} is not in the {dataset} layout (docs/data.md shows it)"
                f"{_misnamed(root / str(category))}"
            )
        close = difflib.get_close_matches(str(category).lower(), names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else _one_folder_up(root, category, list_names)
        raise UserError(f"unknown category {category!r}: {root.resolve()} has {', '.join(names)}{hint}")
    return root / known


def list_category_names(*, root: Path, dataset: str, list_names: Callable[[Path], list[str]]) -> list[str]:
    """List the categories below a root, of which there must be one.

    Args:
        root: The data set's folder.
        dataset: Name of the data set.
        list_names: Lists the categories that a root holds.

    Returns:
        Their names, sorted.

    Raises:
        UserError: The root is missing or holds no category.

    Source: ours.
    """
    place = root.resolve()
    own = dataset not in PUBLISHED
    if not root.is_dir():
        if not own and (layout := _own_layout(root.parent)):
            raise UserError(f"no data folder {place}; for what {place.parent} holds give dataset={layout}")
        there = list_folders(root.parent) if own and root.parent.is_dir() else []
        close = difflib.get_close_matches(root.name, [folder.name for folder in there], n=1)
        meant = f"; did you mean {place.parent / close[0]}?" if close else ""
        wanted = "the folder that holds your categories" if own else f"the folder that holds {root.name}/"
        raise UserError(
            f"no data folder {place}{meant or ':'} set data_dir=FOLDER or DMDD_DATA to {wanted}, "
            f"or get the data: {how_to_get(dataset, data_dir=place if own else place.parent)}"
        )
    names = list_names(root)
    if not names:
        hint = _misnamed(root) or _one_folder_up(root, root.name, list_names)
        if own and not hint and (other := _own_layout(root)) not in ("", dataset):
            hint = f"; for what it holds give dataset={other}"
        layout = dataset if dataset == "folder" or not own else "MVTec AD"
        if dataset == "folder":
            hint = hint or f", as in {place}/CATEGORY/good"
        raise UserError(f"no category in {place}: it should hold one folder per category in the {layout} layout{hint}")
    return names


def _one_folder_up(root: Path, category: str, list_names: Callable[[Path], list[str]]) -> str:
    """Tell that the given folder is itself the category."""
    place = root.resolve()
    if place.name == str(category) and place.name in list_names(place.parent):
        return f"; {place} is a category itself: give data_dir={place.parent} category={place.name}"
    return ""


def _own_layout(folder: Path) -> str:
    """Name the layout of one's own data that a folder has; empty if it has none."""
    inner = list_folders(folder) if folder.is_dir() else []
    if any((each / "train" / NORMAL).is_dir() for each in inner):
        return "mvtec_layout"
    return "folder" if any((each / NORMAL).is_dir() for each in inner) else ""


def _misnamed(folder: Path) -> str:
    """Name a folder that differs from one of a layout by its letters' case only."""
    inner = list_folders(folder) if folder.is_dir() else []
    for found in [*inner, *(deeper for each in inner for deeper in list_folders(each))]:
        if found.name.lower() in LAYOUT_FOLDERS and found.name not in LAYOUT_FOLDERS:
            return f"; rename {found} to {found.name.lower()!r}"
    return ""


def how_to_get(dataset: str, *, data_dir: Path) -> str:
    """Name the command that provides a data set.

    Args:
        dataset: Name of the data set.
        data_dir: The folder that is to hold it.

    Returns:
        A shell command.

    Source: ours.
    """
    if dataset == "demo":
        return f"python -m dmdd.data demo --output '{data_dir}'"
    if dataset == "folder":
        return f"put your images into '{data_dir}/CATEGORY/good' and '{data_dir}/CATEGORY/bad'"
    if dataset not in PUBLISHED:
        return f"put your images into '{data_dir}/CATEGORY/train/good' and '{data_dir}/CATEGORY/test'"
    if dataset in ("aitex", "bsdata", "real_iad"):
        return f"docs/datasets.md says where to get {dataset} and how to unpack it"
    return f"python -m dmdd.data prepare --dataset {dataset} --data-dir '{data_dir}'"


def _index(paths: list[Path], *, below: Path, what: str, problems: list[str] | None) -> dict[str, Path]:
    by_name: dict[str, Path] = {}
    for path in paths:
        name = name_key(path, below=below)
        if name in by_name:
            report(problems, f"two {what} of one name: {by_name[name]} and {path.name}; keep one of them")
        else:
            by_name[name] = path
    return by_name
