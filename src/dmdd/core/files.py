"""Files: written as a whole or not at all, under names that a file system takes, and known by their hash."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

LONGEST_NAME = 200
"""Bytes of a picture's name; most file systems take 255, of which number and endings need some."""
LONGEST_ON_DISK = 255


def picture_name(defect: str, stem: str) -> str:
    """Name the picture of a test image, without its number and ending.

    Args:
        defect: Type of the image.
        stem: The image's name without ending.

    Returns:
        Letters, digits, dots, dashes and underscores; cut where it is long.
    """
    name = re.sub(r"[^\w.-]+", "_", f"{defect}_{stem}")
    return name.encode(errors="replace")[:LONGEST_NAME].decode(errors="ignore")


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """Let a file be written beside its place and move it there when all of it is written.

    Args:
        file: Where to; its folder is made if needed.

    Yields:
        Where to write: ``file`` with ``.partial`` added, or another name where that is too long. A reader of
        ``file`` sees the old content until the end.

    Raises:
        OSError: It cannot be written; the old file is still there.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    if len(os.fsencode(partial.name)) > LONGEST_ON_DISK:  # the name alone may still be one that is taken
        partial = file.with_name(f".{hashlib.sha256(os.fsencode(file.name)).hexdigest()}.partial")
    try:
        yield partial
        partial.replace(file)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def write_atomically(file: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old one or the whole new one.

    Args:
        file: Where to; its folder is made if needed.
        content: Bytes, or text that is written as UTF-8; file names that are no UTF-8 keep their bytes.

    Raises:
        OSError: It cannot be written; the old file is still there.
    """
    with whole_file(file) as partial:
        partial.write_bytes(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)


def file_sha256(file: Path) -> str:
    """Compute the SHA-256 of a file's bytes, as hexadecimal digits."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def remove_if_empty(folder: Path) -> None:
    """Remove a folder, and its parents below the working folder, as far as they are empty.

    Args:
        folder: Such as the folder of a run that did not begin.
    """
    here = Path.cwd()
    folder = folder.absolute()
    while folder != here and here in folder.parents and folder.is_dir() and not os.listdir(folder):
        folder.rmdir()
        folder = folder.parent


YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Plain values only, in C where it is built so."""


def read_yaml(file: Path) -> Any:
    """Read a YAML file as plain values, without OmegaConf, whose loader is slower and follows references.

    Args:
        file: UTF-8.

    Returns:
        Dictionaries, lists and scalars.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no UTF-8, or no YAML of plain values.
        RecursionError: It is nested too deeply.
    """
    try:
        return yaml.load(file.read_text(encoding="utf-8"), Loader=YAML_LOADER)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
