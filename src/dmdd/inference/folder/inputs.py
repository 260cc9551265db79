"""What ``input=`` names becomes a list of image files with the names that the output uses for them."""

import glob
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dmdd.core.errors import UserError
from dmdd.data.listing import IMAGE_EXTENSIONS, UNREAD_EXTENSIONS, is_ignored, tell_unread


@dataclass(frozen=True)
class Item:
    """One image file as it was when it was listed.

    Args:
        path: The file.
        name: Its path below the input folder, with ``/``: what the output calls it.
        bytes: Size of the file; None if it could not be asked.
        mtime_ns: When it was last written, in nanoseconds since 1970; None if it could not be asked.
    """

    path: Path
    name: str
    bytes: int | None
    mtime_ns: int | None

    @property
    def version(self) -> tuple[int | None, int | None]:
        """What changes when the file is written anew."""
        return self.bytes, self.mtime_ns


def stat_item(path: Path, *, base: Path) -> Item:
    """Describe a file as it is now.

    Args:
        path: The file; need not exist.
        base: The folder its name counts from.

    Returns:
        The item, without size and time if the file cannot be asked.
    """
    name = path.relative_to(base).as_posix()
    try:
        status = path.stat()
    except OSError:
        return Item(path, name, None, None)
    return Item(path, name, status.st_size, status.st_mtime_ns)


def scan(
    folder: Path, *, recursive: bool, skip: Path | None = None, extensions: frozenset[str] = IMAGE_EXTENSIONS
) -> Iterator[Path]:
    """List the visible image files of a folder in the order of their names, each folder's files before its subfolders.

    Args:
        folder: Where to look.
        recursive: Whether to descend into visible subfolders; links to folders are not followed.
        skip: A folder that is passed over, as the output may lie in the input.
        extensions: What counts, file name endings in lower case.

    Yields:
        Paths of files.

    Raises:
        OSError: The folder cannot be listed.
    """
    files, folders = [], []  # names alone: a folder may hold a million files
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_ignored(Path(entry.name)):
                continue
            if os.path.splitext(entry.name)[1].lower() in extensions and entry.is_file():
                files.append(entry.name)
            if recursive and entry.is_dir(follow_symlinks=False) and Path(entry.path) != skip:
                folders.append(entry.name)
    for name in sorted(files):
        yield folder / name
    for name in sorted(folders):
        yield from scan(folder / name, recursive=True, skip=skip, extensions=extensions)


def find_base(entries: Sequence[str]) -> Path:
    """Find the folder that the names of all inputs count from.

    Args:
        entries: Folders, files and patterns.

    Returns:
        The folder itself, or the deepest one that holds all of them.

    Raises:
        UserError: They lie on different drives.
    """
    try:
        return Path(os.path.commonpath([_base(entry) for entry in entries]))
    except ValueError as error:
        raise UserError(f"input={list(entries)}: {error}; score them one after the other") from None


class Listing:
    """The images that folders, files and patterns name, each once; listed anew at each pass, so that none is kept.

    Args:
        entries: Folders, files and patterns such as ``parts/*.png``.
        base: What :func:`find_base` gave.
        recursive: Whether subfolders of folders count.
        skip: The output folder, which is passed over.

    Raises:
        UserError: An entry names nothing or cannot be listed.
    """

    def __init__(self, entries: Sequence[str], *, base: Path, recursive: bool, skip: Path) -> None:
        self.entries, self.base, self.recursive, self.skip = entries, base, recursive, skip
        for entry in entries:
            if next(_expand(entry, recursive=recursive, skip=skip), None) is None:
                raise UserError(_nothing(entry, recursive=recursive, skip=skip))

    def __iter__(self) -> Iterator[Item]:
        """Yield the images as they are now, in the order given and of their names."""
        seen: set[Path] = set()
        for entry in self.entries:
            for path in _expand(entry, recursive=self.recursive, skip=self.skip):
                if path in seen:
                    continue
                if len(self.entries) > 1:
                    seen.add(path)
                yield stat_item(path, base=self.base)


def find_unread(entries: Sequence[str], *, recursive: bool, skip: Path) -> list[str]:
    """Count the pictures of kinds that are not read among what folders and patterns name.

    Args:
        entries: As for :class:`Listing`.
        recursive: Whether subfolders of folders count.
        skip: The output folder, which is passed over.

    Returns:
        One sentence, or none.

    Raises:
        UserError: An entry cannot be listed.
    """
    folders = [entry for entry in entries if not os.path.isfile(entry)]
    found = [_expand(entry, recursive=recursive, skip=skip, extensions=UNREAD_EXTENSIONS) for entry in folders]
    return tell_unread(list(dict.fromkeys(itertools.chain(*found))))


def _base(entry: str) -> str:
    place = os.path.abspath(entry)
    if os.path.isdir(place):
        return place
    there, rest = _split(place)
    if os.path.isfile(place) or not any(map(glob.has_magic, rest)):
        return os.path.dirname(place)
    return str(Path(there, *itertools.takewhile(lambda part: not glob.has_magic(part), rest)))


def _split(place: str) -> tuple[Path, tuple[str, ...]]:
    """Split a path into the folders that exist and the rest: a folder's name may hold what a pattern has too."""
    parts = Path(place).parts
    there = Path(parts[0])
    for number, part in enumerate(parts[1:], start=1):
        if not (there / part).is_dir():
            return there, parts[number:]
        there = there / part
    return there, ()


def _expand(
    entry: str, *, recursive: bool, skip: Path, extensions: frozenset[str] = IMAGE_EXTENSIONS
) -> Iterator[Path]:
    place = os.path.abspath(entry)
    if os.path.isdir(place):
        try:
            yield from scan(Path(place), recursive=recursive, skip=skip, extensions=extensions)
        except OSError as error:
            raise UserError(f"input={entry} cannot be listed: {error.strerror}: {error.filename}") from None
    elif os.path.isfile(place):  # before patterns: a file's name may hold brackets
        yield Path(place)
    elif glob.has_magic(place):
        there, rest = _split(place)
        for found in sorted(glob.glob(os.path.join(glob.escape(str(there)), *rest), recursive=True)):
            path = Path(found)
            if path.suffix.lower() in extensions and path.is_file() and skip not in path.parents:
                yield path


def _nothing(entry: str, *, recursive: bool, skip: Path) -> str:
    unread = "".join(f"; {told}" for told in find_unread([entry], recursive=recursive, skip=skip))
    if os.path.isdir(entry):
        more = "" if recursive else "; recursive=true looks into its subfolders too"
        return f"input={entry}: no images ({', '.join(sorted(IMAGE_EXTENSIONS))}) in this folder{more}{unread}"
    if glob.has_magic(entry):
        brackets = "; brackets match one of the signs in them, [[] matches a bracket" if "[" in entry else ""
        return f"input={entry}: no image matches this pattern{brackets}{unread}"
    return f"input={entry}: no such file or folder"
