"""The VisA layout: the official split is a table, `split_csv/1cls.csv`."""

import csv
from pathlib import Path

from dmdd.core.errors import UserError
from dmdd.data.listing import NORMAL, Category, Sample, all_masked, find_category, list_folders, report

SPLIT_COLUMNS = ("object", "split", "label", "image", "mask")


def list_visa_categories(root: Path | str) -> list[str]:
    """List the categories of VisA as it is downloaded.

    Args:
        root: The data set's folder; need not exist.

    Returns:
        Names of the subfolders that hold `Data/Images`, sorted.

    Source: layout of VisA (Zou et al., ECCV 2022).
    """
    return [folder.name for folder in list_folders(Path(root)) if (folder / "Data" / "Images").is_dir()]


def read_visa(
    *, root: Path | str, category: str, split_file: str = "split_csv/1cls.csv", problems: list[str] | None = None
) -> Category:
    """Read a category of VisA by its split table.

    Each row names object, split (train or test), label (normal or anomaly), image and mask, both below the root; the
    mask is empty for normal images. Mask values number the defect types, so every value above 0 counts.

    Args:
        root: The data set's folder, which holds one folder per category and `split_csv`.
        category: Name of the category, the table's `object`.
        split_file: The table, below the root.
        problems: None to raise at the first problem, or a list that collects them.

    Returns:
        The category; its only defect is "anomaly", as the table has one label for all types.

    Raises:
        UserError: Missing root or table, unknown category, a row that cannot be used, a named file that is missing,
            an anomalous image without mask, no normal image to train on, no test images.

    Source: layout and split of VisA (Zou et al., ECCV 2022, one-class setup).
    """
    root = Path(root)
    folder = find_category(root=root, category=category, dataset="visa", list_names=list_visa_categories)
    table = root / split_file
    if not table.is_file():
        raise UserError(f"no split table {table.absolute()}: it comes with VisA as split_csv/1cls.csv")
    train: list[Sample] = []
    test: list[Sample] = []
    for number, row in _read_rows(table):
        if row["object"] != category:
            continue
        sample = _sample(row, root=root, where=f"{table}, line {number}", problems=problems)
        if sample is not None:
            (train if row["split"] == "train" else test).append(sample)
    if not train:
        report(problems, f"no training images of {category!r} in {table}: training needs normal images")
    if not test:
        report(problems, f"no test images of {category!r} in {table}")
    train.sort(key=lambda sample: sample.path.as_posix())
    test.sort(key=lambda sample: sample.path.as_posix())
    return Category("visa", category, folder, tuple(train), tuple(test), has_masks=all_masked(test))


def _read_rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the table's rows with their line numbers, every cell stripped."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in SPLIT_COLUMNS if name not in (reader.fieldnames or [])]
            if missing:
                raise UserError(f"split table {table} lacks the column(s) {', '.join(missing)}")
            return [(reader.line_num, {name: (row[name] or "").strip() for name in SPLIT_COLUMNS}) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read split table {table}: {error}") from error


def _sample(row: dict[str, str], *, root: Path, where: str, problems: list[str] | None) -> Sample | None:
    """Turn one row into a sample; None where the row is a problem that was noted."""
    if row["split"] not in ("train", "test") or row["label"] not in ("normal", "anomaly"):
        report(
            problems, f"{where}: split {row['split']!r}, label {row['label']!r}; expected train|test, normal|anomaly"
        )
        return None
    anomalous = row["label"] == "anomaly"
    if anomalous and row["split"] == "train":
        report(problems, f"{where}: an anomaly in the training split; training takes normal images only")
        return None
    if anomalous and not row["mask"]:
        report(problems, f"image without mask: {row['image']} ({where})")
        return None
    for name in (row["image"], row["mask"] if anomalous else ""):
        if name and not (root / name).is_file():
            report(problems, f"missing file: {root / name} ({where})")
            return None
    return Sample(
        path=root / row["image"],
        label=int(anomalous),
        defect="anomaly" if anomalous else NORMAL,
        mask_path=root / row["mask"] if anomalous else None,
    )
