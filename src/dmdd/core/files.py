"""Files: written as a whole or not at all, and known by their hash."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """Let a file be written beside its place and move it there when all of it is written.

    Args:
        file: Where to; its folder is made if needed.

    Yields:
        Where to write, ``file`` with ``.partial`` added. A reader of ``file`` sees the old content until the end.

    Raises:
        OSError: It cannot be written; the old file is still there.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
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
