"""Data sets of surface inspection that were published in shapes of their own: MVTec's newer ones, Real-IAD and others.

Some have no split for one-class learning. Then `test_fraction` of the normal images is held out by the hash of their
names, as in `read_folder`, and every anomalous image is tested.
"""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path, PurePosixPath

from dmdd.core.errors import UserError
from dmdd.data.images import read_mask
from dmdd.data.layout_folder import hold_out
from dmdd.data.listing import (
    NORMAL,
    Category,
    Sample,
    all_masked,
    find_category,
    list_folders,
    list_images,
    pair_masks,
    report,
)

Problems = list[str] | None

AITEX_NAME = re.compile(r"\d+_(\d+)_(\d+)$")  # image, defect, fabric


def list_mvtec_ad_2_categories(root: Path | str) -> list[str]:
    """List the subfolders that hold `test_public`, sorted."""
    return [folder.name for folder in list_folders(Path(root)) if (folder / "test_public").is_dir()]


def list_mvtec_3d_categories(root: Path | str) -> list[str]:
    """List the subfolders that hold `train/good/rgb`, sorted."""
    return [folder.name for folder in list_folders(Path(root)) if (folder / "train" / NORMAL / "rgb").is_dir()]


def list_real_iad_categories(root: Path | str) -> list[str]:
    """List the categories below `realiad_<size>` that hold `OK`, sorted."""
    sizes = [folder for folder in list_folders(Path(root)) if re.fullmatch(r"realiad_(\d+|raw)", folder.name)]
    return sorted({folder.name for size in sizes for folder in list_folders(size) if (folder / "OK").is_dir()})


def list_dagm_categories(root: Path | str) -> list[str]:
    """List the subfolders `Class1` to `Class10` that hold `Train/Label`, sorted by name."""
    return [folder.name for folder in list_folders(Path(root)) if (folder / "Train" / "Label").is_dir()]


def list_kolektor_sdd_categories(root: Path | str) -> list[str]:
    """Name the only category, `commutator`, where a folder `kos01` is there."""
    return ["commutator"] if any(folder.name.startswith("kos") for folder in list_folders(Path(root))) else []


def list_kolektor_sdd2_categories(root: Path | str) -> list[str]:
    """Name the only category, `surface`, where `train` and `test` hold images."""
    return ["surface"] if list_images(Path(root) / "train") and list_images(Path(root) / "test") else []


def list_bsdata_categories(root: Path | str) -> list[str]:
    """Name the only category, `ball_screw`, where `data` and `label` are there."""
    return ["ball_screw"] if (Path(root) / "data").is_dir() and (Path(root) / "label").is_dir() else []


def list_aitex_categories(root: Path | str) -> list[str]:
    """List the codes of the fabrics that `NODefect_images` shows, sorted."""
    images = list_images(Path(root) / "NODefect_images", nested=True, problems=[])
    return sorted({match[2] for image in images if (match := AITEX_NAME.match(image.stem))})


def read_mvtec_ad_2(
    *, root: Path | str, category: str, include_validation: bool = False, problems: Problems = None
) -> Category:
    """Read a category of MVTec AD 2 with its public test set.

    The shape: `train/good`, `validation/good`, `test_public/<good|bad>` and
    `test_public/ground_truth/bad/<name>_mask.png`. The two private test sets have no labels and are not read.

    Args:
        root: The data set's folder, which holds one folder per category.
        category: Name of the category.
        include_validation: Whether the official validation images, all normal, are trained on; else they are held out
            for the thresholds, which is what they are for.
        problems: None to raise at the first problem, or a list that collects them.

    Returns:
        The category; its only defect is "bad".

    Raises:
        UserError: Missing root, unknown category, no normal image to train on, no test images, an image without mask,
            a mask without image.

    Source: layout of MVTec AD 2 (Heckler-Kram et al., 2025).
    """
    folder = _find(root, category, "mvtec_ad_2", list_mvtec_ad_2_categories)
    train, validation = (_images([folder / split / NORMAL], problems) for split in ("train", "validation"))
    test = folder / "test_public"
    bad = _masked(test / "bad", test / "ground_truth" / "bad", defect="bad", problems=problems)
    found = _category("mvtec_ad_2", category, folder, train, [test / NORMAL], bad, problems)
    return _with_validation(found, validation, trained_on=include_validation)


def read_mvtec_3d(
    *, root: Path | str, category: str, include_validation: bool = False, problems: Problems = None
) -> Category:
    """Read the colour images of a category of MVTec 3D-AD.

    The shape: `train/good/rgb`, `validation/good/rgb`, `test/<defect>/rgb` and the masks in `test/<defect>/gt`, under
    the images' names. The point clouds in `xyz` are not read.

    Args:
        root: The data set's folder, which holds one folder per category.
        category: Name of the category.
        include_validation: As for `read_mvtec_ad_2`.
        problems: None to raise at the first problem, or a list that collects them.

    Returns:
        The category.

    Raises:
        UserError: As for `read_mvtec_ad_2`.

    Source: layout of MVTec 3D-AD (Bergmann et al., VISAPP 2022).
    """
    folder = _find(root, category, "mvtec_3d", list_mvtec_3d_categories)
    train, validation = (_images([folder / split / NORMAL / "rgb"], problems) for split in ("train", "validation"))
    types = [place for place in list_folders(folder / "test") if place.name != NORMAL]
    bad = [s for t in types for s in _masked(t / "rgb", t / "gt", defect=t.name, problems=problems)]
    found = _category("mvtec_3d", category, folder, train, [folder / "test" / NORMAL / "rgb"], bad, problems)
    return _with_validation(found, validation, trained_on=include_validation)


def read_real_iad(
    *,
    root: Path | str,
    category: str,
    size: int | str | None = None,
    split: str = "realiad_jsons",
    problems: Problems = None,
) -> Category:
    """Read a category of Real-IAD by its JSON table; every view of a part is an image of its own.

    The table, `<split>/<category>.json`, possibly in a further folder `realiad_jsons`, lists `image_path`, `mask_path`
    and `anomaly_class` for `train` and `test`, below `realiad_<size>/<category>`.

    Args:
        root: The data set's folder.
        category: Name of the category.
        size: Which of the published sizes: 256, 512, 1024 or "raw"; None for the largest that is there.
        split: Folder of the tables: `realiad_jsons` (all views), `realiad_jsons_sv` (one view),
            `realiad_jsons_fuiad_0.1` and so on.
        problems: None to raise at the first problem, or a list that collects them.

    Returns:
        The category; defects are named by their codes.

    Raises:
        UserError: Missing root, table or file, unknown category, a table that is none, an anomaly to train on, an
            anomalous image without mask, nothing to train on or to test.

    Source: layout of Real-IAD (Wang et al., CVPR 2024).
    """
    root = Path(root)
    _find(root, category, "real_iad", list_real_iad_categories)
    folder = _real_iad_folder(root, category, size)
    tables = [place / split / f"{category}.json" for place in (root, root / "realiad_jsons")]
    table = next((path for path in tables if path.is_file()), None)
    if table is None:
        raise UserError(
            f"no table {tables[0].absolute()}: unpack realiad_jsons.zip of Real-IAD there, or set dataset.layout.split="
        )
    try:
        content = json.loads(table.read_text(encoding="utf-8"))
        normal = content["meta"]["normal_class"]
        rows = [
            (part, row["image_path"], row["mask_path"], row["anomaly_class"])
            for part in _PARTS
            for row in content[part]
        ]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"cannot read {table}: no table of Real-IAD ({error})") from error
    found: dict[str, list[Sample]] = {part: [] for part in _PARTS}
    for part, image, mask, kind in rows:
        anomalous = kind != normal
        if anomalous and (part == "train" or not mask):
            report(problems, f"{table}: {image} is anomalous and {'to train on' if part == 'train' else 'has no mask'}")
            continue
        missing = [
            folder / name for name in (image, mask if anomalous else None) if name and not (folder / name).is_file()
        ]
        if missing:
            report(problems, f"missing file: {missing[0]} ({table.name} of Real-IAD names it)")
            continue
        defect, mask_path = (str(kind), folder / mask) if anomalous else (NORMAL, None)
        # The views of one part lie in a folder of its own.
        owner = PurePosixPath(image).parent.as_posix()
        found[part].append(Sample(folder / image, int(anomalous), defect, mask_path, part=owner))
    train = [sample.path for sample in found["train"]]
    good = [sample for sample in found["test"] if sample.label == 0]
    bad = [sample for sample in found["test"] if sample.label == 1]
    return _category("real_iad", category, folder, train, good, bad, problems)


_PARTS = ("train", "test")


def _real_iad_folder(root: Path, category: str, size: int | str | None) -> Path:
    found = {place.name.removeprefix("realiad_"): place / category for place in list_folders(root)}
    there = {name: folder for name, folder in found.items() if (folder / "OK").is_dir()}
    wanted = str(size) if size is not None else max(there, key=lambda name: int(name) if name.isdigit() else 0)
    if wanted not in there:
        raise UserError(
            f"no folder {root.absolute() / f'realiad_{wanted}' / category}: size= may be {', '.join(there)}"
        )
    return there[wanted]


def read_dagm(*, root: Path | str, category: str, problems: Problems = None) -> Category:
    """Read a class of DAGM 2007: what `Label` has no `<name>_label.PNG` for is normal; its masks are coarse ellipses.

    Args:
        root: The data set's folder, which holds `Class1` to `Class10`.
        category: Name of the class.
        problems: None to raise at the first problem, or a list that collects them.

    Returns:
        The category: the normal images of `Train` to learn from, all of `Test`; its only defect is "defect".

    Raises:
        UserError: Missing root, unknown category, a mask without image, nothing to train on or to test.

    Source: layout of DAGM 2007 (Wieler and Hahn).
    """
    folder = _find(root, category, "dagm", list_dagm_categories)
    good: dict[str, list[Path]] = {}
    bad: list[Sample] = []
    for part in ("Train", "Test"):
        images = {path.stem: path for path in list_images(folder / part, problems=problems)}
        masks = {path.stem.removesuffix("_label"): path for path in list_images(folder / part / "Label")}
        for name in sorted(masks.keys() - images.keys()):
            report(problems, f"mask without image: {masks[name]} (no image {name} in {folder / part})")
        good[part] = [path for name, path in images.items() if name not in masks]
        if part == "Test":
            bad = [Sample(path, 1, "defect", masks[name]) for name, path in images.items() if name in masks]
    return _category("dagm", category, folder, good["Train"], _normal(good["Test"]), bad, problems)


def read_kolektor_sdd(
    *, root: Path | str, category: str, test_fraction: float = 0.2, seed: int = 0, problems: Problems = None
) -> Category:
    """Read KolektorSDD: `kos01` to `kos50`, each with `Part0.jpg` and `Part0_label.bmp` and so on.

    An image whose label marks nothing is normal. A commutator lies on one side of the split with all its images.

    Args:
        root: The data set's folder.
        category: `commutator`.
        test_fraction: Part of the commutators held out, above 0 and below 1.
        seed: Seed of that choice.
        problems: None to raise at the first problem, or a list that collects them.

    Returns:
        The category; its only defect is "defect".

    Raises:
        UserError: Missing root, unknown category, an image without label, nothing to train on or to test.

    Source: layout of KolektorSDD (Tabernik et al., 2020); the split is ours.
    """
    root = Path(root)
    _find(root, category, "kolektor_sdd", list_kolektor_sdd_categories)
    items = [folder for folder in list_folders(root) if folder.name.startswith("kos")]
    held_out = hold_out(items, below=root, fraction=test_fraction, seed=seed)
    good, bad = _by_label(items, suffix="_label", problems=problems)
    train = [path for path in good if path.parent not in held_out]
    test = [path for path in good if path.parent in held_out]
    return _category("kolektor_sdd", category, root, train, _normal(test), bad, problems)


def read_kolektor_sdd2(*, root: Path | str, category: str, problems: Problems = None) -> Category:
    """Read KolektorSDD2: `train` and `test`, each with `10000.png` and `10000_GT.png` and so on.

    An image whose label marks nothing is normal. The anomalous images of `train` are left out.

    Args:
        root: The data set's folder.
        category: `surface`.
        problems: None to raise at the first problem, or a list that collects them.

    Returns:
        The category; its only defect is "defect".

    Raises:
        UserError: Missing root, unknown category, an image without label, nothing to train on or to test.

    Source: layout and split of KolektorSDD2 (Bozic et al., 2021).
    """
    root = Path(root)
    _find(root, category, "kolektor_sdd2", list_kolektor_sdd2_categories)
    train, _ = _by_label([root / "train"], suffix="_GT", problems=problems)
    test, bad = _by_label([root / "test"], suffix="_GT", problems=problems)
    return _category("kolektor_sdd2", category, root, train, _normal(test), bad, problems)


def read_bsdata(
    *, root: Path | str, category: str, test_fraction: float = 0.2, seed: int = 0, problems: Problems = None
) -> Category:
    """Read BSData: images in `data`, and for those with pitting the outlines in `label/<name>.json`.

    Args:
        root: The data set's folder, a clone of its repository.
        category: `ball_screw`.
        test_fraction: Part of the normal images held out, above 0 and below 1.
        seed: Seed of that choice.
        problems: None to raise at the first problem, or a list that collects them.

    Returns:
        The category; its only defect is "pitting".

    Raises:
        UserError: Missing root, unknown category, an outline without image, nothing to train on or to test.

    Source: layout of BSData (Schlagenhauf et al., 2021); the split is ours, its authors' is for segmentation.
    """
    root = Path(root)
    _find(root, category, "bsdata", list_bsdata_categories)
    images = {path.stem: path for path in list_images(root / "data", problems=problems)}
    labels = {path.stem: path for path in sorted((root / "label").glob("*.json"))}
    for name in sorted(labels.keys() - images.keys()):
        report(problems, f"mask without image: {labels[name]} (no image {name} in {root / 'data'})")
    bad = [Sample(path, 1, "pitting", labels[name]) for name, path in images.items() if name in labels]
    good = [path for name, path in images.items() if name not in labels]
    held_out = hold_out(good, below=root, fraction=test_fraction, seed=seed)
    train, test = [p for p in good if p not in held_out], [p for p in good if p in held_out]
    return _category("bsdata", category, root, train, _normal(test), bad, problems)


def read_aitex(
    *, root: Path | str, category: str, test_fraction: float = 0.2, seed: int = 0, problems: Problems = None
) -> Category:
    """Read a fabric of AITEX: strips of 4096 x 256 px, named by image, defect and fabric, as `0001_002_00.png`.

    The shape: `NODefect_images/**`, `Defect_images`, `Mask_images/<name>_mask.png`.

    Args:
        root: The data set's folder.
        category: Code of the fabric, such as `03`.
        test_fraction: Part of the normal strips held out, above 0 and below 1.
        seed: Seed of that choice.
        problems: None to raise at the first problem, or a list that collects them.

    Returns:
        The category; defects are named by their codes, as `c002`.

    Raises:
        UserError: Missing root, unknown category, an image without mask, nothing to train on or to test.

    Source: layout of AITEX (Silvestre-Blanes et al., 2019); the split is ours.
    """
    root = Path(root)
    _find(root, category, "aitex", list_aitex_categories)
    good = _of_fabric(list_images(root / "NODefect_images", nested=True, problems=problems), category)
    images = _of_fabric(list_images(root / "Defect_images", problems=problems), category)
    masks = [
        path
        for path in list_images(root / "Mask_images", problems=problems)
        if (match := AITEX_NAME.match(path.stem.rpartition("_mask")[0])) and match[2] == category
    ]
    pairs = pair_masks(
        images=list(images),
        image_root=root / "Defect_images",
        masks=masks,
        mask_root=root / "Mask_images",
        problems=problems,
    )
    bad = [Sample(path, 1, f"c{code}", pairs.get(path)) for path, code in images.items()]
    held_out = hold_out(list(good), below=root, fraction=test_fraction, seed=seed)
    train, test = [p for p in good if p not in held_out], [p for p in good if p in held_out]
    return _category("aitex", category, root, train, _normal(test), bad, problems)


def _of_fabric(paths: Iterable[Path], fabric: str) -> dict[Path, str]:
    """Give the images of a fabric with the codes of their defects."""
    matches = {path: AITEX_NAME.match(path.stem) for path in paths}
    return {path: match[1] for path, match in matches.items() if match and match[2] == fabric}


def _find(root: Path | str, category: str, dataset: str, list_names: Callable[[Path], list[str]]) -> Path:
    return find_category(root=root, category=category, dataset=dataset, list_names=list_names)


def _images(places: Iterable[Path], problems: Problems) -> list[Path]:
    return [path for place in places for path in list_images(place, problems=problems)]


def _normal(paths: Iterable[Path]) -> list[Sample]:
    return [Sample(path, 0, NORMAL, None) for path in paths]


def _masked(images: Path, masks: Path, *, defect: str, problems: Problems) -> list[Sample]:
    """Pair the images of one folder with the masks of another by name."""
    found = list_images(images, problems=problems)
    pairs = pair_masks(
        images=found,
        image_root=images,
        masks=list_images(masks, problems=problems),
        mask_root=masks,
        problems=problems,
    )
    return [Sample(path, 1, defect, pairs.get(path)) for path in found]


def _by_label(folders: Iterable[Path], *, suffix: str, problems: Problems) -> tuple[list[Path], list[Sample]]:
    """Tell normal images from anomalous ones by whether the label beside them marks anything."""
    good: list[Path] = []
    bad: list[Sample] = []
    for folder in folders:
        paths = list_images(folder, problems=problems)
        labels = {path.stem.removesuffix(suffix): path for path in paths if path.stem.endswith(suffix)}
        for path in paths:
            if path.stem.endswith(suffix):
                continue
            label = labels.get(path.stem)
            if label is None:
                report(problems, f"image without label: {path} (expected {path.stem}{suffix}.* beside it)")
            elif _marks(label, label.stat().st_mtime_ns):
                bad.append(Sample(path, 1, "defect", label))
            else:
                good.append(path)
    return good, bad


@lru_cache(maxsize=100_000)
def _marks(label: Path, written_ns: int) -> bool:
    """Remembered, since a run lists its files several times."""
    return bool(read_mask(label).any())


def _category(
    dataset: str,
    name: str,
    root: Path,
    train: list[Path],
    good: list[Path] | list[Sample],
    bad: list[Sample],
    problems: Problems,
) -> Category:
    """Put a category together; ``good`` are samples, or folders of them."""
    normal = [s for g in good for s in ([g] if isinstance(g, Sample) else _normal(list_images(g, problems=problems)))]
    if not train:
        report(problems, f"no normal images to train on in {root}: docs/data.md shows the layout of {dataset}")
    if not normal and not bad:
        report(problems, f"no test images in {root}: docs/data.md shows the layout of {dataset}")
    test = sorted([*normal, *bad], key=lambda sample: sample.path.as_posix())
    return Category(dataset, name, root, tuple(_normal(train)), tuple(test), has_masks=all_masked(test))


def _with_validation(category: Category, images: list[Path], *, trained_on: bool) -> Category:
    """Add the official validation images, to be held out if they are not trained on."""
    more = (replace(sample, held_out=not trained_on) for sample in _normal(images))
    return replace(category, train=(*category.train, *more))


READERS: dict[str, tuple[Callable[..., Category], Callable[[Path], list[str]]]] = {
    "mvtec_ad_2": (read_mvtec_ad_2, list_mvtec_ad_2_categories),
    "mvtec_3d": (read_mvtec_3d, list_mvtec_3d_categories),
    "real_iad": (read_real_iad, list_real_iad_categories),
    "kolektor_sdd": (read_kolektor_sdd, list_kolektor_sdd_categories),
    "kolektor_sdd2": (read_kolektor_sdd2, list_kolektor_sdd2_categories),
    "dagm": (read_dagm, list_dagm_categories),
    "bsdata": (read_bsdata, list_bsdata_categories),
    "aitex": (read_aitex, list_aitex_categories),
}
"""Reader, and what lists the categories of a root, by the name of the data set; all are read in the same way."""
