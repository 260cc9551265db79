"""Maps, masks and overlays as files, named after the image they belong to."""

import errno
import io
import threading
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from dmdd.core.drawing import draw_overlay
from dmdd.core.errors import UserError
from dmdd.core.failures import is_out_of_memory
from dmdd.core.files import write_atomically
from dmdd.inference.prediction import Prediction

OF_THE_DISK = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
)
"""What a file system answers that the next file would meet too."""


class ImageError(UserError):
    """The pictures of one image cannot be written; others can."""


@dataclass(frozen=True)
class PictureWriter:
    """Write the pictures of one image, each by an atomic rename.

    The input's whole name is kept and an ending added, so that ``a.png`` and ``a.jpg`` do not share a picture.

    Args:
        folder: The output folder; pictures go to ``maps/``, ``masks/`` and ``overlays/`` in it.
        maps: ``none``, ``png16`` (0 to 65535 is 0 to 1) or ``npy`` (float32).
        masks: Whether to write 0 and 255 as PNG.
        overlays: Whether to write the image under its map's colours, the mask's outline white, as JPEG.
        middle: Value at the middle of the overlay's colours: the pixel threshold.

    Source: ours.
    """

    folder: Path
    maps: str
    masks: bool
    overlays: bool
    middle: float | None

    @property
    def wanted(self) -> bool:
        """Whether there is anything to write."""
        return self.maps != "none" or self.masks or self.overlays

    def write(self, name: str, detection: Prediction, rgb: np.ndarray | None, inside: np.ndarray | None = None) -> None:
        """Write what is wanted of one image.

        Args:
            name: The image's path below the input folder.
            detection: What was found in it.
            rgb: ``(H, W, 3)`` uint8; only overlays need it.
            inside: ``(H, W)`` bool, the region of interest; None where all pixels count.

        Raises:
            ImageError: A file of this image cannot be written, though others can.
            UserError: No file can be written: the disk is full, the folder is gone or closed.
        """
        if self.maps == "png16":
            self._write_encoded(f"maps/{name}.png", (detection.map * np.float32(65535)).round().astype(np.uint16))
        elif self.maps == "npy":
            file = io.BytesIO()
            np.save(file, detection.map, allow_pickle=False)
            self._write_bytes(f"maps/{name}.npy", file.getvalue())
        if self.masks and detection.mask is not None:
            self._write_encoded(f"masks/{name}.png", detection.mask.astype(np.uint8) * 255)
        if self.overlays and rgb is not None:
            overlay = draw_overlay(rgb, detection.map, detection.mask, middle=self.middle or 0.5, inside=inside)
            self._write_encoded(f"overlays/{name}.jpg", cv2.cvtColor(overlay, cv2.COLOR_RGB2BGR))

    def _write_encoded(self, name: str, pixels: np.ndarray) -> None:
        # cv2.imwrite cannot write to every path on every system; encoding first can.
        quick = [cv2.IMWRITE_PNG_COMPRESSION, 1] if name.endswith(".png") else [cv2.IMWRITE_JPEG_QUALITY, 90]
        try:
            content = cv2.imencode(Path(name).suffix, pixels, quick)[1].tobytes()
        except cv2.error as error:
            if is_out_of_memory(error):
                raise
            raise ImageError(f"{self.folder / name} cannot be written: {' '.join(str(error).split())}") from None
        self._write_bytes(name, content)

    def _write_bytes(self, name: str, content: bytes) -> None:
        file = self.folder / name
        try:
            write_atomically(file, content)
        except OSError as error:
            told = f"{file} cannot be written: {error.strerror}"
            if error.errno not in OF_THE_DISK and self._takes_files():
                raise ImageError(told) from None
            raise UserError(f"{told}; the same command goes on from here") from None

    def _takes_files(self) -> bool:
        """Try whether the output folder takes any file at all."""
        probe = self.folder / f".probe-{threading.get_ident()}.partial"
        try:
            probe.write_bytes(b"0")
            probe.unlink()
        except OSError:
            return False
        return True
