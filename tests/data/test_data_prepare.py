"""Fetching data sets: a local server that can be cut off, and archives that attack."""

import hashlib
import io
import re
import stat
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import trees

from dmdd.core.errors import UserError
from dmdd.data.__main__ import main
from dmdd.data.download import archives, prepare
from dmdd.data.download.archives import extract_archive
from dmdd.data.download.prepare import SOURCES, Source, download, prepare_dataset
from dmdd.data.layouts import list_categories, read_btad, read_mvtec_ad, read_visa

LIMIT = 10_000_000


def refused(message: str) -> "pytest.RaisesExc[UserError]":
    return pytest.raises(UserError, match=re.escape(message))


class Server(ThreadingHTTPServer):
    """Serves `content` with ranges; `cut_after` bytes it hangs up."""

    daemon_threads = True
    content = b""
    etag: str | None = '"v1"'
    ranges = True
    status: int | None = None
    cut_after: int | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}/files/set%201.tar?token=1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.seen.append(wanted)
        if server.status is not None:
            self.send_error(server.status)
            return
        begin = 0
        if wanted and server.ranges and self.headers.get("If-Range") == server.etag:
            begin = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if begin >= len(server.content):
                self.send_error(416)
                return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(server.content) - 1}/{len(server.content)}")
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(server.content) - begin))
        self.end_headers()
        self.wfile.write(server.content[begin : server.cut_after])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def tar_of(folder: Path, *, kind: str = "xz", prefix: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{kind}") as tar:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                tar.add(path, arcname=prefix + path.relative_to(folder).as_posix())
    return buffer.getvalue()


def zip_of(folder: Path, *, prefix: str = "") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                bundle.write(path, arcname=prefix + path.relative_to(folder).as_posix())
    return buffer.getvalue()


@pytest.fixture
def mvtec_tar(tmp_path) -> bytes:
    trees.mvtec_category(tmp_path / "original", "screw")
    trees.mvtec_category(tmp_path / "original", "bottle")
    return tar_of(tmp_path / "original")


def served(server: Server, content: bytes) -> dict[str, str]:
    server.content = content
    return {"url": server.url, "sha256": hashlib.sha256(content).hexdigest()}


def test_downloads_verifies_and_unpacks(tmp_path, server, mvtec_tar):
    data_dir = tmp_path / "new" / "data"
    target = prepare_dataset(dataset="mvtec_ad", data_dir=data_dir, **served(server, mvtec_tar))
    assert target == data_dir / "mvtec_ad"
    assert list_categories(target) == ["bottle", "screw"]
    assert len(read_mvtec_ad(root=target, category="screw").train) == 3
    assert [path.name for path in data_dir.iterdir()] == ["mvtec_ad"], "neither archive nor staging stay behind"
    assert not (target / "screw" / "train" / "good" / ".DS_Store").exists()
    original = tmp_path / "original" / "screw" / "train" / "good" / "000.png"
    assert (target / "screw" / "train" / "good" / "000.png").read_bytes() == original.read_bytes()


def test_official_address_and_checksum_are_used_unless_given(tmp_path, server, mvtec_tar, monkeypatch):
    options = served(server, mvtec_tar)
    monkeypatch.setitem(SOURCES, "btad", Source("page", server.url, options["sha256"], LIMIT))
    trees.btad_category(tmp_path / "btad original")
    content = zip_of(tmp_path / "btad original", prefix="BTech_Dataset_transformed/")
    server.content = content
    with refused("wrong checksum of"):
        prepare_dataset(dataset="btad", data_dir=tmp_path / "data")
    monkeypatch.setitem(SOURCES, "btad", Source("page", server.url, hashlib.sha256(content).hexdigest(), LIMIT))
    prepare_dataset(dataset="btad", data_dir=tmp_path / "data")
    assert len(read_btad(root=tmp_path / "data" / "btad", category="01").test) == 3


def test_broken_download_is_resumed(tmp_path, server):
    server.content, server.cut_after = bytes(range(256)) * 4000, 300_000
    with refused(f"download of {server.url} broke off after 300000 of 1024000 bytes: run again to go on"):
        download(server.url, tmp_path / "set.tar")
    assert not (tmp_path / "set.tar").exists()
    server.cut_after = None
    assert download(server.url, tmp_path / "set.tar").read_bytes() == server.content
    assert server.seen == [None, "bytes=300000-"]
    assert [path.name for path in tmp_path.iterdir()] == ["set.tar"]


@pytest.mark.parametrize("change", ["another version", "no version named", "no ranges"])
def test_download_starts_anew_where_it_cannot_go_on(tmp_path, server, change):
    if change == "no version named":
        server.etag = None
    server.content, server.cut_after = b"old" * 1000, 1000
    with refused("broke off after 1000 of 3000 bytes"):
        download(server.url, tmp_path / "set.tar")
    server.content, server.cut_after = b"new!" * 1000, None
    if change == "another version":
        server.etag = '"v2"'
    server.ranges = change != "no ranges"
    assert download(server.url, tmp_path / "set.tar").read_bytes() == server.content


def test_download_that_had_only_to_be_renamed(tmp_path, server):
    server.content = b"x" * 100
    (tmp_path / "set.tar.part").write_bytes(server.content)
    (tmp_path / "set.tar.version").write_text('"v1"')
    assert download(server.url, tmp_path / "set.tar").read_bytes() == server.content
    assert server.seen == ["bytes=100-"]


def test_server_that_sends_another_part(tmp_path, server, monkeypatch):
    server.content = b"x" * 100
    (tmp_path / "set.tar.part").write_bytes(b"x" * 40)
    (tmp_path / "set.tar.version").write_text('"v1"')
    original = Handler.send_header

    def wrong(self: Handler, name: str, value: str) -> None:
        original(self, name, "bytes 0-99/100" if name == "Content-Range" else value)

    monkeypatch.setattr(Handler, "send_header", wrong)
    with refused(f"cannot go on with {server.url}: the server sends another part"):
        download(server.url, tmp_path / "set.tar")


def test_download_errors(tmp_path, server, monkeypatch):
    server.status = 404
    with refused(f"cannot download {server.url}: the server answers 404 Not Found"):
        download(server.url, tmp_path / "a")
    for address in ("ftp://127.0.0.1/a.tar", "file:///etc/passwd", "set.tar"):
        with refused(f"cannot download {address}: expected an http or https address"):
            download(address, tmp_path / "a")
    with refused("download of http://127.0.0.1:1/a.tar broke off after 0 bytes ("):
        download("http://127.0.0.1:1/a.tar", tmp_path / "a")
    server.status, server.content = None, b"x" * 100
    monkeypatch.setattr(prepare, "free_bytes", lambda folder: 99)
    with refused("100 bytes are more than the free space of"):
        download(server.url, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_wrong_checksum_of_a_download_throws_it_away(tmp_path, server, mvtec_tar):
    server.content = mvtec_tar
    with refused(f"sha256 {hashlib.sha256(mvtec_tar).hexdigest()}, expected {'0' * 64}; run again to fetch it anew"):
        prepare_dataset(dataset="mvtec_ad", data_dir=tmp_path / "data", url=server.url, sha256="0" * 64)
    assert list((tmp_path / "data").iterdir()) == []


def test_local_archive_is_kept_and_its_checksum_known(tmp_path, mvtec_tar):
    archive = tmp_path / "mvtec.tar.xz"
    archive.write_bytes(mvtec_tar)
    with refused("give --sha256 none if it is another release or a part"):
        prepare_dataset(dataset="mvtec_ad", data_dir=tmp_path / "data", archive=archive)
    prepare_dataset(dataset="mvtec_ad", data_dir=tmp_path / "data", archive=archive, sha256="none")
    assert archive.exists()
    assert (tmp_path / "data" / "mvtec_ad" / "bottle").is_dir()


def test_categories_are_added_but_never_replaced(tmp_path):
    for name in ("screw", "bottle"):
        trees.mvtec_category(tmp_path / name, name)
        (tmp_path / f"{name}.tar").write_bytes(tar_of(tmp_path / name, kind="", prefix="./"))
        prepare_dataset(dataset="mvtec_ad", data_dir=tmp_path, archive=tmp_path / f"{name}.tar", sha256="none")
    assert list_categories(tmp_path / "mvtec_ad") == ["bottle", "screw"]
    with refused(f"{tmp_path / 'mvtec_ad'} already holds screw: move it away first"):
        prepare_dataset(dataset="mvtec_ad", data_dir=tmp_path, archive=tmp_path / "screw.tar", sha256="none")


def test_download_of_what_is_there_is_refused_before_it_begins(tmp_path, server):
    trees.mvtec_category(tmp_path / "mvtec_ad")
    with refused(f"{tmp_path / 'mvtec_ad'} already holds mvtec_ad: look it over with python -m dmdd.data check"):
        prepare_dataset(dataset="mvtec_ad", data_dir=tmp_path, url=server.url)
    assert server.seen == []


def test_visa_and_dtd(tmp_path):
    trees.visa_root(tmp_path / "visa original")
    trees.write_image(tmp_path / "dtd original" / "images" / "banded" / "banded_0001.jpg")
    for name, prefix in (("visa", ""), ("dtd", "dtd/")):
        (tmp_path / f"{name}.tar").write_bytes(tar_of(tmp_path / f"{name} original", kind="gz", prefix=prefix))
        prepare_dataset(dataset=name, data_dir=tmp_path, archive=tmp_path / f"{name}.tar", sha256="none")
    assert len(read_visa(root=tmp_path / "visa", category="pcb1").test) == 3
    assert (tmp_path / "dtd" / "images" / "banded" / "banded_0001.jpg").is_file()


@pytest.mark.parametrize("dataset", ["mvtec_ad", "mvtec_loco", "mpdd"])
def test_data_whose_owner_wants_terms_accepted(tmp_path, dataset):
    with refused(f"get the archive from {SOURCES[dataset].page}, then add --archive FILE (or --url LINK)"):
        prepare_dataset(dataset=dataset, data_dir=tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_unknown_data_set_and_missing_archive(tmp_path):
    with refused("unknown data set 'coco': expected one of mvtec_ad, mvtec_loco, mpdd, visa, btad, mvtec_ad_2, "):
        prepare_dataset(dataset="coco", data_dir=tmp_path)
    with refused(f"no archive {tmp_path / 'none.tar'}"):
        prepare_dataset(dataset="mpdd", data_dir=tmp_path, archive=tmp_path / "none.tar")
    with refused(f"no archive {tmp_path / 'none.tar'}"):
        extract_archive(tmp_path / "none.tar", tmp_path, max_bytes=LIMIT)


def test_data_dir_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with refused(f"cannot write to {tmp_path / 'file'}: "):
        prepare_dataset(dataset="mpdd", data_dir=tmp_path / "file", archive=tmp_path / "none.tar")


def test_archive_of_something_else(tmp_path):
    trees.visa_root(tmp_path / "visa original")
    archive = tmp_path / "visa.tar"
    archive.write_bytes(tar_of(tmp_path / "visa original"))
    with refused(f"{archive} does not hold mpdd: its layout was not found inside"):
        prepare_dataset(dataset="mpdd", data_dir=tmp_path / "data", archive=archive)
    assert list((tmp_path / "data").iterdir()) == []


def tar_with(path: Path, **members: tarfile.TarInfo | bytes) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def zip_with(path: Path, name: str, content: bytes = b"x", *, mode: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        info.compress_type = zipfile.ZIP_DEFLATED
        bundle.writestr(info, content)
    return path


@pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "/out.txt", "..\\out.txt", "C:/out.txt", "a/.."])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_path_outside_the_target(tmp_path, name, kind):
    target = tmp_path / "inside" / "target"
    target.mkdir(parents=True)
    archive = tmp_path / f"evil.{kind}"
    if kind == "tar":
        tar_with(archive, **{name: b"x"})
    else:
        zip_with(archive, name)
    with refused(f"refused {archive}: {name!r} leads outside the target folder"):
        extract_archive(archive, target, max_bytes=LIMIT)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [archive]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_tar_with_link_or_device(tmp_path, kind):
    info = tarfile.TarInfo("innocent")
    info.type, info.linkname = kind, "/etc/passwd"
    archive = tar_with(tmp_path / "evil.tar", link=info)
    (tmp_path / "target").mkdir()
    with refused(f"refused {archive}: 'innocent' is a link or a device"):
        extract_archive(archive, tmp_path / "target", max_bytes=LIMIT)
    assert list((tmp_path / "target").iterdir()) == []


def test_zip_with_link(tmp_path):
    archive = zip_with(tmp_path / "evil.zip", "innocent", b"/etc/passwd", mode=stat.S_IFLNK | 0o777)
    (tmp_path / "target").mkdir()
    with refused(f"refused {archive}: 'innocent' is a link or a device"):
        extract_archive(archive, tmp_path / "target", max_bytes=LIMIT)


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_bomb(tmp_path, kind):
    archive = tmp_path / f"bomb.{kind}"
    (tmp_path / "zeros").mkdir()
    (tmp_path / "zeros" / "a").write_bytes(bytes(3_000_000))
    (tmp_path / "zeros" / "b").write_bytes(bytes(3_000_000))
    archive.write_bytes(tar_of(tmp_path / "zeros") if kind == "tar" else b"")
    if kind == "zip":
        zip_with(archive, "a", bytes(6_000_000))
    assert archive.stat().st_size < 10_000
    (tmp_path / "target").mkdir()
    with refused(f"refused {archive}: it unpacks to more than 0.005 GB"):
        extract_archive(archive, tmp_path / "target", max_bytes=5_000_000)
    assert sum(path.stat().st_size for path in (tmp_path / "target").iterdir()) <= 5_000_000


def test_too_many_entries(tmp_path):
    archive = tar_with(tmp_path / "many.tar", a=b"1", b=b"2", c=b"3")
    (tmp_path / "target").mkdir()
    with refused(f"refused {archive}: more than 2 entries"):
        extract_archive(archive, tmp_path / "target", max_bytes=LIMIT, max_files=2)


def test_same_path_twice(tmp_path):
    archive = tmp_path / "twice.tar"
    with tarfile.open(archive, "w") as tar:
        for content in (b"1", b"2"):
            info = tarfile.TarInfo("a")
            info.size = 1
            tar.addfile(info, io.BytesIO(content))
    (tmp_path / "target").mkdir()
    with refused(f"refused {archive}: it holds the path {tmp_path / 'target' / 'a'} twice"):
        extract_archive(archive, tmp_path / "target", max_bytes=LIMIT)


def test_not_an_archive(tmp_path):
    (tmp_path / "page.tar").write_text("<html>please log in</html>")
    with refused(f"cannot unpack {tmp_path / 'page.tar'}: neither a tar nor a zip archive"):
        extract_archive(tmp_path / "page.tar", tmp_path, max_bytes=LIMIT)


@pytest.mark.parametrize("kind", ["xz", "gz", "bz2", "zip"])
def test_damaged_archive(tmp_path, kind):
    # More than two blocks of bz2, which are 900 kB each: half of one block is no archive at all.
    (tmp_path / "original").mkdir()
    (tmp_path / "original" / "noise").write_bytes(np.random.default_rng(0).bytes(2_000_000))
    whole = zip_of(tmp_path / "original") if kind == "zip" else tar_of(tmp_path / "original", kind=kind)
    archive = tmp_path / f"cut.{kind}"
    if kind == "zip":
        archive.write_bytes(whole[:20_000] + bytes(100) + whole[20_100:])
    else:
        archive.write_bytes(whole[: len(whole) // 2])
    (tmp_path / "target").mkdir()
    with refused(f"cannot unpack {archive}: it is damaged ("):
        extract_archive(archive, tmp_path / "target", max_bytes=LIMIT)


def test_encrypted_zip(tmp_path):
    archive = zip_with(tmp_path / "secret.zip", "a")
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    (tmp_path / "target").mkdir()
    with refused(f"cannot unpack {archive}: it is encrypted"):
        extract_archive(archive, tmp_path / "target", max_bytes=LIMIT)


def test_zip_with_an_entry_without_a_name(tmp_path):
    archive = zip_with(tmp_path / "odd.zip", "name")
    archive.write_bytes(archive.read_bytes().replace(b"name", b"\0ame"))  # names end at the zero
    (tmp_path / "target").mkdir()
    with refused(f"cannot unpack {archive}: it is damaged"):
        extract_archive(archive, tmp_path / "target", max_bytes=LIMIT)


def test_disk_error_is_one_line(tmp_path, monkeypatch):
    archive = tar_with(tmp_path / "a.tar", a=b"1")
    (tmp_path / "target").mkdir()

    def full(*args: object, **kwargs: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archives, "_copy", full)
    with refused(f"cannot unpack {archive}: No space left on device"):
        extract_archive(archive, tmp_path / "target", max_bytes=LIMIT)


def test_read_only_modes_are_not_taken_over(tmp_path):
    info = tarfile.TarInfo("a/b")
    info.size, info.mode = 1, 0o400
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(info, io.BytesIO(b"1"))
    (tmp_path / "target").mkdir()
    assert extract_archive(tmp_path / "a.tar", tmp_path / "target", max_bytes=LIMIT) == 1
    assert (tmp_path / "target" / "a" / "b").stat().st_mode & 0o200


def test_command(tmp_path, server, mvtec_tar, capsys):
    options = served(server, mvtec_tar)
    arguments = ["prepare", "--dataset", "mvtec_ad", "--data-dir", str(tmp_path / "data"), "--url", options["url"]]
    assert main([*arguments, "--sha256", options["sha256"]]) == 0
    assert capsys.readouterr().out == f"mvtec_ad is ready in {tmp_path / 'data' / 'mvtec_ad'}\n"
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'data' / 'mvtec_ad'} already holds mvtec_ad")
