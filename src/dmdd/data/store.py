"""Images at the input size, decoded once: in memory where they fit, else in a file that processes and runs share."""

import hashlib
import io
import os
import shutil
import sys
import time
import weakref
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from dmdd.core.errors import UserError
from dmdd.core.files import whole_file, write_atomically
from dmdd.core.resize import resize_images
from dmdd.data.images import decoding_pool, read_image
from dmdd.pairs import estimate_foreground

FORMAT = 1
"""Of the file, and of what decoding, resizing and the estimate of the part give; a new number makes files anew."""

VERSIONS = (PIL.__version__, torch.__version__.partition("+")[0], cv2.__version__)
"""Of what may change a pixel; another one makes files anew."""

FILES_AT_ONCE = 512  # handed to the threads at a time: a million waiting tasks would take memory
TOLD_EVERY_S = 20.0

Sink = Callable[[int, np.ndarray, np.ndarray], None]


class ImageStore(ABC):
    """Images of one size with the part found on each.

    Args:
        size: Height and width in pixels.
        shares: ``(N,)`` float32, the part's share of each image.
    """

    def __init__(self, size: tuple[int, int], shares: Tensor) -> None:
        self.size, self.shares = size, shares

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.shares)

    @property
    def nbytes(self) -> int:
        """What the images and their parts take in memory."""
        return needed_bytes(len(self), self.size)

    def on(self, device: torch.device) -> "ImageStore":
        """Give the same images in the memory of a device."""
        images, parts = self.read(torch.arange(len(self)))
        return ImagesInMemory(images.permute(0, 2, 3, 1).to(device), parts[:, 0].to(device), self.shares)

    @abstractmethod
    def read(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Give some images and where the part is on each.

        Args:
            index: ``(B,)`` int64, positions.

        Returns:
            ``(B, 3, h, w)`` uint8 RGB, channels last in memory; ``(B, 1, h, w)`` bool.
        """

    def pixels(self, index: Tensor) -> Tensor:
        """Give some images: the first of what :meth:`read` gives."""
        return self.read(index)[0]

    def __getitem__(self, part: slice | Tensor) -> Tensor:
        """Give images by a slice or by positions: ``(B, 3, h, w)`` uint8 RGB."""
        return self.pixels(torch.arange(len(self))[part])

    def share_memory(self) -> None:
        """Keep one copy of the images for all worker processes."""
        return


class ImagesInMemory(ImageStore):
    """Images in this process.

    Args:
        images: ``(N, h, w, 3)`` uint8 RGB.
        foregrounds: ``(N, h, w)`` bool.
        shares: ``(N,)`` float32.
    """

    def __init__(self, images: Tensor, foregrounds: Tensor, shares: Tensor) -> None:
        super().__init__((images.shape[1], images.shape[2]), shares)
        self._images, self._foregrounds = images, foregrounds

    @classmethod
    def empty(cls, size: tuple[int, int]) -> "ImagesInMemory":
        """Make a store without an image."""
        images = torch.empty(0, *size, 3, dtype=torch.uint8)
        return cls(images, images[..., 0].bool(), torch.empty(0))

    def read(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Give some images and where the part is on each."""
        index = index.to(self._images.device, non_blocking=True)
        return self.pixels(index), self._foregrounds.index_select(0, index).unsqueeze(1)

    def pixels(self, index: Tensor) -> Tensor:
        """Give some images."""
        # Whole rows at once: indexing images that are channels first by a tensor would go pixel by pixel.
        index = index.to(self._images.device, non_blocking=True)
        return self._images.index_select(0, index).permute(0, 3, 1, 2)

    def share_memory(self) -> None:
        """Keep one copy of the images for all worker processes."""
        self._images.share_memory_()
        self._foregrounds.share_memory_()


class ImagesOnDisk(ImageStore):
    """Images in a file: one record an image, its pixels and then its part, eight pixels to the byte.

    Records are read by position and not through a memory map. Both use the system's cache, which all processes share;
    but mapped pages count as memory of this process, and a file that lost its end would kill it.

    Args:
        file: Of ``count`` records.
        size: Height and width in pixels.
        checksums: ``(N,)`` uint32, CRC-32 of each record.
        shares: ``(N,)`` float32.
    """

    def __init__(self, file: Path, size: tuple[int, int], checksums: np.ndarray, shares: Tensor) -> None:
        super().__init__(size, shares)
        self.file, self._checksums = file, checksums
        self._verified = np.zeros(len(checksums), bool)
        self._open()

    def _open(self) -> None:
        self._descriptor = os.open(self.file, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_descriptor"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._open()

    def read(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Give some images and where the part is on each."""
        height, width = self.size
        length = record_bytes(self.size)
        pixels = np.empty((len(index), 3 * height * width), np.uint8)
        packed = np.empty((len(index), length - pixels.shape[1]), np.uint8)
        rows = index.tolist()
        if hasattr(os, "posix_fadvise"):  # all at once, so that a disk reads the next ones while the first is copied
            for row in rows:
                os.posix_fadvise(self._descriptor, row * length, length, os.POSIX_FADV_WILLNEED)
        for row, image, part in zip(rows, pixels, packed, strict=True):
            got = os.preadv(self._descriptor, [image.data, part.data], row * length)
            if got != length or not self._is_sound(row, image, part):
                raise UserError(
                    f"image {row} in {self.file} is damaged: delete that file, and the next run makes it again"
                )
        images = torch.from_numpy(pixels).view(-1, height, width, 3).permute(0, 3, 1, 2)
        parts = np.unpackbits(packed, axis=1, count=height * width).view(bool)
        return images, torch.from_numpy(parts).view(-1, 1, height, width)

    def _is_sound(self, row: int, image: np.ndarray, part: np.ndarray) -> bool:
        """Compare a record with its checksum, once in each process."""
        if not self._verified[row]:
            self._verified[row] = zlib.crc32(part.data, zlib.crc32(image.data)) == self._checksums[row]
        return bool(self._verified[row])


class StoredPart(ImageStore):
    """Some images of a store.

    Args:
        store: All images.
        rows: Which of them.
    """

    def __init__(self, store: ImageStore, rows: Sequence[int]) -> None:
        self.store, self.rows = store, torch.tensor(rows, dtype=torch.int64)
        super().__init__(store.size, store.shares[self.rows])

    def read(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Give some images and where the part is on each."""
        return self.store.read(self.rows[index])

    def pixels(self, index: Tensor) -> Tensor:
        """Give some images."""
        return self.store.pixels(self.rows[index])

    def share_memory(self) -> None:
        """Keep one copy of the images for all worker processes."""
        self.store.share_memory()


def needed_bytes(count: int, size: tuple[int, int]) -> int:
    """Tell what so many images of this height and width take in memory: three bytes a pixel, and one for the part."""
    return 4 * count * size[0] * size[1]


def record_bytes(size: tuple[int, int]) -> int:
    """Tell how much of a file an image of this height and width takes, in bytes."""
    return 3 * size[0] * size[1] + -(-size[0] * size[1] // 8)


def open_images(
    paths: Sequence[Path],
    size: tuple[int, int],
    *,
    find_parts: bool = True,
    memory_gb: float = float("inf"),
    cache_dir: Path | str = "",
) -> ImageStore:
    """Decode and resize image files, several at a time, and find the part on each.

    Args:
        paths: Image files.
        size: Height and width in pixels.
        find_parts: Estimate where the part is; else all of an image counts.
        memory_gb: What takes more than this, in 10^9 bytes, is kept in a file.
        cache_dir: Folder of such files. A file is used again until an image is added, removed or changed.

    Returns:
        The images.

    Raises:
        UserError: An image cannot be read; the message has its path. Or the file cannot be written.

    """
    if needed_bytes(len(paths), size) > memory_gb * 1e9:
        return _open_on_disk(paths, size, find_parts=find_parts, folder=Path(cache_dir).expanduser())
    images = torch.empty(len(paths), *size, 3, dtype=torch.uint8)
    foregrounds = torch.empty(len(paths), *size, dtype=torch.bool)

    def keep(row: int, image: np.ndarray, part: np.ndarray) -> None:
        images[row], foregrounds[row] = torch.from_numpy(image), torch.from_numpy(part)

    shares = _decode(paths, size, keep, find_parts=find_parts)
    return ImagesInMemory(images, foregrounds, shares)


def _open_on_disk(paths: Sequence[Path], size: tuple[int, int], *, find_parts: bool, folder: Path) -> ImagesOnDisk:
    place = os.path.commonpath([path.absolute().parent for path in paths])
    series = hashlib.sha256(f"{place}\n{size}\n{find_parts}".encode(errors="surrogateescape")).hexdigest()[:12]
    file = folder / f"{series}-{_fingerprint(paths)}.images"
    gigabytes = f"{len(paths) * record_bytes(size) / 1e9:.1f} GB"
    told = f"{len(paths):,} images of {size[0]} x {size[1]} px need more than data.memory_gb"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _one_maker(folder / f"{series}.lock"):
            store = _open_file(file, size)
            _say(f"{told}: {'reading them from' if store else 'decoding them once into'} {file} ({gigabytes})")
            if store is None:
                _write(file, paths, size, find_parts=find_parts)
                for old in folder.glob(f"{series}-*"):  # whoever has it open keeps it until the end
                    if old.stem != file.stem:
                        old.unlink()
                store = _open_file(file, size)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"images cannot be kept in {folder} ({reason}): set data.cache_dir= to a folder with {gigabytes} free, or "
            f"data.memory_gb={needed_bytes(len(paths), size) / 1e9:.1f} to keep them in memory"
        ) from error
    assert store is not None, "just written"
    return store


@contextmanager
def _one_maker(lock: Path) -> Iterator[None]:
    """Let one process at a time look for a file and make it; the lock of one that was killed is free."""
    held = FileLock(lock)
    try:
        held.acquire(blocking=False)
    except Timeout:
        _say("waiting for another process that decodes these images")
        held.acquire()
    try:
        yield
    finally:
        held.release()


def _fingerprint(paths: Sequence[Path]) -> str:
    """Tell by place, size and time of change whether files are the same ones, without reading them."""
    digest = hashlib.sha256(f"{FORMAT} {VERSIONS}\n".encode())
    for path in paths:
        try:
            about = os.stat(path)
        except OSError:  # told by whoever reads it
            continue
        digest.update(f"{path.absolute()}\n{about.st_size}\n{about.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def _open_file(file: Path, size: tuple[int, int]) -> ImagesOnDisk | None:
    """Open records that are all there: their index, which is written last, is whole and tells the file's length."""
    try:
        with np.load(io.BytesIO(file.with_suffix(".npz").read_bytes()), allow_pickle=False) as index:
            checksums, shares = index["checksums"], torch.from_numpy(index["shares"])
        if file.stat().st_size != len(checksums) * record_bytes(size):
            return None
        return ImagesOnDisk(file, size, checksums, shares)
    except (FileNotFoundError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _write(file: Path, paths: Sequence[Path], size: tuple[int, int], *, find_parts: bool) -> None:
    """Write the records and then, as a sign that all are there, their index."""
    length = record_bytes(size)
    checksums = np.zeros(len(paths), np.uint32)
    for old in file.parent.glob(f"{file.stem.partition('-')[0]}-*.partial"):  # of a process that was killed
        old.unlink()
    if (room := shutil.disk_usage(file.parent).free) < len(paths) * length:
        raise OSError(f"{room / 1e9:.1f} GB free")
    with whole_file(file) as partial, partial.open("wb") as out:

        def keep(row: int, image: np.ndarray, part: np.ndarray) -> None:
            record = image.tobytes() + np.packbits(part).tobytes()
            checksums[row] = zlib.crc32(record)
            if os.pwrite(out.fileno(), record, row * length) != length:
                raise OSError("the disk is full")

        shares = _decode(paths, size, keep, find_parts=find_parts, tell=_say)
    index = io.BytesIO()
    np.savez(index, checksums=checksums, shares=shares.numpy())
    write_atomically(file.with_suffix(".npz"), index.getvalue())


def _decode(
    paths: Sequence[Path],
    size: tuple[int, int],
    keep: Sink,
    *,
    find_parts: bool,
    tell: Callable[[str], None] | None = None,
) -> Tensor:
    """Hand each image and its part to ``keep``, from several threads; returns the part's share of each image."""
    shares = torch.ones(len(paths))

    def work(row: int) -> None:
        batch = torch.from_numpy(np.array(read_image(paths[row]))).permute(2, 0, 1).unsqueeze(0)
        image = resize_images(batch, size)[0].permute(1, 2, 0).contiguous().numpy()
        part = estimate_foreground(image) if find_parts else np.ones(size, bool)
        shares[row] = float(part.mean())
        keep(row, image, part)

    started = told = time.monotonic()
    with decoding_pool(paths) as pool:
        for first in range(0, len(paths), FILES_AT_ONCE):
            done = min(first + FILES_AT_ONCE, len(paths))
            list(pool.map(work, range(first, done)))
            if tell is not None and (now := time.monotonic()) - told > TOLD_EVERY_S:
                minutes, seconds = divmod(int((now - started) * (len(paths) / done - 1)), 60)
                tell(f"{done:,} of {len(paths):,} images decoded, {minutes}:{seconds:02d} left")
                told = now
    return shares


def _say(line: str) -> None:
    if int(os.environ.get("LOCAL_RANK") or 0) == 0:
        print(line, file=sys.stderr, flush=True)
