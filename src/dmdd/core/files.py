"""Files: written as a whole or not at all, under names that a file system takes."""

import re
from contextlib import suppress
from pathlib import Path

LONGEST_NAME = 200
"""Bytes of a picture's name; most file systems take 255, of which number and endings need some."""


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


def write_atomically(file: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old one or the whole new one.

    Args:
        file: Where to; its folder is made if needed.
        content: Bytes, or text that is written as UTF-8; file names that are no UTF-8 keep their bytes.

    Raises:
        OSError: It cannot be written; the old file is still there.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    try:
        partial.write_bytes(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)
        partial.replace(file)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise
