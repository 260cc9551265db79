"""Files: written as a whole or not at all."""

import os
from contextlib import suppress
from pathlib import Path


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
