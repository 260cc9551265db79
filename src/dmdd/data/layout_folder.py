"""Your own images: any folders of good, bad and mask images."""

import hashlib
from pathlib import Path

from dmdd.core.errors import UserError
from dmdd.data.listing import (
    NORMAL,
    Category,
    Sample,
    all_masked,
    find_category,
    list_folders,
    list_images,
    name_key,
    pair_masks,
    report,
)

ANOMALOUS = "bad"
"""Folder of anomalous images where no other is named; it may be missing."""


def list_folder_categories(root: Path | str, *, good: str = NORMAL, loose: bool = True) -> list[str]:
    """List the categories below a folder of one's own.

    Args:
        root: The folder that holds one folder per category; need not exist.
        good: Name of the folder of normal images in each.
        loose: Whether folders count that hold images themselves, which are all normal then.

    Returns:
        Names of the subfolders that hold `good`, or normal images, sorted.

    Source: ours.
    """
    return [folder.name for folder in list_folders(Path(root)) if _good_root(folder, good=good, loose=loose)]


def _good_root(folder: Path, *, good: str, loose: bool = True) -> Path | None:
    """Give the folder of normal images: `good`, or the category's own folder where it holds the images itself."""
    if (folder / good).is_dir():
        return folder / good
    return folder if loose and good == NORMAL and list_images(folder, problems=[]) else None


def read_folder(
    *,
    root: Path | str,
    category: str,
    good: str = NORMAL,
    bad: str | None = ANOMALOUS,
    masks: str | None = "auto",
    test_good: str | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    problems: list[str] | None = None,
) -> Category:
    """Read a category of one's own: `<category>/good`, `<category>/bad` and, where there are masks, `<category>/masks`.

    Normal images may also lie in `<category>` itself, and `bad` may be missing: then only normal images are tested. All
    folders may be nested. A defect is named after its first subfolder of `bad`, or "bad" where it lies in none. A
    mask lies at the same place below `masks` as its image below `bad`, as `<name>_mask` or `<name>` in any format.

    Args:
        root: The folder that holds one folder per category.
        category: Name of the category.
        good: Folder of normal images, below the category; without a folder `good` the images in the category itself.
        bad: Folder of anomalous images, below the category; None, or a folder `bad` that is missing, to test on normal
            images only.
        masks: Folder of masks, below the category; "auto" takes `masks` if it is there; None for no masks.
        test_good: Folder of normal test images; None holds `test_fraction` of `good` out for the test.
        test_fraction: Part of `good` held out, above 0 and below 1; at least one image, chosen by name and `seed` so
            that a new image moves no other one between the splits.
        seed: Seed of that choice.
        problems: None to raise at the first problem, or a list that collects them.

    Returns:
        The category; `has_masks` is False where there are no masks.

    Raises:
        UserError: Missing root or folder, unknown category, a fraction out of range, no images to train on or to
            test, an image without mask where there are masks, a mask without image.

    Source: ours.
    """
    folder = find_category(
        root=root,
        category=category,
        dataset="folder",
        list_names=lambda place: list_folder_categories(place, good=good),
    )
    good_root = _good_root(folder, good=good) or folder / good
    normals = list_images(good_root, nested=good_root != folder, problems=problems)
    good_only = bad == ANOMALOUS and not (folder / bad).is_dir()
    bad = None if good_only else bad
    if good_only and (strays := list_images(folder / "masks", nested=True, problems=[])):
        report(problems, f"mask without image: {strays[0]} (no folder {folder / ANOMALOUS})")
    _report_unread(folder, good_root, bad, masks, test_good, strict=good_only, problems=problems)
    if test_good is None:
        held_out = hold_out(normals, below=good_root, fraction=test_fraction, seed=seed)
        train = [path for path in normals if path not in held_out]
        test_normals = [path for path in normals if path in held_out]
    else:
        place = _existing(folder / test_good, option="test_good")
        train, test_normals = normals, list_images(place, nested=True, problems=problems)
    if not train:
        wanted = "at least two images" if test_good is None else "images"
        report(problems, f"too few images in {good_root}: training and test need {wanted} there")
    test = [Sample(path=path, label=0, defect=NORMAL, mask_path=None) for path in test_normals]
    if bad is not None:
        test += _read_bad(folder=folder, bad=bad, masks=masks, problems=problems)
    if not test:
        report(problems, f"no test images in {folder}: expected normal and anomalous images")
    _report_overlaps(train, test, problems=problems)
    return Category(
        dataset="folder",
        name=folder.name,
        root=folder,
        train=tuple(Sample(path=path, label=0, defect=NORMAL, mask_path=None) for path in train),
        test=tuple(test),
        has_masks=all_masked(test),
    )


def _report_unread(
    folder: Path, good_root: Path, *others: str | None, strict: bool, problems: list[str] | None
) -> None:
    """Report folders of images that no setting names but may mean: `Bad`, and without `bad` any other.

    What else is left out is warned of, since a category may hold folders that are put aside.
    """
    read = [good_root, folder / "masks", *(folder / name for name in others if name)]
    names = {NORMAL, ANOMALOUS, "masks", *(path.name.lower() for path in read)}
    for other in list_folders(folder):
        if any(path.is_relative_to(other) or (path.exists() and path.samefile(other)) for path in read):
            continue
        count = len(list_images(other, nested=True, problems=[]))
        misnamed = other.name.lower() in names and other.name not in names
        if count and (misnamed or strict):
            right = repr(other.name.lower()) if misnamed else f"{ANOMALOUS!r} if these are defects"
            shown = f"{count} image{'' if count == 1 else 's'}"
            report(problems, f"{other} holds {shown} that would not be read: rename it to {right}, or move it away")


def _report_overlaps(train: list[Path], test: list[Sample], *, problems: list[str] | None) -> None:
    """Report images that two of the folders hold: trained and tested on, or normal and anomalous at once."""
    used = {path.resolve(): "training" for path in train}
    for sample in test:
        name = "normal test" if sample.label == 0 else "anomalous"
        earlier = used.setdefault(sample.path.resolve(), name)
        if earlier != name:
            options = "dataset.layout.good=, test_good= and bad= must name folders apart"
            report(problems, f"{sample.path} is among the {earlier} and the {name} images: {options}")


def _read_bad(*, folder: Path, bad: str, masks: str | None, problems: list[str] | None) -> list[Sample]:
    bad_root = _existing(folder / bad, option="bad")
    images = list_images(bad_root, nested=True, problems=problems)
    if not images:
        report(
            problems,
            f"no images in {bad_root}: put anomalous images there, or set dataset.layout.bad=null to test without",
        )
    pairs: dict[Path, Path] = {}
    mask_root = _mask_root(folder, masks=masks)
    if mask_root is not None:
        pairs = pair_masks(
            images=images,
            image_root=bad_root,
            masks=list_images(mask_root, nested=True, problems=problems),
            mask_root=mask_root,
            problems=problems,
        )
    samples = []
    for path in images:
        parts = path.relative_to(bad_root).parts
        defect = parts[0] if len(parts) > 1 else bad_root.name
        if defect == NORMAL:
            report(problems, f"an anomalous image of the type {NORMAL!r}: {path} (name the folder after the defect)")
        samples.append(Sample(path=path, label=1, defect=defect, mask_path=pairs.get(path)))
    return samples


def _mask_root(folder: Path, *, masks: str | None) -> Path | None:
    if masks is None:
        return None
    if masks == "auto":
        return folder / "masks" if (folder / "masks").is_dir() else None
    return _existing(folder / masks, option="masks")


def _existing(folder: Path, *, option: str) -> Path:
    if not folder.is_dir():
        raise UserError(f"no folder {folder.absolute()}: make it, or name another with dataset.layout.{option}=")
    return folder


def hold_out(paths: list[Path], *, below: Path, fraction: float, seed: int) -> set[Path]:
    """Choose files or folders by the hash of their names, so that a new one moves no other from side to side.

    Args:
        paths: All of them.
        below: Folder from which their names count.
        fraction: Share of the range of hashes, above 0 and below 1.
        seed: Seed of the choice.

    Returns:
        Those held out: at least one, and not all where there are two.

    Raises:
        UserError: The fraction is out of range.

    Source: ours.
    """
    if not 0 < fraction < 1:
        raise UserError(f"test_fraction is {fraction}: it must lie between 0 and 1")
    if not paths:
        return set()
    ranks = {path: _rank(name_key(path, below=below), seed=seed) for path in paths}
    chosen = {path for path, rank in ranks.items() if rank < fraction}
    if len(chosen) == len(paths) > 1:
        chosen.remove(max(paths, key=lambda path: ranks[path]))
    return chosen or {min(paths, key=lambda path: ranks[path])}


def _rank(name: str, *, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
