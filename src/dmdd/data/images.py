"""Images and masks from files: whatever the format, out comes RGB uint8 or bool; whatever is wrong, one clear line."""

import io
import json
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from dmdd.core.errors import UserError
from dmdd.core.files import whole_file
from dmdd.data.listing import list_images

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
"""Pillow's names for the file endings that count. Its other decoders stay out of reach: one starts Ghostscript."""

MAX_PIXELS = 80_000_000
"""Largest image that is decoded, in pixels: above any camera met here, below Pillow's own bomb warning (89 million)."""

LOSSY_MASK_THRESHOLD = 128
"""Masks stored as JPEG are cut at half of full scale: compression leaves small non-zero values around every edge."""


PIXELS_AT_ONCE = 200_000_000
"""Pixels of images that are decoded at the same time, in all threads together."""

EXIF_ORIENTATION = 0x0112
SIDEWAYS = frozenset({5, 6, 7, 8})
"""Values of that EXIF entry that exchange height and width."""


class Decoded(NamedTuple):
    """A file's first frame.

    Args:
        pixels: uint8 or uint16 `(H, W)`, or uint8 `(H, W, 3)`, upright.
        format: Pillow's name of the file's format.
        orientation: The EXIF entry that turned it upright; 1 for none.
    """

    pixels: np.ndarray
    format: str
    orientation: int

    @property
    def grey(self) -> np.ndarray:
        """`(H, W)`: of a colour the largest of its three values."""
        return self.pixels.max(axis=2) if self.pixels.ndim == 3 else self.pixels

    @property
    def shown_size(self) -> str:
        """Width and height; and what the file itself says, where its EXIF entry exchanges them."""
        height, width = self.pixels.shape[:2]
        aside = f" ({height} x {width} px in the file, turned by its EXIF entry)" * (self.orientation in SIDEWAYS)
        return f"{width} x {height} px{aside}"


def decoding_pool(paths: Sequence[Path]) -> ThreadPoolExecutor:
    """Make threads to decode images in, fewer where they are large: decoded and as floats they take 18 bytes a pixel.

    Args:
        paths: What will be decoded. The first image stands for all; most folders come from one camera.

    Returns:
        The pool.
    """
    pixels = count_pixels(paths[0]) if paths else 0
    return ThreadPoolExecutor(max_workers=max(1, min((os.cpu_count() or 1) + 4, 32, PIXELS_AT_ONCE // max(pixels, 1))))


def read_image(path: Path | str) -> np.ndarray:
    """Read one image as 8-bit RGB, upright.

    Grey, bilevel, palette and CMYK images are converted; alpha is dropped, not composited, because the colours under
    it are what the camera recorded and any background would be invented; 16-bit values are scaled by their full range
    (0..65535 to 0..255), never by the image's own extremes, so that brightness stays comparable between images; EXIF
    rotation is applied; of a file with several frames the first counts.

    Args:
        path: The image file.

    Returns:
        uint8 array `(H, W, 3)`, RGB, 0..255.

    Raises:
        UserError: The file is missing, empty, truncated, not an image, of a kind without a fixed range (32-bit
            integer or float), or larger than `MAX_PIXELS`.

    Source: ours.
    """
    return _as_rgb8(decode(Path(path)).pixels)


def read_pair(image: Path, mask: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Read an image and its mask.

    Args:
        image: The image file.
        mask: As for `read_mask`; None marks nothing.

    Returns:
        uint8 array `(H, W, 3)` and bool array `(H, W)`.

    Raises:
        UserError: As `read_image` and `read_mask`.

    Source: ours.
    """
    decoded = decode(image)
    rgb = _as_rgb8(decoded.pixels)
    return rgb, np.zeros(rgb.shape[:2], bool) if mask is None else decode_mask(mask, of=decoded)[0]


def peak_of_16_bit(path: Path) -> int | None:
    """Find the largest value of a 16-bit image.

    Args:
        path: The image file.

    Returns:
        From 0 to 65535; None for other kinds, which are not decoded, and for what cannot be read.

    Source: ours.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as image:
            if not (image.mode.startswith("I;16") or image.mode == "I"):
                return None
        pixels = decode(path).pixels
    except Exception:  # as in `count_pixels`
        return None
    return int(pixels.max()) if pixels.dtype == np.uint16 else None


def count_pixels(path: Path) -> int:
    """Read an image's size from its header.

    Args:
        path: The image file.

    Returns:
        Height times width, in pixels; 0 where the file does not say.

    Source: ours.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as image:
            return image.width * image.height
    except Exception:  # Pillow's decoders raise about ten kinds of it; reading the file tells what is wrong
        return 0


def read_size(path: Path) -> tuple[int, int]:
    """Tell an upright image's size, by its header where that is enough.

    Args:
        path: The image file.

    Returns:
        Height and width in pixels, those of what `read_image` gives.

    Raises:
        UserError: As `read_image`.

    Source: ours.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            # Pillow would decode a PNG to look for an orientation behind its pixels, and turns a TIFF by itself.
            if width == height or (image.format == "PNG" and "exif" not in image.info):
                return height, width
            if image.format == "JPEG":
                return (width, height) if image.getexif().get(EXIF_ORIENTATION, 1) in SIDEWAYS else (height, width)
    except Exception:  # as above
        pass
    pixels = read_image(path)
    return pixels.shape[0], pixels.shape[1]


def convert_image(image: Image.Image) -> np.ndarray:
    """Convert an opened Pillow image by the rules of `read_image`.

    Args:
        image: Of any mode that `read_image` takes.

    Returns:
        uint8 array `(H, W, 3)`, RGB, 0..255.

    Raises:
        UserError: Its pixels are 32-bit and have no fixed range.

    Source: ours.
    """
    path = Path(getattr(image, "filename", "") or "in memory")
    return _as_rgb8(_to_array(ImageOps.exif_transpose(image), path=path, file_format=image.format or ""))


def _as_rgb8(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    return np.ascontiguousarray(pixels)


def read_mask(path: Path | str, *, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read one mask, True where the defect is.

    Every value above 0 counts, soft edges included: MVTec AD stores 0/255, VisA the number of the defect type; what is
    transparent does not. Only
    JPEG masks are cut at `LOSSY_MASK_THRESHOLD`. A folder of masks (MVTec LOCO: one file per region) is their union.

    Args:
        path: The mask file, a folder of mask files, or a file of outlines that labelme has written (`.json`).
        size: `(height, width)` of the image it belongs to, in pixels; None skips the comparison.

    Returns:
        bool array `(H, W)`.

    Raises:
        UserError: Unreadable like an image; another size than `size`; a folder without mask files.

    Source: ours.
    """
    path = Path(path)
    mask, _ = decode_mask(path)
    if size is not None and mask.shape != tuple(size):
        raise UserError(_other_size(path, f"{mask.shape[1]} x {mask.shape[0]} px", f"{size[1]} x {size[0]} px"))
    return mask


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write a mask as PNG, 0 and 255, by an atomic rename.

    Args:
        path: The file.
        mask: bool array `(H, W)`.

    Source: ours.
    """
    with whole_file(path) as partial:
        Image.fromarray(mask.astype(np.uint8) * 255).save(partial, format="PNG")


def read_mask_values(path: Path) -> np.ndarray:
    """Read the numbers that a mask file stores, such as those of the defect types of MVTec LOCO.

    Args:
        path: The mask file.

    Returns:
        uint8 or uint16 array `(H, W)`, 0 where nothing is marked.

    Raises:
        UserError: Unreadable like an image.

    Source: ours.
    """
    return decode(path, opaque_only=True).grey


def decode_mask(path: Path, *, of: Decoded | None = None) -> tuple[np.ndarray, list[Decoded]]:
    """Read one mask by the rules of `read_mask`, and give what its files hold.

    Args:
        path: The mask file, or a folder of mask files.
        of: The image it belongs to; None skips the comparison of their sizes.

    Returns:
        bool array `(H, W)`, and the files, of which there is at least one.

    Raises:
        UserError: As `read_mask`.

    Source: ours.
    """
    paths = list_images(path) if path.is_dir() else [path]
    files = [_fill_outlines(file) if file.suffix == ".json" else decode(file, opaque_only=True) for file in paths]
    if not files:
        raise UserError(f"no mask files in {path}: expected one image file per region")
    for file, found in zip(paths, files, strict=True):
        if of is not None and found.pixels.shape[:2] != of.pixels.shape[:2]:
            # Sizes are those of the upright pictures, which differ from the files' where an EXIF entry turns one.
            turned = of.orientation in SIDEWAYS and found.orientation not in SIDEWAYS
            remedy = "turn the mask as the image is, or save the image upright" if turned else None
            raise UserError(_other_size(file, found.shown_size, of.shown_size, remedy=remedy))
    if len({found.pixels.shape[:2] for found in files}) > 1:
        raise UserError(f"masks of different sizes in {path}: all masks of one image must have its size")
    return np.logical_or.reduce(
        [found.grey >= (LOSSY_MASK_THRESHOLD if found.format == "JPEG" else 1) for found in files]
    ), files


def _fill_outlines(path: Path) -> Decoded:
    """Fill the polygons of a labelme file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        image = Image.new("L", (content["imageWidth"], content["imageHeight"]))
        for shape in content["shapes"]:
            if shape.get("shape_type", "polygon") != "polygon":
                raise ValueError(f"a shape is a {shape['shape_type']}, not a polygon")
            ImageDraw.Draw(image).polygon([(float(x), float(y)) for x, y in shape["points"]], fill=255)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"cannot read outlines {path}: no file of labelme ({_one_line(error)})") from error
    return Decoded(np.asarray(image), "JSON", 1)


def _other_size(mask: Path, own: str, of: str, *, remedy: str | None = None) -> str:
    return f"mask {mask} is {own} but its image is {of}: {remedy or 'both must have the same size'}"


def decode(path: Path, *, opaque_only: bool = False) -> Decoded:
    """Decode a file's first frame.

    Args:
        path: The image file.
        opaque_only: What is wholly transparent is 0.

    Returns:
        The pixels before they are made RGB of 8 bits.

    Raises:
        UserError: As `read_image`.

    Source: ours.
    """
    if not path.is_file():
        raise UserError(f"no such image file: {path}")
    if path.stat().st_size == 0:
        raise UserError(f"cannot read image {path}: the file is empty (0 bytes)")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read image {path}: {error.strerror}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # From memory, as the server has it: libtiff makes something else of damaged files on the disk.
            image = Image.open(io.BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UserError(_too_large(path)) from None
    # Pillow's decoders raise about ten kinds of exception on damaged bytes (SyntaxError and struct.error among them).
    except Exception as error:
        kinds = ", ".join(FORMATS)
        raise UserError(f"cannot read image {path}: not an image file that Pillow knows as one of {kinds}") from error
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise UserError(_too_large(path, size=image.size))
        file_format = image.format or ""
        try:
            upright = ImageOps.exif_transpose(image)
            orientation = int(image.getexif().get(EXIF_ORIENTATION, 1))
            pixels = _to_array(upright, path=path, file_format=file_format)
            if opaque_only and upright.has_transparency_data:
                if pixels.dtype == np.uint16:  # Pillow would compare with 8 bits of them
                    shown = pixels != upright.info.get("transparency")
                else:
                    shown = np.asarray(upright.convert("RGBA").getchannel("A")) > 0
                pixels = np.where(shown if pixels.ndim == 2 else shown[:, :, None], pixels, 0)
            return Decoded(pixels, file_format, orientation)
        except UserError:
            raise
        except MemoryError:
            raise UserError(f"cannot read image {path}: memory does not suffice for its pixels") from None
        except Exception as error:
            raise UserError(f"cannot read image {path}: damaged or truncated ({_one_line(error)})") from error


def _to_array(image: Image.Image, *, path: Path, file_format: str) -> np.ndarray:
    # Pillow gives 16-bit PGM files the mode of 32-bit integers, scaled to the range of 16 bits.
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N") or (image.mode == "I" and file_format == "PPM"):
        # astype, not asarray: big-endian files come as '>u2'.
        return np.asarray(image).astype(np.uint16)
    if image.mode.startswith(("I", "F")):
        raise UserError(
            f"cannot read image {path}: 32-bit or signed pixels (mode {image.mode}) have no fixed range; "
            "store 8 or 16 bits"
        )
    if image.mode in ("1", "L", "LA", "La"):
        return np.asarray(image.convert("L"))
    if image.mode in ("P", "PA"):
        # By way of RGBA: Pillow warns when a palette with transparency becomes RGB at once.
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def _too_large(path: Path, *, size: tuple[int, int] | None = None) -> str:
    found = f"{size[0]} x {size[1]} px" if size else "more than that"
    return f"cannot read image {path}: at most {MAX_PIXELS // 1_000_000} million pixels are decoded, it has {found}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
