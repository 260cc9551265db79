"""Every file of conf/dataset/ is composed and instantiated against a generated tree."""

from pathlib import Path

import pytest
import trees

from dmdd.config.schema import TrainSettings
from dmdd.data.check import LAYOUTS
from dmdd.data.demo.generate import generate_demo
from dmdd.experiment.category import read_category

CONFIGS = sorted((Path(__file__).parents[2] / "conf" / "dataset").glob("*.yaml"))


def test_there_is_one_config_per_layout():
    assert {path.stem for path in CONFIGS} == set(LAYOUTS)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_reads_its_layout(tmp_path, path):
    category = trees.PUBLISHED[path.stem][0] if path.stem in trees.PUBLISHED else "plate"
    if path.stem == "demo":
        generate_demo(tmp_path, size=64, train=1, test_good=1, per_defect=1)
    elif path.stem != "mvtec_layout":
        trees.PUBLISHED[path.stem][1](tmp_path if path.stem == "folder" else tmp_path / path.stem)
    own = path.stem == "mvtec_layout"  # the folder holds the categories and names the data set
    data_dir = tmp_path / "castings" if own else tmp_path
    if own:
        trees.mvtec_category(data_dir, category)
    settings = TrainSettings.compose(dataset=path.stem, category=category, data_dir=data_dir)
    assert settings.dataset.name == ("castings" if own else path.stem)
    found = read_category(settings.dataset, settings.category)
    assert (found.dataset, found.name) == (settings.dataset.name, category)
    assert found.train
    assert found.test
    assert found.has_masks


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_opens_with_what_licence_and_how_to_get_it(path):
    comments = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert path.read_text(encoding="utf-8").startswith("# ")
    for start in ("# Licence of the data: ", "# Get it: ", f"# Use it: python -m dmdd.train dataset={path.stem} "):
        assert any(line.startswith(start) for line in comments), start
