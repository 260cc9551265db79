"""Whatever is sent as an image: an answer if it is one, else one JSON line, never a traceback and never a file."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from dmdd.data.images import read_image
from dmdd.deploy.serve import decoding
from dmdd.deploy.serve.api import build_api
from dmdd.deploy.serve.decoding import decode_image
from dmdd.deploy.serve.limits import Limits, Refusal
from dmdd.deploy.serve.model import ServedModel

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **options)
    return file.getvalue()


def bomb(width: int, height: int, extra: bytes = b"") -> bytes:
    """A PNG whose header promises more than the file holds."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + header + extra + data + chunk(b"IEND", b"")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def unfolding() -> bytes:
    """A PNG with a comment of 20 MB in a few bytes."""
    return bomb(4, 4, chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(20_000_000))))


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(PIXELS, "JPEG", exif=exif)


def animated() -> bytes:
    frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


IMAGES = {
    "png": (encoded(PIXELS), (40, 30)),
    "1x1": (encoded(PIXELS[:1, :1]), (1, 1)),
    "cmyk jpeg": (encoded(Image.fromarray(PIXELS).convert("CMYK"), "JPEG"), (40, 30)),
    "16 bit png": (encoded((np.arange(1200, dtype=np.uint16) * 50).reshape(40, 30)), (40, 30)),
    "rgba": (encoded(Image.fromarray(PIXELS).convert("RGBA")), (40, 30)),
    "palette": (encoded(Image.fromarray(PIXELS).convert("P")), (40, 30)),
    "bilevel": (encoded(Image.fromarray(PIXELS).convert("1")), (40, 30)),
    "animated gif": (animated(), (40, 30)),
    "rotated": (rotated(), (30, 40)),
    "webp": (encoded(PIXELS, "WEBP"), (40, 30)),
    "tiff": (encoded(PIXELS, "TIFF"), (40, 30)),
    "bmp": (encoded(PIXELS, "BMP"), (40, 30)),
    "ppm": (encoded(PIXELS, "PPM"), (40, 30)),
}

NO_IMAGES = {
    "zero bytes": (b"", 422, "the image is empty"),
    "text": (b"hello, I am a picture" * 10, 415, "not an image that can be read; send a PNG"),
    "one byte": (b"\x89", 415, "not an image"),
    "truncated png": (encoded(PIXELS)[:700], 422, "damaged or truncated"),
    "truncated jpeg": (encoded(PIXELS, "JPEG")[:700], 422, "damaged or truncated"),
    "only a header": (bomb(30, 40)[:33], 415, "not an image that can be read"),
    "text that unfolds": (unfolding(), 422, "the image is damaged"),
    "bomb": (bomb(30_000, 30_000), 413, "more than 80 million pixels"),
    "a bomb that Pillow only warns of": (bomb(9_500, 9_500), 413, "9500 x 9500 px, at most 80 million"),
    "just beyond": (bomb(8_000, 10_001), 413, "8000 x 10001 px, at most 80 million"),
    "float": (encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), 422, "32-bit or signed pixels"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", 415, "not an image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "not an image"),
    "over-size": (bytes(1_200_000), 413, "the image is larger than 1 MB"),
}


@pytest.fixture(scope="module")
def client(served_inspector):
    app, _ = build_api(ServedModel(served_inspector, title="x"), Limits(upload_mb=1), hosts=None)
    return TestClient(app)


@pytest.mark.parametrize("kind", IMAGES)
def test_every_kind_of_image_is_read_like_its_file(client, tmp_path, kind):
    data, size = IMAGES[kind]
    (tmp_path / "image").write_bytes(data)
    assert np.array_equal(decode_image(data), read_image(tmp_path / "image"))
    answer = client.post("/predict", files={"image": data})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["height"], answer.json()["width"]) == size


@pytest.mark.parametrize("kind", NO_IMAGES)
@pytest.mark.parametrize("way", ["form", "body"])
def test_what_is_no_image_is_refused_in_one_line(client, way, kind):
    data, status, message = NO_IMAGES[kind]
    answer = client.post("/predict", **({"files": {"image": ("x.png", data)}} if way == "form" else {"content": data}))
    assert (answer.status_code, set(answer.json())) == (status, {"error"}), answer.text
    assert message in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert "Traceback" not in answer.text


def test_cut_and_altered_files_never_break_the_server(client):
    generator = np.random.default_rng(0)
    for data, _ in IMAGES.values():
        for _ in range(12):
            bad = bytearray(data[: int(generator.integers(1, len(data) + 1))])
            for place in generator.integers(0, len(bad), 4):
                bad[place] = generator.integers(0, 256)
            answer = client.post("/predict", content=bytes(bad))
            assert answer.status_code in (200, 413, 415, 422), answer.text


def test_nothing_of_a_request_touches_the_file_system(served_inspector, tmp_path, monkeypatch):
    client = TestClient(build_api(ServedModel(served_inspector, title="x"), Limits(upload_mb=3), hosts=None)[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile._io.open", None)  # what a spooled file would open once it is too large for memory
    data = encoded(np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8), "BMP")
    assert 2**20 < len(data) < 3_000_000
    for name in ("../../etc/passwd", "/etc/passwd", "..\\..\\boot.ini", "a\x00b.png", "x" * 3000, "", "ü 图.png"):
        assert client.post("/predict", files={"image": (name or "unnamed", data)}).status_code == 200
    assert list(tmp_path.iterdir()) == []


FORMS = [
    ({"files": {"picture": b"x"}}, 422, "one file in the field 'image'; its fields: 'picture'"),
    ({"files": [("image", b"x"), ("image", b"y")]}, 422, "one file in the field 'image'; its fields: 'image', 'image'"),
    ({"data": {"image": "x"}}, 415, "the body is 'application/x-www-form-urlencoded'; send multipart/form-data"),
    ({"json": {"image": "x"}}, 415, "the body is 'application/json'"),
    (
        {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
        400,
        "the form is broken: Missing boundary",
    ),
    ({"files": [(f"f{i}", b"x") for i in range(9)]}, 400, "the form is broken: Too many files"),
    ({"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}, 400, "the form is broken"),
    ({"files": {"other": ("", b"x")}, "data": {"image": "text"}}, 422, "one file in the field 'image'"),
    ({"content": b"", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}, 422, "its fields: none"),
]


@pytest.mark.parametrize(("request_", "status", "message"), FORMS)
def test_forms_that_carry_no_image(client, request_, status, message):
    answer = client.post("/predict", **request_)
    assert answer.status_code == status, answer.text
    assert message in answer.json()["error"]


def test_a_file_just_too_large_within_the_forms_allowance(client):
    answer = client.post("/predict", files={"image": bytes(1_000_001)})
    assert (answer.status_code, answer.json()) == (413, {"error": "the image is larger than 1 MB"})


def test_other_methods_addresses_and_parameters(client):
    answer = client.get("/predict")
    assert (answer.status_code, answer.json()) == (405, {"error": "GET is not taken here, POST is"})
    assert answer.headers["Allow"] == "POST"
    answer = client.get("/nothing")
    assert (answer.status_code, answer.json()["error"][:15]) == (404, "no such address")
    answer = client.post("/predict?map=perhaps", content=encoded(PIXELS))
    assert (answer.status_code, answer.json()["error"][:10]) == (422, "query.map:")


def test_decoders_that_start_programs_are_out_of_reach():
    assert set(decoding.FORMATS) == {"PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM"}
    with pytest.raises(Refusal, match="not an image that can be read"):
        decode_image(NO_IMAGES["postscript"][0])
