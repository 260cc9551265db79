"""What a result records about the code that made it."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RECORDED_PACKAGES = ("dmdd", "torch", "torchvision", "lightning", "timm", "torchmetrics", "albumentations", "numpy")


def describe_versions() -> dict[str, str]:
    """List the versions that decide a result: Python's and the main packages'."""
    versions = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def git_commit() -> str | None:
    """Give the commit of the checkout this package runs from, with ``-dirty`` if files differ, or None outside one."""
    folder = Path(__file__).resolve().parents[1]
    if not (folder.parents[1] / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
