"""Looking a data folder over: what it holds, per split and type, and every file that is wrong."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from dmdd.core.errors import UserError
from dmdd.core.files import file_sha256
from dmdd.data.layout_inspection import READERS
from dmdd.data.layouts import (
    Category,
    Sample,
    list_categories,
    list_folder_categories,
    list_visa_categories,
    read_btad,
    read_folder,
    read_mvtec_ad,
    read_mvtec_loco,
    read_visa,
)
from dmdd.data.listing import (
    IMAGE_EXTENSIONS,
    UNREAD_EXTENSIONS,
    files_below,
    find_category,
    list_category_names,
)
from dmdd.data.plausibility import NO_ANOMALIES, Inspected, doubts_of_content, doubts_of_files, inspect

SIZES_SHOWN = 3
"""How many image sizes a row names before it only counts them."""


@dataclass(frozen=True)
class Layout:
    """How one data set is read.

    Args:
        read: Reader with the keywords `root`, `category` and `problems`.
        list_names: Lists the categories below a root.
        folder: Folder below the data folder; "." where the categories lie in it directly.

    Source: ours.
    """

    read: Callable[..., Category]
    list_names: Callable[[Path], list[str]]
    folder: str


LAYOUTS = {
    "mvtec_ad": Layout(partial(read_mvtec_ad, dataset="mvtec_ad"), list_categories, "mvtec_ad"),
    "mpdd": Layout(partial(read_mvtec_ad, dataset="mpdd"), list_categories, "mpdd"),
    "visa": Layout(read_visa, list_visa_categories, "visa"),
    "btad": Layout(read_btad, list_categories, "btad"),
    "mvtec_loco": Layout(read_mvtec_loco, list_categories, "mvtec_loco"),
    **{name: Layout(read, list_names, name) for name, (read, list_names) in READERS.items()},
    "demo": Layout(partial(read_mvtec_ad, dataset="demo"), list_categories, "demo"),
    "mvtec_layout": Layout(partial(read_mvtec_ad, dataset="mvtec_layout"), list_categories, "."),
    "folder": Layout(read_folder, list_folder_categories, "."),
}


def check_data(*, data_dir: Path | str, dataset: str | None = None, category: str = "all") -> tuple[list[str], int]:
    """Check every file of a data folder: listing, pairing, decoding, sizes of masks.

    Args:
        data_dir: The folder that holds the data sets.
        dataset: Name of one data set; None for all that are there.
        category: Name of one category; "all" for every one found.

    Returns:
        The report's lines and the number of problems in it.

    Raises:
        UserError: Nothing to check: unknown data set or category, missing folder.

    Source: ours.
    """
    data_dir = Path(data_dir)
    lines: list[str] = []
    count = 0
    for name, layout, root in _selected(data_dir, dataset=dataset):
        if category == "all":
            names = list_category_names(root=root, dataset=name, list_names=layout.list_names)
        else:
            find_category(root=root, category=category, dataset=name, list_names=layout.list_names)
            names = [category]
        for category_name in names:
            problems: list[str] = []
            try:
                found = layout.read(root=root, category=category_name, problems=problems)
            except UserError as error:  # nothing to go on with here; the other categories are still looked at
                problems.append(str(error))
                lines += [f"{name}/{category_name}  {(root / category_name).resolve()}", *_tell(problems)]
            else:
                lines += [f"{name}/{category_name}  {found.root.resolve()}", *_check_category(found, problems=problems)]
            count += len(problems)
    warnings = sum(line.startswith("  warning: ") for line in lines)
    told = f"{count} problem{'' if count == 1 else 's'} found" if count else "no problems found"
    lines.append(told + (f", {warnings} warning{'' if warnings == 1 else 's'}" if warnings else ""))
    return lines, count


def read_category(*, data_dir: Path, dataset: str, category: str) -> Category:
    """Read one category of a data set by name.

    Args:
        data_dir: The folder that holds the data sets.
        dataset: Name of the data set or of the layout.
        category: Name of the category.

    Returns:
        Its samples.

    Raises:
        UserError: There is no such data set or category, or it cannot be read.
    """
    _, layout, root = next(_selected(data_dir, dataset=dataset))
    return layout.read(root=root, category=category)


def _selected(data_dir: Path, *, dataset: str | None) -> Iterator[tuple[str, Layout, Path]]:
    if dataset is not None:
        if dataset not in LAYOUTS:
            raise UserError(f"unknown data set {dataset!r}: expected one of {', '.join(LAYOUTS)}")
        yield dataset, LAYOUTS[dataset], data_dir / LAYOUTS[dataset].folder
        return
    # A folder that holds images itself may be anything, so it is a category only where that data set is asked for.
    listers = {name: layout.list_names for name, layout in LAYOUTS.items()}
    listers["folder"] = partial(list_folder_categories, loose=False)
    present = [name for name, layout in LAYOUTS.items() if listers[name](data_dir / layout.folder)]
    if not present:
        raise UserError(
            f"no data set in {data_dir.resolve()}: expected one of the folders "
            f"{', '.join(layout.folder for layout in LAYOUTS.values() if layout.folder != '.')}; "
            "set --data-dir or DMDD_DATA"
        )
    for name in present:
        yield name, LAYOUTS[name], data_dir / LAYOUTS[name].folder


def _check_category(category: Category, *, problems: list[str]) -> list[str]:
    """Decode all files of a category; appends what is wrong to `problems`, returns the lines of the report."""
    samples = [*category.train, *category.test]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        checked = list(pool.map(_check_sample, samples))
    if len(category.train) == 1:
        problems.append(
            f"one training image, {category.train[0].path}: training needs two, since it holds one out for thresholds"
        )
    sizes = {sample: found.size if found else None for sample, (found, _, _) in zip(samples, checked, strict=True)}
    for _, _, told in checked:
        problems += told
    lines = [_row("train", "good", [sizes[sample] for sample in category.train], masks=None)]
    defects = sorted({sample.defect for sample in category.test}, key=lambda defect: (defect != "good", defect))
    for defect in defects:
        group = [sample for sample in category.test if sample.defect == defect]
        masks = None if defect == "good" else sum(sample.mask_path is not None for sample in group)
        lines.append(_row("test", defect, [sizes[sample] for sample in group], masks=masks))
    if not any(sample.mask_path for sample in category.test):
        anomalous = any(sample.label for sample in category.test)
        lines.append(
            "  note: anomalous images have no masks, so pixel metrics will be absent"
            if anomalous
            else f"  note: {NO_ANOMALIES}"
        )
    lines += _notes(category, digests=[digest for _, digest, _ in checked])
    doubts = doubts_of_content([found for found, _, _ in checked if found is not None])
    doubts += doubts_of_files(category)
    return lines + [f"  warning: {doubt}" for doubt in doubts] + _tell(problems)


def _tell(problems: list[str]) -> list[str]:
    return [f"  problem: {problem}" for problem in problems]


def _check_sample(sample: Sample) -> tuple[Inspected | None, str, list[str]]:
    """Return what an image and its mask hold, the digest of the image's bytes, and what is wrong with them."""
    digest = ""
    try:
        digest = file_sha256(sample.path)
        found = inspect(sample)
    except (UserError, OSError) as error:
        alone = _image_alone(sample)
        return alone, digest if alone else "", [str(error)]
    empty = found.mask is not None and not found.mask.marked
    return found, digest, [f"empty mask: {sample.mask_path} marks no pixel"] * empty


def _image_alone(sample: Sample) -> Inspected | None:
    """Look at an image whose mask cannot be used; None if it is the image that cannot."""
    try:
        return inspect(replace(sample, mask_path=None)) if sample.mask_path is not None else None
    except (UserError, OSError):
        return None


def _notes(category: Category, *, digests: list[str]) -> list[str]:
    """Name what is odd without being wrong: copies, test images that were trained on, files of unknown kinds."""
    notes = []
    train_digests = dict(zip(digests, category.train, strict=False))
    train_digests.pop("", None)
    copies = sum(1 for digest in digests[: len(category.train)] if digest) - len(train_digests)
    if copies:
        notes.append(f"  note: {copies} of {len(category.train)} training images have the same bytes as others")
    for sample, digest in zip(category.test, digests[len(category.train) :], strict=True):
        if digest in train_digests:
            notes.append(f"  note: {sample.path} has the same bytes as {train_digests[digest].path}")
    ignored = Counter(
        path.suffix.lower() or path.name
        for path in files_below(category.root)
        if path.suffix.lower() not in IMAGE_EXTENSIONS | UNREAD_EXTENSIONS
    )
    if ignored:
        notes.append(f"  note: passed over {', '.join(f'{n} x {kind}' for kind, n in sorted(ignored.items()))}")
    return notes


def _row(split: str, defect: str, sizes: list[tuple[int, int] | None], *, masks: int | None) -> str:
    counts = Counter(f"{size[1]} x {size[0]} px" for size in sizes if size is not None)
    named = [size for size, _ in counts.most_common(SIZES_SHOWN)]
    if len(counts) > SIZES_SHOWN:
        named.append(f"and {len(counts) - SIZES_SHOWN} more sizes")
    with_masks = "" if masks is None else f"{masks} masks"
    return f"  {split:<5}  {defect:<24} {len(sizes):>6} images  {with_masks:>10}  {', '.join(named)}".rstrip()
