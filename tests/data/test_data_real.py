"""Real data, where it is at hand: counts of the official splits."""

import os
from collections import Counter
from pathlib import Path

import pytest

from dmdd.data.check import check_data
from dmdd.data.layouts import read_mvtec_ad

DATA_DIR = Path(os.environ.get("DMDD_DATA") or Path(__file__).parents[3] / "shared" / "data")


def real(dataset: str, category: str) -> Path:
    root = DATA_DIR / dataset
    if not (root / category).is_dir():
        pytest.skip(f"no {dataset}/{category} in {DATA_DIR}: set DMDD_DATA to the folder that holds {dataset}/")
    return root


def test_screw_has_its_official_split():
    category = read_mvtec_ad(root=real("mvtec_ad", "screw"), category="screw")
    assert len(category.train) == 320
    assert Counter(sample.defect for sample in category.test) == {
        "good": 41,
        "manipulated_front": 24,
        "scratch_head": 24,
        "scratch_neck": 25,
        "thread_side": 23,
        "thread_top": 23,
    }
    assert sum(sample.mask_path is not None for sample in category.test) == 119
    assert category.has_masks
    assert all(s.mask_path.stem == f"{s.path.stem}_mask" for s in category.test if s.label == 1)


def test_metal_plate_has_its_published_counts():
    category = read_mvtec_ad(root=real("mpdd", "metal_plate"), category="metal_plate", dataset="mpdd")
    assert len(category.train) == 54
    assert Counter(sample.label for sample in category.test) == {0: 26, 1: 71}
    assert sum(sample.mask_path is not None for sample in category.test) == 71
    assert category.has_masks


@pytest.mark.parametrize(("dataset", "category"), [("mvtec_ad", "screw"), ("mpdd", "metal_plate")])
def test_every_real_file_is_sound(dataset, category):
    real(dataset, category)
    lines, problems = check_data(data_dir=DATA_DIR, dataset=dataset, category=category)
    assert problems == 0, "\n".join(lines)
