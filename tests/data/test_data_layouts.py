"""Every layout read from a generated tree; every way in which a tree can be wrong, with its message."""

import re
import shutil
import unicodedata
from pathlib import Path

import pytest
import trees

from dmdd.core.errors import UserError
from dmdd.data.check import LAYOUTS
from dmdd.data.images import read_mask
from dmdd.data.layouts import (
    Category,
    list_categories,
    list_folder_categories,
    list_visa_categories,
    read_btad,
    read_folder,
    read_mvtec_ad,
    read_mvtec_loco,
    read_visa,
)
from dmdd.data.listing import PUBLISHED, list_images, listing_digest, pool


def names(category: Category, split: str) -> list[str]:
    return [sample.path.relative_to(category.root).as_posix() for sample in getattr(category, split)]


def refused(message: str) -> "pytest.RaisesExc[UserError]":
    return pytest.raises(UserError, match=re.escape(message))


def test_mvtec_ad_gives_sorted_samples_with_masks_paired_by_name(tmp_path):
    folder = trees.mvtec_category(tmp_path)
    category = read_mvtec_ad(root=tmp_path, category="screw")
    assert (category.dataset, category.name, category.root, category.has_masks) == ("mvtec_ad", "screw", folder, True)
    assert names(category, "train") == ["train/good/000.png", "train/good/001.png", "train/good/002.png"]
    assert [(s.label, s.defect, s.mask_path and s.mask_path.name) for s in category.test] == [
        (1, "dent", "tiefe Delle ü.png"),
        (0, "good", None),
        (0, "good", None),
        (1, "scratch", "000_mask.png"),
        (1, "scratch", "001_mask.png"),
    ]
    assert {(s.label, s.defect, s.mask_path) for s in category.train} == {(0, "good", None)}


def test_same_layout_serves_mpdd_and_root_may_be_text(tmp_path):
    trees.mvtec_category(tmp_path, "metal_plate")
    assert read_mvtec_ad(root=str(tmp_path), category="metal_plate", dataset="mpdd").dataset == "mpdd"


def test_all_pools_categories_and_names_defects_apart(tmp_path):
    for seed, name in enumerate(("screw", "bottle")):
        trees.mvtec_category(tmp_path, name, seed=100 * seed)
    parts = [read_mvtec_ad(root=tmp_path, category=name) for name in ("bottle", "screw")]
    category = pool(parts, name="all")
    assert (category.name, category.root, len(category.train), len(category.test)) == ("all", tmp_path, 6, 10)
    assert (category.members, category.train_groups) == (("bottle", "screw"), [range(3), range(3, 6)])
    assert (parts[0].members, parts[0].train_groups) == ((), [range(3)])
    assert pool(parts[:1], name="all") is parts[0]
    assert names(category, "train")[0] == "bottle/train/good/000.png"
    assert [s.defect for s in category.test] == [
        *("bottle-dent", "good", "good", "bottle-scratch", "bottle-scratch"),
        *("screw-dent", "good", "good", "screw-scratch", "screw-scratch"),
    ]


def test_one_missing_mask_shifts_no_other_pair(tmp_path):
    folder = trees.mvtec_category(tmp_path)
    (folder / "ground_truth" / "scratch" / "000_mask.png").unlink()
    problems: list[str] = []
    category = read_mvtec_ad(root=tmp_path, category="screw", problems=problems)
    pairs = {s.path.name: s.mask_path and s.mask_path.name for s in category.test if s.defect == "scratch"}
    assert pairs == {"000.png": None, "001.png": "001_mask.png"}
    assert len(problems) == 1
    assert not category.has_masks


def test_name_in_other_unicode_form_is_the_same_name(tmp_path):
    folder = trees.mvtec_category(tmp_path)
    mask = folder / "ground_truth" / "dent" / "tiefe Delle ü.png"
    mask.rename(mask.with_name(unicodedata.normalize("NFD", mask.name)))
    category = read_mvtec_ad(root=tmp_path, category="screw")
    assert category.test[0].mask_path is not None


def test_masks_of_normal_images_and_other_train_folders_are_passed_over(tmp_path):
    folder = trees.mvtec_category(tmp_path)
    trees.write_mask(folder / "ground_truth" / "good" / "000_mask.png")
    trees.write_image(folder / "train" / "unsorted" / "000.png")
    category = read_mvtec_ad(root=tmp_path, category="screw")
    assert len(category.train) == 3
    assert all(s.mask_path is None for s in category.test if s.label == 0)


def test_categories_are_listed_sorted_and_only_those_with_a_train_folder(tmp_path):
    for name in ("screw", "bottle"):
        trees.mvtec_category(tmp_path, name)
    (tmp_path / "notes").mkdir()
    (tmp_path / ".cache" / "train").mkdir(parents=True)
    assert list_categories(tmp_path) == ["bottle", "screw"]
    assert list_categories(tmp_path / "nowhere") == []


def test_btad_reads_ok_and_ko_with_masks_of_any_format(tmp_path):
    trees.btad_category(tmp_path)
    category = read_btad(root=tmp_path, category="01")
    assert [(s.label, s.defect, s.mask_path and s.mask_path.name) for s in category.test] == [
        (1, "ko", "0000.bmp"),
        (1, "ko", "0001.png"),
        (0, "good", None),
    ]
    assert names(category, "train") == ["train/ok/0000.bmp", "train/ok/0001.bmp"]


def test_mvtec_loco_unites_the_masks_of_one_image(tmp_path):
    trees.loco_category(tmp_path)
    category = read_mvtec_loco(root=tmp_path, category="pushpins")
    assert names(category, "train") == ["train/good/000.png"]
    assert [s.defect for s in category.test] == [
        "good",
        "logical_anomalies",
        "logical_anomalies",
        "structural_anomalies",
    ]
    two_masks, one_mask = category.test[1].mask_path, category.test[2].mask_path
    assert two_masks is not None
    assert one_mask is not None
    union = read_mask(two_masks, size=(trees.SIDE, trees.SIDE))
    assert union.sum() == 4 * 4 + 2 * 10
    assert union[:4, :4].all()
    assert union[10:12, 10:20].all()
    assert read_mask(one_mask).sum() == 16


def test_mvtec_loco_adds_its_validation_images_on_request(tmp_path):
    trees.loco_category(tmp_path)
    category = read_mvtec_loco(root=tmp_path, category="pushpins", include_validation=True)
    assert names(category, "train") == ["train/good/000.png", "validation/good/000.png"]


def test_visa_follows_its_table(tmp_path):
    trees.visa_root(tmp_path)
    assert list_visa_categories(tmp_path) == ["candle", "pcb1"]
    category = read_visa(root=tmp_path, category="candle")
    assert names(category, "train") == ["Data/Images/Normal/0000.JPG", "Data/Images/Normal/0001.JPG"]
    assert [(s.path.name, s.label, s.defect, s.mask_path and s.mask_path.name) for s in category.test] == [
        ("000.JPG", 1, "anomaly", "000.png"),
        ("001.JPG", 1, "anomaly", "001.png"),
        ("0002.JPG", 0, "good", None),
    ]
    assert category.has_masks
    # Masks there hold the number of the defect type: 1 and 2 here.
    assert [read_mask(s.mask_path).sum() for s in category.test[:2]] == [36, 36]


def test_folder_reads_nested_images_and_masks_at_the_same_place(tmp_path):
    trees.folder_category(tmp_path)
    assert list_folder_categories(tmp_path) == ["bracket"]
    category = read_folder(root=tmp_path, category="bracket")
    anomalous = [s for s in category.test if s.label == 1]
    assert [(s.defect, s.path.name, s.mask_path.name) for s in anomalous] == [
        ("bad", "a.1.png", "a.1_mask.png"),
        ("crack", "b.tif", "b.png"),
        ("crack", "c.webp", "c_mask.png"),
    ]
    assert category.has_masks


def test_folder_holds_normal_images_out_by_name(tmp_path):
    folder = trees.folder_category(tmp_path)
    first = read_folder(root=tmp_path, category="bracket", test_fraction=0.4)
    held_out = {s.path for s in first.test if s.label == 0}
    assert held_out.isdisjoint(s.path for s in first.train)
    assert len(held_out) + len(first.train) == 10
    trees.write_image(folder / "good" / "shift 0" / "teil 99.bmp")
    second = read_folder(root=tmp_path, category="bracket", test_fraction=0.4)
    still = {s.path for s in second.test if s.label == 0} - {folder / "good" / "shift 0" / "teil 99.bmp"}
    assert still == held_out
    other = read_folder(root=tmp_path, category="bracket", test_fraction=0.4, seed=1)
    assert {s.path for s in other.test if s.label == 0} != held_out


def test_folder_takes_its_test_images_from_a_folder_of_their_own(tmp_path):
    folder = trees.folder_category(tmp_path)
    trees.write_image(folder / "good test" / "x.png")
    category = read_folder(root=tmp_path, category="bracket", test_good="good test")
    assert len(category.train) == 10
    assert [s.path.name for s in category.test if s.label == 0] == ["x.png"]


@pytest.mark.parametrize("masks", ["auto", None])
def test_folder_without_masks_says_so(tmp_path, masks):
    trees.folder_category(tmp_path, masks=masks is None)
    category = read_folder(root=tmp_path, category="bracket", masks=masks)
    assert not category.has_masks
    assert all(s.mask_path is None for s in category.test)


def test_folder_without_bad_images_tests_on_normal_ones(tmp_path):
    folder = trees.folder_category(tmp_path)
    shutil.rmtree(folder / "bad")
    with refused(f"mask without image: {folder / 'masks/a.1_mask.png'} (no folder {folder / 'bad'})"):
        read_folder(root=tmp_path, category="bracket")
    assert read_folder(root=tmp_path, category="bracket", bad=None).train
    shutil.rmtree(folder / "masks")
    category = read_folder(root=tmp_path, category="bracket")
    assert {s.label for s in category.test} == {0}
    assert not category.has_masks
    with refused(f"no folder {folder / 'defects'}: make it, or name another with dataset.layout.bad="):
        read_folder(root=tmp_path, category="bracket", bad="defects")  # a name that is given must exist


def test_images_in_the_category_itself_are_normal_ones(tmp_path):
    for number in range(10):
        trees.write_image(tmp_path / f"bracket/{number}.png", seed=number)
    assert list_folder_categories(tmp_path) == ["bracket"]
    assert list_folder_categories(tmp_path, loose=False) == []
    category = read_folder(root=tmp_path, category="bracket")
    assert len(category.train) + len(category.test) == 10
    assert {s.label for s in category.test} == {0}
    trees.write_image(tmp_path / "bracket/bad/x.png")
    category = read_folder(root=tmp_path, category="bracket")
    assert [s.path.name for s in category.test if s.label == 1] == ["x.png"]
    assert len(category.train) + len(category.test) == 11


@pytest.mark.parametrize(
    ("name", "bad", "words"),
    [
        ("Bad", False, "rename it to 'bad', or move it away"),
        ("Masks", True, "rename it to 'masks', or move it away"),
        ("GOOD", True, "rename it to 'good', or move it away"),
        ("defects", False, "rename it to 'bad' if these are defects, or move it away"),
    ],
)
def test_folders_that_may_be_meant_are_not_left_out(tmp_path, name, bad, words):
    trees.write_image(tmp_path / "bracket/good/0.png")
    trees.write_image(tmp_path / "bracket/good/1.png", seed=1)
    if bad:
        trees.write_image(tmp_path / "bracket/bad/0.png", seed=2)
    trees.write_image(tmp_path / "bracket" / name / "deep/0.png", seed=3)
    with refused(f"{tmp_path / 'bracket' / name} holds 1 image that would not be read: {words}"):
        read_folder(root=tmp_path, category="bracket")


@pytest.mark.parametrize("place", ["train/Good", "test/GOOD"])
def test_folders_beside_the_normal_ones_are_not_left_out(tmp_path, place):
    folder = trees.mvtec_category(tmp_path)
    trees.write_image(folder / place / "0.png")
    with refused(f"{folder / place} would not be read as normal images: rename it to 'good', or move it away"):
        read_mvtec_ad(root=tmp_path, category="screw")


def test_a_misnamed_folder_is_named_where_no_category_is_found(tmp_path):
    trees.write_image(tmp_path / "parts/bracket/Good/0.png")
    with refused(f"in the folder layout; rename {tmp_path / 'parts/bracket/Good'} to 'good'"):
        read_folder(root=tmp_path / "parts", category="bracket")
    trees.write_image(tmp_path / "mvtec/screw/Train/good/0.png")
    trees.mvtec_category(tmp_path / "mvtec", "nut")
    with refused(f"docs/data.md shows it); rename {tmp_path / 'mvtec/screw/Train'} to 'train'"):
        read_mvtec_ad(root=tmp_path / "mvtec", category="screw")


def test_missing_root_says_where_it_looked_and_how_to_get_the_data(tmp_path):
    with refused(
        f"no data folder {tmp_path / 'mvtec_ad'}: set data_dir=FOLDER or DMDD_DATA to the folder that holds mvtec_ad/, "
        f"or get the data: python -m dmdd.data prepare --dataset mvtec_ad --data-dir '{tmp_path}'"
    ):
        read_mvtec_ad(root=tmp_path / "mvtec_ad", category="screw")
    with refused(f"python -m dmdd.data demo --output '{tmp_path}'"):
        read_mvtec_ad(root=tmp_path / "demo", category="plate", dataset="demo")
    with refused(
        f"no data folder {tmp_path}/part: set data_dir=FOLDER or DMDD_DATA to the folder that holds your categories, "
        f"or get the data: put your images into '{tmp_path}/part/CATEGORY/good'"
    ):
        read_folder(root=tmp_path / "part", category="bracket")
    (tmp_path / "parts").mkdir()
    with refused(f"no data folder {tmp_path}/part; did you mean {tmp_path}/parts? set data_dir=FOLDER"):
        read_folder(root=tmp_path / "part", category="bracket")
    with refused(f"in the folder layout, as in {tmp_path}/parts/CATEGORY/good"):
        read_folder(root=tmp_path / "parts", category="bracket")
    with refused(f"put your images into '{tmp_path}/castings/CATEGORY/train/good'"):
        read_mvtec_ad(root=tmp_path / "castings", category="lid", dataset="castings")


def test_a_category_given_as_the_data_folder_is_told(tmp_path):
    folder = trees.mvtec_category(tmp_path / "castings")
    hint = f"; {folder} is a category itself: give data_dir={folder.parent} category={folder.name}"
    with refused(f"in the MVTec AD layout{hint}"):
        read_mvtec_ad(root=folder, category=folder.name, dataset=folder.name)
    folder = trees.folder_category(tmp_path)
    with refused(f"; {folder} is a category itself: give data_dir={tmp_path} category={folder.name}"):
        read_folder(root=folder, category=folder.name)


def test_the_other_layout_is_named_where_the_folder_has_it(tmp_path):
    trees.mvtec_category(tmp_path / "castings")
    with refused("in the folder layout; for what it holds give dataset=mvtec_layout"):
        read_folder(root=tmp_path / "castings", category="screw")
    trees.folder_category(tmp_path / "parts")
    with refused("in the MVTec AD layout; for what it holds give dataset=folder"):
        read_mvtec_ad(root=tmp_path / "parts", category="lid", dataset="parts")
    with refused(f"no data folder {tmp_path}/parts/mvtec_ad; for what {tmp_path}/parts holds give dataset=folder"):
        read_mvtec_ad(root=tmp_path / "parts/mvtec_ad", category="bracket")


def test_every_data_set_that_can_be_got_counts_as_published():
    assert {name for name, layout in LAYOUTS.items() if layout.folder != "."} == PUBLISHED


def test_root_without_categories(tmp_path):
    with refused(f"no category in {tmp_path}: it should hold one folder per category in the mvtec_ad layout"):
        read_mvtec_ad(root=tmp_path, category="screw")


def test_a_category_may_be_typed_in_another_unicode_form(tmp_path):
    stored = unicodedata.normalize("NFD", "prüfling")
    trees.mvtec_category(tmp_path, stored)
    found = read_mvtec_ad(root=tmp_path, category=unicodedata.normalize("NFC", stored))
    assert found.root == tmp_path / stored


@pytest.mark.parametrize("place", ["train/good/day 2", "test/scratch/day 2", "test/good/a/b"])
def test_images_that_lie_too_deep_are_told_and_not_left_out(tmp_path, place):
    folder = trees.mvtec_category(tmp_path)
    trees.write_image(folder / place / "777.png")
    outer = folder / "/".join(place.split("/")[:2])
    message = f"which this layout does not read: {folder / place / '777.png'} (move it to {outer})"
    with refused(message):
        read_mvtec_ad(root=tmp_path, category="screw")
    problems: list[str] = []
    read_mvtec_ad(root=tmp_path, category="screw", problems=problems)
    assert len(problems) == 1


def test_images_beside_the_folder_of_normal_ones_are_told(tmp_path):
    folder = trees.mvtec_category(tmp_path)
    trees.write_image(folder / "train/777.png")
    with refused(f"image outside the folder of normal images: {folder / 'train/777.png'}"):
        read_mvtec_ad(root=tmp_path, category="screw")


def test_a_folder_within_another_is_no_test_set(tmp_path):
    folder = trees.folder_category(tmp_path, masks=False)
    inner = "good/shift 0"
    with refused(f"{folder / inner / 'teil 0.bmp'} is among the training and the normal test images"):
        read_folder(root=tmp_path, category="bracket", test_good=inner)
    with refused("is among the normal test and the anomalous images: dataset.layout.good=, test_good= and bad= must"):
        read_folder(root=tmp_path, category="bracket", good="good/shift 1", test_good="bad/crack")
    problems: list[str] = []
    read_folder(root=tmp_path, category="bracket", test_good=inner, problems=problems)
    assert len(problems) == 5


def test_a_folder_of_good_images_among_the_bad_ones_is_told(tmp_path):
    folder = trees.folder_category(tmp_path, masks=False)
    trees.write_image(folder / "bad/good/0.png")
    with refused(f"an anomalous image of the type 'good': {folder / 'bad/good/0.png'}"):
        read_folder(root=tmp_path, category="bracket")


def test_a_listing_is_the_same_elsewhere_and_another_with_other_files(tmp_path):
    for name in ("here", "there"):
        trees.mvtec_category(tmp_path / name)
    here, there = (read_mvtec_ad(root=tmp_path / name, category="screw") for name in ("here", "there"))
    digest = listing_digest(here.train)
    assert digest == listing_digest(there.train)
    assert digest != listing_digest(here.train[:2])
    assert listing_digest(here.test) == listing_digest(there.test)
    with here.train[1].path.open("ab") as file:
        file.write(b"more")
    assert digest != listing_digest(here.train)
    here.train[1].path.unlink()
    assert digest != listing_digest(here.train)
    assert listing_digest(()) != digest


def test_a_link_to_what_is_not_there_is_refused(tmp_path):
    folder = trees.mvtec_category(tmp_path, "screw")
    link = folder / "train/good/zzz.png"
    link.symlink_to(tmp_path / "annex/zzz.png")
    with refused(f"{link} is a link to what is not there ({tmp_path}/annex/zzz.png)"):
        read_mvtec_ad(root=tmp_path, category="screw")


def test_unknown_category_lists_those_found_and_suggests_one(tmp_path):
    for name in ("screw", "bottle"):
        trees.mvtec_category(tmp_path, name)
    with refused(f"unknown category 'Scew': {tmp_path} has bottle, screw; did you mean 'screw'?"):
        read_mvtec_ad(root=tmp_path, category="Scew")
    with refused(f"unknown category '../x': {tmp_path} has bottle, screw"):
        read_mvtec_ad(root=tmp_path, category="../x")


def test_category_not_given(tmp_path):
    trees.mvtec_category(tmp_path)
    with refused(f"category is missing: give category=NAME; {tmp_path} has screw"):
        read_mvtec_ad(root=tmp_path, category=None)


def test_folder_of_another_layout(tmp_path):
    trees.mvtec_category(tmp_path)
    (tmp_path / "bottle").mkdir()
    with refused(f"{tmp_path / 'bottle'} is not in the mvtec_ad layout"):
        read_mvtec_ad(root=tmp_path, category="bottle")


def test_empty_train_folder(tmp_path):
    folder = trees.mvtec_category(tmp_path)
    for image in (folder / "train" / "good").glob("*.png"):
        image.unlink()
    with refused(f"no images in {folder / 'train' / 'good'}: training needs normal images there"):
        read_mvtec_ad(root=tmp_path, category="screw")


def test_no_test_images(tmp_path):
    folder = trees.mvtec_category(tmp_path)
    shutil.rmtree(folder / "test")
    shutil.rmtree(folder / "ground_truth")
    with refused(f"no test images in {folder / 'test'}: expected test/good and test/DEFECT folders with images"):
        read_mvtec_ad(root=tmp_path, category="screw")


def test_image_without_mask(tmp_path):
    folder = trees.mvtec_category(tmp_path)
    (folder / "ground_truth" / "scratch" / "001_mask.png").unlink()
    truth = folder / "ground_truth" / "scratch"
    with refused(
        f"image without mask: {folder / 'test' / 'scratch' / '001.png'} (expected {truth}/001_mask.png or 001.png)"
    ):
        read_mvtec_ad(root=tmp_path, category="screw")


def test_mask_without_image(tmp_path):
    folder = trees.mvtec_category(tmp_path)
    extra = trees.write_mask(folder / "ground_truth" / "scratch" / "007_mask.png")
    with refused(f"mask without image: {extra} (no image of that name in {folder / 'test' / 'scratch'})"):
        read_mvtec_ad(root=tmp_path, category="screw")


def test_masks_of_a_type_that_is_not_tested(tmp_path):
    folder = trees.mvtec_category(tmp_path)
    extra = trees.write_mask(folder / "ground_truth" / "bent" / "000_mask.png")
    with refused(f"mask without image: {extra} (no folder {folder / 'test' / 'bent'})"):
        read_mvtec_ad(root=tmp_path, category="screw")


def test_two_images_of_one_name(tmp_path):
    folder = trees.mvtec_category(tmp_path)
    trees.write_image(folder / "test" / "scratch" / "001.jpg")
    with refused(f"two images of one name: {folder / 'test' / 'scratch' / '001.jpg'} and 001.png; keep one of them"):
        read_mvtec_ad(root=tmp_path, category="screw")


def test_two_masks_of_one_name(tmp_path):
    folder = trees.mvtec_category(tmp_path)
    trees.write_mask(folder / "ground_truth" / "scratch" / "001_mask.bmp")
    with refused("two masks of one name"):
        read_mvtec_ad(root=tmp_path, category="screw")


def test_image_beside_the_type_folders(tmp_path):
    folder = trees.mvtec_category(tmp_path)
    stray = trees.write_image(folder / "test" / "000.png")
    with refused(f"image outside a type folder: {stray} (move it to test/good or test/DEFECT)"):
        read_mvtec_ad(root=tmp_path, category="screw")


def test_all_problems_are_collected_on_request(tmp_path):
    folder = trees.mvtec_category(tmp_path)
    (folder / "ground_truth" / "scratch" / "001_mask.png").unlink()
    trees.write_mask(folder / "ground_truth" / "bent" / "000_mask.png")
    trees.write_image(folder / "test" / "stray.png")
    problems: list[str] = []
    read_mvtec_ad(root=tmp_path, category="screw", problems=problems)
    kinds = [problem.split(":")[0] for problem in problems]
    assert kinds == ["image outside a type folder", "image without mask", "mask without image"]


def test_visa_table_missing(tmp_path):
    trees.visa_root(tmp_path).unlink()
    with refused(f"no split table {tmp_path / 'split_csv' / '1cls.csv'}: it comes with VisA as split_csv/1cls.csv"):
        read_visa(root=tmp_path, category="candle")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["object", "split", "image"]], "lacks the column(s) label, mask"),
        (
            [["candle", "val", "normal", "x", ""]],
            "line 2: split 'val', label 'normal'; expected train|test, normal|ano",
        ),
        ([["candle", "train", "anomaly", "x", "y"]], "line 2: an anomaly in the training split"),
        ([["candle", "test", "anomaly", "x", ""]], "image without mask: x ("),
        ([["candle", "train", "normal", "candle/none.JPG", ""]], "missing file: "),
        ([["pcb1", "train", "normal", "x", ""]], "no training images of 'candle' in "),
        ([["candle", "train", "normal", "candle/Data/Images/Normal/0000.JPG", ""]], "no test images of 'candle' in "),
    ],
)
def test_visa_table_wrong(tmp_path, rows, message):
    table = trees.visa_root(tmp_path)
    header = [] if rows[0][0] == "object" else [["object", "split", "label", "image", "mask"]]
    trees.write_table(table, [*header, *rows])
    with refused(message):
        read_visa(root=tmp_path, category="candle")


def test_visa_table_unreadable(tmp_path):
    trees.visa_root(tmp_path).write_bytes(b"object,split,label,image,mask\n\xff\xfe,,,,\n")
    with refused("cannot read split table"):
        read_visa(root=tmp_path, category="candle")


def test_visa_goes_on_after_a_bad_row(tmp_path):
    trees.visa_root(tmp_path)
    (tmp_path / "candle" / "Data" / "Images" / "Normal" / "0000.JPG").unlink()
    problems: list[str] = []
    category = read_visa(root=tmp_path, category="candle", problems=problems)
    assert len(category.train) == 1
    assert len(problems) == 1


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_folder_fraction_out_of_range(tmp_path, fraction):
    trees.folder_category(tmp_path)
    with refused(f"test_fraction is {fraction}: it must lie between 0 and 1"):
        read_folder(root=tmp_path, category="bracket", test_fraction=fraction)


def test_folder_with_too_few_normal_images(tmp_path):
    trees.write_image(tmp_path / "bracket" / "good" / "a.png")
    with refused(
        f"too few images in {tmp_path / 'bracket' / 'good'}: training and test need at least two images there"
    ):
        read_folder(root=tmp_path, category="bracket", bad=None)


def test_folder_named_but_absent(tmp_path):
    folder = trees.folder_category(tmp_path)
    for option in ("bad", "masks", "test_good"):
        with refused(f"no folder {folder / 'nowhere'}: make it, or name another with dataset.layout.{option}="):
            read_folder(root=tmp_path, category="bracket", **{option: "nowhere"})


def test_folder_with_empty_bad(tmp_path):
    folder = trees.folder_category(tmp_path, masks=False)
    shutil.rmtree(folder / "bad")
    (folder / "bad").mkdir()
    with refused(
        f"no images in {folder / 'bad'}: put anomalous images there, or set dataset.layout.bad=null to test without"
    ):
        read_folder(root=tmp_path, category="bracket")


def test_folder_without_any_test_image(tmp_path):
    folder = trees.folder_category(tmp_path)
    (folder / "empty").mkdir()
    with refused(f"no test images in {folder}: expected normal and anomalous images"):
        read_folder(root=tmp_path, category="bracket", bad=None, test_good="empty")


def test_loco_mask_folder_missing(tmp_path):
    folder = trees.loco_category(tmp_path)
    shutil.rmtree(folder / "ground_truth" / "logical_anomalies" / "000")
    with refused(f"image without mask: {folder / 'test' / 'logical_anomalies' / '000.png'}"):
        read_mvtec_loco(root=tmp_path, category="pushpins")


def test_paths_are_those_given(tmp_path, monkeypatch):
    trees.mvtec_category(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert read_mvtec_ad(root="data", category="screw").train[0].path == Path("data/screw/train/good/000.png")


def test_links_that_lead_back_up_are_not_followed(tmp_path):
    """Two of them would be followed 2 ** 40 times."""
    folder = trees.folder_category(tmp_path)
    before = list_images(folder / "good", nested=True)
    for name in ("a", "b"):
        (folder / "good" / name).symlink_to(folder / "good", target_is_directory=True)
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(before[0], tmp_path / "elsewhere" / "more.png")
    (folder / "good" / "c").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert list_images(folder / "good", nested=True) == [folder / "good" / "c" / "more.png", *before]
