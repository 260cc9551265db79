"""Bad input made from good: how much of it, what it is made from, and what may come of it."""

import io
import os
import pickle
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

MULTIPLIER = float(os.environ.get("DMDD_FUZZ", "0"))
"""0 takes a small fixed sample, as the ordinary test run does; 2 or 0.1 that many times the number in the tests."""

tried: Counter[tuple[str, str]] = Counter()


def rounds(small: int, many: int) -> int:
    """How many cases to make: `small` in the ordinary test run, `many` times the multiplier in `make fuzz`."""
    return max(1, round(many * MULTIPLIER)) if MULTIPLIER else small


def count(kind: str, outcome: str) -> None:
    tried[kind, outcome] += 1


def one_line(error: BaseException) -> str:
    """The message of a refusal, which must be one line that says something."""
    text = str(error)
    assert text.strip(), f"{type(error).__name__} says nothing"
    assert "\n" not in text, text
    assert "Traceback" not in text
    return text


def damaged(data: bytes, generator: np.random.Generator) -> bytes:
    """Cut, flip, overwrite, repeat, or splice in other bytes; now and then several of these."""
    content = bytearray(data)
    for _ in range(int(generator.integers(1, 4))):
        place = int(generator.integers(0, max(1, len(content))))
        length = int(generator.integers(1, 40))
        match generator.integers(0, 8):
            case 0:
                del content[place:]
            case 1:
                content[place : place + length] = bytes(min(length, len(content) - place))
            case 2 | 3:
                for spot in generator.integers(0, max(1, len(content)), 3):
                    if content:
                        content[spot] ^= 1 << int(generator.integers(0, 8))
            case 4:
                content[place:place] = generator.bytes(length)
            case 5:
                content[place : place + length] = b"\xff" * length
            case 6:
                content[place:place] = content[: int(generator.integers(0, 4000))]
            case 7:  # numbers in headers: sizes, offsets and counts
                place = int(generator.integers(0, min(64, max(1, len(content)))))
                content[place : place + 4] = int(generator.integers(0, 2**32)).to_bytes(4, "little")
    return bytes(content)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def good_images() -> dict[str, tuple[bytes, tuple[int, int]]]:
    """File and (height, width) of every kind of image that is taken."""
    pixels = np.random.default_rng(0).integers(0, 256, (31, 23, 4), np.uint8)
    rgba = Image.fromarray(pixels)
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    deep = Image.fromarray(np.random.default_rng(1).integers(0, 65536, (31, 23), np.uint16))
    frames = [Image.fromarray(np.roll(pixels[..., :3], shift, 0)) for shift in range(3)]
    turned = Image.Exif()
    turned[0x0112] = 6
    animated: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "duration": 40}
    made = {
        "png": encoded(rgb, "PNG"),
        "png grey": encoded(grey, "PNG"),
        "png alpha": encoded(rgba, "PNG"),
        "png grey alpha": encoded(rgba.convert("LA"), "PNG"),
        "png bilevel": encoded(grey.convert("1"), "PNG"),
        "png palette": encoded(rgb.convert("P"), "PNG"),
        "png palette transparent": encoded(rgb.convert("P"), "PNG", transparency=3),
        "png 16 bit": encoded(deep, "PNG"),
        "png text": encoded(rgb, "PNG", pnginfo=_text_chunk()),
        "png animated": encoded(frames[0], "PNG", **animated),
        "jpeg": encoded(rgb, "JPEG"),
        "jpeg grey": encoded(grey, "JPEG"),
        "jpeg progressive": encoded(rgb, "JPEG", progressive=True),
        "jpeg cmyk": encoded(rgb.convert("CMYK"), "JPEG"),
        "jpeg turned": encoded(rgb, "JPEG", exif=turned),
        "gif animated": encoded(frames[0], "GIF", **animated),
        "webp": encoded(rgb, "WEBP"),
        "webp lossless alpha": encoded(rgba, "WEBP", lossless=True),
        "webp animated": encoded(frames[0], "WEBP", **animated),
        "bmp": encoded(rgb, "BMP"),
        "bmp palette": encoded(rgb.convert("P"), "BMP"),
        "tiff": encoded(rgb, "TIFF"),
        "tiff deflate": encoded(rgb, "TIFF", compression="tiff_adobe_deflate"),
        "tiff lzw 16 bit": encoded(deep, "TIFF", compression="tiff_lzw"),
        "tiff cmyk": encoded(rgb.convert("CMYK"), "TIFF"),
        "tiff pages": encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:]),
        "ppm": encoded(rgb, "PPM"),
        "pgm": encoded(grey, "PPM"),
    }
    found = {name: (data, (23, 31) if "turned" in name else (31, 23)) for name, data in made.items()}
    found["one pixel"] = (encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"), (1, 1))
    found["30000 wide"] = (encoded(Image.new("RGB", (30_000, 2), (9, 8, 7)), "PNG"), (2, 30_000))
    found["30000 high"] = (encoded(Image.new("L", (1, 30_000), 7), "JPEG"), (30_000, 1))
    return found


def _text_chunk() -> Any:
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text("comment", "x" * 500, zip=True)
    return text


def refused_images() -> dict[str, bytes]:
    """Files that no reader takes: no image, without a fixed range, too large, or of a format left out."""
    floats = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    return {
        "nothing": b"",
        "zero bytes": bytes(2000),
        "text": b"no image at all\n" * 20,
        "html": b"<html><script>alert(1)</script></html>",
        "float tiff": encoded(Image.fromarray(floats), "TIFF"),
        "32-bit tiff": encoded(Image.fromarray(floats.astype(np.int32)), "TIFF"),
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n",
        "icon": encoded(Image.new("RGB", (16, 16)), "ICO"),
        "tga": encoded(Image.new("RGB", (16, 16)), "TGA"),
        "bomb": bomb(30_000, 30_000),
        "smaller bomb": bomb(10_000, 9_000),
        "pickle": pickle.dumps({"an": "object"}),
        "signature only": b"\x89PNG\r\n\x1a\n",
    }


def bomb(width: int, height: int) -> bytes:
    """A small file that is a large image: a bilevel PNG of zeros."""
    import struct
    import zlib

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width // 8 + 1) * 64), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


class Payload:
    """Makes a file where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (open, (str(self.marker), "w"))


def pickles(marker: Path) -> dict[str, bytes]:
    """Files with a payload, in every wrapping that a reader of weights may know."""
    payload = Payload(marker)
    found = {f"protocol {protocol}": pickle.dumps(payload, protocol) for protocol in (0, 2, 4)}
    for name, content in {"torch": payload, "torch dict": {"state_dict": {"a": payload}, "seconds": 0.0}}.items():
        for wrapping, options in {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}.items():
            file = io.BytesIO()
            torch.save(content, file, **options)
            found[f"{name} {wrapping}"] = file.getvalue()
    array = io.BytesIO()
    np.save(array, np.array([payload], dtype=object), allow_pickle=True)
    found["numpy"] = array.getvalue()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as bundle:
        bundle.writestr("archive/data.pkl", pickle.dumps(payload))
        bundle.writestr("archive/version", "3")
    found["bare zip"] = archive.getvalue()
    return found
