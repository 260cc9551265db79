"""The oldest versions that ``make compat`` tests are those that ``pyproject.toml`` promises."""

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import dmdd

REPOSITORY = Path(__file__).resolve().parents[1]
TESTED_EXTRAS = ("serve", "tensorboard")


def test_the_oldest_versions_are_the_lower_bounds():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    promised = {}
    for line in [*project["dependencies"], *(entry for name in TESTED_EXTRAS for entry in extras[name])]:
        requirement = Requirement(line)
        (bound,) = (Version(s.version) for s in requirement.specifier if s.operator == ">=")
        promised[requirement.name] = bound
    pinned = {}
    for line in (REPOSITORY / "constraints-oldest.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, _, version = line.partition("==")
            pinned[name] = Version(version)
    assert pinned.keys() == promised.keys()
    for name, version in pinned.items():
        # "4.10" is met first by 4.10.0.82: opencv numbers its wheels in a fourth place.
        length = len(promised[name].release)
        assert version.release[:length] == promised[name].release, name
        assert not any(version.release[length:]) or name == "opencv-python-headless", name


def test_constraints_name_no_address():
    for name in ("constraints.txt", "constraints-oldest.txt"):
        for line in (REPOSITORY / name).read_text().splitlines():
            assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.+]+", line), line


def test_the_citation_names_this_version():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == dmdd.__version__
    assert citation["preferred-citation"]["doi"] == "10.1145/3664647.3681669"
