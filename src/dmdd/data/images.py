"""Images and masks from files: whatever the format, out comes RGB uint8 or bool; whatever is wrong, one clear line."""

import io
import json
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from dmdd.core.errors import UserError
from dmdd.data.listing import list_images

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
"""Pillow's names for the file endings that count. Its other decoders stay out of reach: one starts Ghostscript."""

MAX_PIXELS = 80_000_000
"""Largest image that is decoded, in pixels: above any camera met here, below Pillow's own bomb warning (89 million)."""

LOSSY_MASK_THRESHOLD = 128
"""Masks stored as JPEG are cut at half of full scale: compression leaves small non-zero values around every edge."""


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
    return _as_rgb8(_decode(Path(path))[0])


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
    if path.is_dir():
        parts = [read_mask(part, size=size) for part in list_images(path)]
        if not parts:
            raise UserError(f"no mask files in {path}: expected one image file per region")
        if len({part.shape for part in parts}) > 1:
            raise UserError(f"masks of different sizes in {path}: all masks of one image must have its size")
        return np.logical_or.reduce(parts)
    pixels, file_format = _fill_outlines(path) if path.suffix == ".json" else _decode(path, opaque_only=True)
    if pixels.ndim == 3:
        pixels = pixels.max(axis=2)
    mask = pixels >= LOSSY_MASK_THRESHOLD if file_format == "JPEG" else pixels > 0
    if size is not None and mask.shape != tuple(size):
        raise UserError(
            f"mask {path} is {mask.shape[1]} x {mask.shape[0]} px but its image is {size[1]} x {size[0]} px: "
            "both must have the same size"
        )
    return mask


def _fill_outlines(path: Path) -> tuple[np.ndarray, str]:
    """Fill the polygons of a labelme file: uint8 `(H, W)`, and the format's name."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        image = Image.new("L", (content["imageWidth"], content["imageHeight"]))
        for shape in content["shapes"]:
            if shape.get("shape_type", "polygon") != "polygon":
                raise ValueError(f"a shape is a {shape['shape_type']}, not a polygon")
            ImageDraw.Draw(image).polygon([(float(x), float(y)) for x, y in shape["points"]], fill=255)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"cannot read outlines {path}: no file of labelme ({_one_line(error)})") from error
    return np.asarray(image), "JSON"


def _decode(path: Path, *, opaque_only: bool = False) -> tuple[np.ndarray, str]:
    """Decode the first frame: uint8 or uint16 `(H, W)`, or uint8 `(H, W, 3)`, and the format's name.

    With `opaque_only` what is wholly transparent is 0.
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
            pixels = _to_array(upright, path=path, file_format=file_format)
            if opaque_only and upright.has_transparency_data:
                if pixels.dtype == np.uint16:  # Pillow would compare with 8 bits of them
                    shown = pixels != upright.info.get("transparency")
                else:
                    shown = np.asarray(upright.convert("RGBA").getchannel("A")) > 0
                pixels = np.where(shown if pixels.ndim == 2 else shown[:, :, None], pixels, 0)
            return pixels, file_format
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
