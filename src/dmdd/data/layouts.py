"""The published layouts: a folder in, a `Category` out.

Every reader takes flat keyword arguments and is a Hydra `_target_` of `conf/dataset/`. The first problem raises a
`UserError`; with a list as `problems` all of them are collected there and the reader goes on with what it has.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from dmdd.core.doors import find_opened
from dmdd.core.errors import UserError
from dmdd.data.layout_folder import list_folder_categories, read_folder
from dmdd.data.layout_inspection import (
    READERS,
    read_aitex,
    read_bsdata,
    read_dagm,
    read_kolektor_sdd,
    read_kolektor_sdd2,
    read_mvtec_3d,
    read_mvtec_ad_2,
    read_real_iad,
)
from dmdd.data.layout_visa import list_visa_categories, read_visa
from dmdd.data.listing import (
    NORMAL,
    Category,
    Sample,
    all_masked,
    find_category,
    list_category_names,
    list_folders,
    list_images,
    pair_masks,
    report,
)

__all__ = [
    "Category",
    "Sample",
    "category_names",
    "list_categories",
    "list_folder_categories",
    "list_visa_categories",
    "read_aitex",
    "read_bsdata",
    "read_btad",
    "read_dagm",
    "read_folder",
    "read_kolektor_sdd",
    "read_kolektor_sdd2",
    "read_mvtec_3d",
    "read_mvtec_ad",
    "read_mvtec_ad_2",
    "read_mvtec_loco",
    "read_real_iad",
    "read_visa",
]


def list_categories(root: Path | str) -> list[str]:
    """List the categories of a data set in the MVTec AD shape (mvtec_ad, mpdd, btad, mvtec_loco, demo).

    Args:
        root: The data set's folder; need not exist.

    Returns:
        Names of the subfolders that hold a folder `train` with folders in it, sorted.

    Source: ours.
    """
    return [folder.name for folder in list_folders(Path(root)) if list_folders(folder / "train")]


def category_names(layout: dict[str, str]) -> list[str]:
    """List the categories that a data set holds, whatever its layout.

    Args:
        layout: As under `dataset.layout` in the configuration: `_target_`, `root`, and for `read_folder` `good`.

    Returns:
        Names, sorted.

    Raises:
        UserError: The root is missing or holds no category, or the reader is of another package that has no function
            for it: beside ``read_NAME`` a ``list_NAME`` with the same arguments but for ``category``.
    """
    module, _, reader = layout["_target_"].rpartition(".")
    listers: dict[str, Callable[[Path], list[str]]] = {
        "read_mvtec_ad": list_categories,
        "read_btad": list_categories,
        "read_mvtec_loco": list_categories,
        "read_visa": list_visa_categories,
        "read_folder": partial(list_folder_categories, good=layout.get("good", "good")),
        **{f"read_{name}": lister for name, (_, lister) in READERS.items()},
    }
    if not module.startswith("dmdd.") or reader not in listers:
        return _list_opened(layout)
    root = Path(layout["root"])
    return list_category_names(root=root, dataset=layout.get("dataset", root.name), list_names=listers[reader])


def _list_opened(layout: dict[str, str]) -> list[str]:
    module, _, reader = layout["_target_"].rpartition(".")
    lister = f"{module}.{reader.replace('read_', 'list_', 1)}"
    try:
        function = find_opened(lister)
    except UserError as error:
        raise UserError(
            f"the categories of {layout['_target_']} are not known ({error}); list them: category=a,b,c"
        ) from None
    return sorted(function(**{name: value for name, value in layout.items() if name != "_target_"}))


def read_mvtec_ad(
    *, root: Path | str, category: str, dataset: str = "mvtec_ad", problems: list[str] | None = None
) -> Category:
    """Read a category of MVTec AD, or of a data set in its shape (MPDD, the demo).

    The shape: `<category>/train/good`, `<category>/test/good`, `<category>/test/<defect>` and
    `<category>/ground_truth/<defect>/<name>_mask.png`.

    Args:
        root: The data set's folder, which holds one folder per category.
        category: Name of the category.
        dataset: Name under which the result goes: "mvtec_ad", "mpdd", "demo".
        problems: None to raise at the first problem, or a list that collects them.

    Returns:
        The category.

    Raises:
        UserError: Missing root, unknown category, no normal image to train on, no test images, an image without
            mask, a mask without image.

    Source: layout of MVTec AD (Bergmann et al., IJCV 2021) and MPDD (Jezek et al., ICUMT 2021).
    """
    folder = find_category(root=root, category=category, dataset=dataset, list_names=list_categories)
    return _read_tree(folder=folder, dataset=dataset, normal=NORMAL, problems=problems)


def read_btad(*, root: Path | str, category: str, problems: list[str] | None = None) -> Category:
    """Read a category of BTAD: the MVTec AD shape with folders `ok` and `ko`, masks under the image's own name.

    Args:
        root: The data set's folder, which holds `01`, `02` and `03`.
        category: Name of the category.
        problems: None to raise at the first problem, or a list that collects them.

    Returns:
        The category; its only defect is "ko".

    Raises:
        UserError: As for `read_mvtec_ad`.

    Source: layout of BTAD (Mishra et al., ISIE 2021); images and masks there are BMP or PNG, so the ending is free.
    """
    folder = find_category(root=root, category=category, dataset="btad", list_names=list_categories)
    return _read_tree(folder=folder, dataset="btad", normal="ok", problems=problems)


def read_mvtec_loco(
    *, root: Path | str, category: str, include_validation: bool = False, problems: list[str] | None = None
) -> Category:
    """Read a category of MVTec LOCO AD, where each anomalous image has a folder of masks, one per region.

    The shape: `train/good`, `validation/good`, `test/<good|logical_anomalies|structural_anomalies>` and
    `ground_truth/<type>/<name>/000.png, 001.png, ...`; `read_mask` unites the masks of one image.

    Args:
        root: The data set's folder, which holds one folder per category.
        category: Name of the category.
        include_validation: Whether the official validation images, all normal, are added to the training images.
        problems: None to raise at the first problem, or a list that collects them.

    Returns:
        The category; the `mask_path` of its samples is a folder.

    Raises:
        UserError: As for `read_mvtec_ad`.

    Source: layout of MVTec LOCO AD (Bergmann et al., IJCV 2022). `dmdd.data.saturation` reads its
    saturation thresholds.
    """
    folder = find_category(root=root, category=category, dataset="mvtec_loco", list_names=list_categories)
    extra = [folder / "validation" / NORMAL] if include_validation else []
    return _read_tree(
        folder=folder, dataset="mvtec_loco", normal=NORMAL, problems=problems, mask_folders=True, extra_train=extra
    )


def _read_tree(
    *,
    folder: Path,
    dataset: str,
    normal: str,
    problems: list[str] | None,
    mask_folders: bool = False,
    extra_train: list[Path] | None = None,
) -> Category:
    """Read `train/<normal>`, `test/*` and `ground_truth/*` below one category's folder."""
    train_folder = folder / "train" / normal
    train = [path for place in [train_folder, *(extra_train or [])] for path in list_images(place, problems=problems)]
    if not train:
        report(problems, f"no images in {train_folder}: training needs normal images there")
    _report_unread(places=[train_folder, *(extra_train or []), *list_folders(folder / "test")], problems=problems)
    for other in [*list_folders(folder / "train"), *list_folders(folder / "test")]:
        if other.name.lower() == normal and other.name != normal:
            report(problems, f"{other} would not be read as normal images: rename it to {normal!r}, or move it away")
    for stray in list_images(folder / "train", problems=problems):
        report(problems, f"image outside the folder of normal images: {stray} (move it to {train_folder})")
    test_folder = folder / "test"
    for stray in list_images(test_folder, problems=problems):
        report(problems, f"image outside a type folder: {stray} (move it to test/{normal} or test/DEFECT)")
    test: list[Sample] = []
    for type_folder in list_folders(test_folder):
        images = list_images(type_folder, problems=problems)
        if type_folder.name == normal:
            test += [Sample(path=path, label=0, defect=NORMAL, mask_path=None) for path in images]
            continue
        mask_root = folder / "ground_truth" / type_folder.name
        pairs = pair_masks(
            images=images,
            image_root=type_folder,
            masks=list_folders(mask_root) if mask_folders else list_images(mask_root, problems=problems),
            mask_root=mask_root,
            problems=problems,
        )
        test += [Sample(path, 1, type_folder.name, pairs.get(path)) for path in images]
    _report_masks_without_images(folder=folder, normal=normal, problems=problems)
    if not test:
        report(problems, f"no test images in {test_folder}: expected test/{normal} and test/DEFECT folders with images")
    return Category(
        dataset=dataset,
        name=folder.name,
        root=folder,
        train=tuple(Sample(path=path, label=0, defect=NORMAL, mask_path=None) for path in train),
        test=tuple(test),
        has_masks=all_masked(test),
    )


def _report_unread(*, places: list[Path], problems: list[str] | None) -> None:
    """Report images that lie deeper than this layout has them: they would be left out without a word."""
    for place in places:
        for stray in sorted(set(list_images(place, nested=True, problems=[])) - set(list_images(place, problems=[]))):
            report(problems, f"image in a subfolder, which this layout does not read: {stray} (move it to {place})")


def _report_masks_without_images(*, folder: Path, normal: str, problems: list[str] | None) -> None:
    """Report mask folders of types that the test folder lacks."""
    for mask_root in list_folders(folder / "ground_truth"):
        if mask_root.name == normal or (folder / "test" / mask_root.name).is_dir():
            continue
        for mask in list_images(mask_root, nested=True, problems=problems):
            report(problems, f"mask without image: {mask} (no folder {folder / 'test' / mask_root.name})")
