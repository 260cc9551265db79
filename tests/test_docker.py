"""Dockerfiles: what they name is there, and they start what they should; no image is built here."""

import re
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
DOCKER = REPOSITORY / "docker"
FILES = sorted(DOCKER.glob("*.Dockerfile"))


def package_name(requirement: str) -> str:
    return re.match(r"[\w-]+", requirement)[0].lower()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_container_runs_without_root_and_tells_its_health(file):
    text = file.read_text()
    assert re.search(r"^USER dmdd$", text, re.MULTILINE)
    assert "HEALTHCHECK" in text
    (module,) = re.findall(r'^ENTRYPOINT \["python", "-m", "dmdd\.(\w+)"', text, re.MULTILINE)
    assert (REPOSITORY / f"src/dmdd/{module}.py").is_file()


def test_the_build_sees_all_files_that_it_copies():
    allowed = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert all((REPOSITORY / name).exists() for name in allowed)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {name.split("/")[0] for name in wheel["packages"]} | set(wheel["force-include"])
    assert needed | {"pyproject.toml", "README.md", "LICENSE"} <= allowed


def test_the_server_needs_only_packages_of_the_project_and_no_torch():
    listed = {
        package_name(line) for line in (DOCKER / "serve-requirements.txt").read_text().splitlines() if line[0] != "#"
    }
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    known = {package_name(entry) for entry in [*project["dependencies"], *extras["serve"], *extras["export"]]}
    assert listed <= known
    assert {package_name(entry) for entry in extras["serve"]} <= listed
    assert "torch" not in listed
