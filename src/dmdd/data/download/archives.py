"""Unpacking archives that nobody vouches for: no path outside the target, no links, no more bytes than allowed."""

import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from dmdd.core.errors import UserError
from dmdd.data.listing import is_ignored

CHUNK_BYTES = 1 << 20
MAX_FILES = 100_000
"""More entries than any published data set here has (the largest, VisA, has 12 thousand)."""


def extract_archive(archive: Path, target: Path, *, max_bytes: int, max_files: int = MAX_FILES) -> int:
    """Unpack a tar (plain, gz, bz2, xz) or zip archive into an empty folder.

    Written by hand instead of with `extractall`: its filters differ between Python versions, do not limit sizes, and
    keep the read-only modes that the MVTec archives carry. Litter (`.DS_Store`, `__MACOSX`) is left out.

    Args:
        archive: The archive; its kind is told from its bytes, not from its name.
        target: An existing empty folder. After an error it holds what was unpacked so far.
        max_bytes: Most bytes to write in total, counted as they are written, whatever the headers claim.
        max_files: Most files and folders to accept.

    Returns:
        Number of files written.

    Raises:
        UserError: No archive, damaged, encrypted, a path that leaves the target, a link or device, a file twice,
            more bytes or entries than allowed, no space.

    Source: ours.
    """
    written = 0
    budget = max_bytes
    try:
        for count, (name, stream) in enumerate(_entries(archive), start=1):
            if count > max_files:
                raise UserError(f"refused {archive}: more than {max_files} entries")
            path = _safe_path(name, target=target, archive=archive)
            if path is None:
                continue
            if stream is None:
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            budget -= _copy(stream, path, limit=budget, archive=archive, max_bytes=max_bytes)
            written += 1
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError) as error:
        raise UserError(f"cannot unpack {archive}: it is damaged ({error}); fetch it again") from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise UserError(f"refused {archive}: it holds the path {error.filename} twice") from error
    except OSError as error:
        raise UserError(f"cannot unpack {archive}: {error.strerror or error}") from error
    return written


def _entries(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Yield name and stream of every entry, None for folders; refuses everything else on the way."""
    if not archive.is_file():
        raise UserError(f"no archive {archive.resolve()}")
    if zipfile.is_zipfile(archive):
        yield from _zip_entries(archive)
    elif tarfile.is_tarfile(archive):
        yield from _tar_entries(archive)
    else:
        raise UserError(f"cannot unpack {archive}: neither a tar nor a zip archive")


def _tar_entries(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    with tarfile.open(archive, mode="r:*") as tar:
        for member in tar:
            if member.isdir():
                yield member.name, None
            elif member.isreg():
                stream = tar.extractfile(member)
                assert stream is not None, "a regular file has content"
                yield member.name, stream
            else:
                raise UserError(f"refused {archive}: {member.name!r} is a link or a device")


def _zip_entries(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    with zipfile.ZipFile(archive) as bundle:
        for member in bundle.infolist():
            mode = member.external_attr >> 16
            if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_IFMT(mode) == 0):
                raise UserError(f"refused {archive}: {member.filename!r} is a link or a device")
            if not member.filename:
                raise UserError(f"cannot unpack {archive}: it is damaged (an entry without a name); fetch it again")
            if member.flag_bits & 0x1:
                raise UserError(f"cannot unpack {archive}: it is encrypted")
            if member.is_dir():
                yield member.filename, None
            else:
                with bundle.open(member) as stream:
                    yield member.filename, stream


def _safe_path(name: str, *, target: Path, archive: Path) -> Path | None:
    """Return where an entry goes, None for litter and for the root itself."""
    parts = PurePosixPath(name).parts
    # Backslashes and drive letters are harmless names on Linux and paths on Windows: refused everywhere alike.
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or re.match(r"[A-Za-z]:", name):
        raise UserError(f"refused {archive}: {name!r} leads outside the target folder")
    if not parts or any(is_ignored(Path(part)) for part in parts):
        return None
    return target.joinpath(*parts)


def _copy(stream: IO[bytes], path: Path, *, limit: int, archive: Path, max_bytes: int) -> int:
    copied = 0
    with path.open("xb") as file:
        while chunk := stream.read(CHUNK_BYTES):
            copied += len(chunk)
            if copied > limit:
                raise UserError(f"refused {archive}: it unpacks to more than {max_bytes / 1e9:g} GB")
            file.write(chunk)
    return copied


def free_bytes(folder: Path) -> int:
    """Return the free space of the disk that holds a folder.

    Args:
        folder: An existing folder.

    Returns:
        Bytes.

    Source: ours.
    """
    return shutil.disk_usage(folder).free
