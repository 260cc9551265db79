"""From a request to pixels, in memory only: no part of a request names, opens or makes a file."""

import io
import warnings
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from dmdd.core.errors import UserError
from dmdd.data.images import FORMATS, MAX_PIXELS, convert_image
from dmdd.deploy.serve.limits import Refusal, limited_stream

FORM_OVERHEAD_BYTES = 65_536
"""What a form may hold besides the file: boundaries, part headers, a few small fields."""


async def read_upload(request: Request, limit_bytes: int) -> bytes:
    """Read the image file a request carries.

    Args:
        request: ``multipart/form-data`` with the file in the field ``image``, or the file itself as the body.
        limit_bytes: Largest file.

    Returns:
        The file.

    Raises:
        Refusal: 400 the client went away or the form is broken, 413 too large, 415 another kind of body, 422 no file
            or an empty one.
    """
    kind, _ = parse_options_header(request.headers.get("content-type", ""))
    try:
        if kind == b"multipart/form-data":
            data = await _read_form(request, limit_bytes)
        elif kind in (b"", b"application/octet-stream") or kind.startswith(b"image/"):
            data = b"".join([piece async for piece in limited_stream(request, limit_bytes)])
        else:
            raise Refusal(
                415,
                f"the body is {kind.decode('latin-1')!r}; send multipart/form-data with the file in the field 'image', "
                "or the file as the body with Content-Type image/png, image/jpeg ... or application/octet-stream",
            )
    except ClientDisconnect:
        raise Refusal(400, "the client went away before the image had arrived") from None
    if not data:
        raise Refusal(422, "the image is empty (0 bytes)")
    return data


async def _read_form(request: Request, limit_bytes: int) -> bytes:
    stream: Any = limited_stream(request, limit_bytes, spare_bytes=FORM_OVERHEAD_BYTES)
    parser = MultiPartParser(request.headers, stream, max_files=4, max_fields=16, max_part_size=FORM_OVERHEAD_BYTES)
    # Starlette would put files above 1 MB on disk; the whole body is limited already.
    parser.spool_max_size = limit_bytes + 2 * FORM_OVERHEAD_BYTES
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refusal(400, f"the form is broken: {error.message}") from error
    try:
        images = form.getlist("image")
        if len(images) != 1 or not isinstance(images[0], UploadFile):
            names = ", ".join(repr(name[:40]) for name, _ in form.multi_items()) or "none"
            raise Refusal(422, f"the form must hold one file in the field 'image'; its fields: {names}")
        data = await images[0].read()
    finally:
        await form.close()
    if len(data) > limit_bytes:
        raise Refusal(413, f"the image is larger than {limit_bytes / 1e6:g} MB")
    return data


def decode_image(data: bytes) -> np.ndarray:
    """Decode an image by the rules of :func:`dmdd.data.images.read_image`.

    Args:
        data: The file.

    Returns:
        uint8 ``(H, W, 3)``, RGB, upright.

    Raises:
        Refusal: 415 not an image, 413 too many pixels (told from the header, nothing is decoded), 422 damaged or
            without a fixed range.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, on odd metadata and on sizes that are checked here
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except Image.DecompressionBombError:
            raise Refusal(413, f"the image has more than {MAX_PIXELS // 1_000_000} million pixels") from None
        except UnidentifiedImageError:
            raise Refusal(
                415, f"not an image that can be read; send a {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
            ) from None
        except Exception as error:  # about ten kinds on damaged headers, see dmdd.data.images
            raise Refusal(422, f"the image is damaged: {error or type(error).__name__}") from error
        with image:
            if image.width * image.height > MAX_PIXELS:
                raise Refusal(
                    413,
                    f"the image has {image.width} x {image.height} px, "
                    f"at most {MAX_PIXELS // 1_000_000} million pixels are decoded",
                )
            try:
                return convert_image(image)
            except UserError as error:
                raise Refusal(422, str(error)) from error
            except Exception as error:
                raise Refusal(422, f"the image is damaged or truncated: {error or type(error).__name__}") from error
