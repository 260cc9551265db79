"""Fetching a published data set: download with resumption, checksum, safe unpacking, all in its place at once."""

import http.client
import shutil
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from dmdd.core.errors import UserError
from dmdd.core.files import file_sha256
from dmdd.data.download.archives import CHUNK_BYTES, extract_archive, free_bytes
from dmdd.data.layout_inspection import READERS
from dmdd.data.layouts import list_categories, list_visa_categories
from dmdd.data.listing import list_folders

TIMEOUT_S = 60.0
GB = 10**9


@dataclass(frozen=True)
class Source:
    """Where a published data set comes from.

    Args:
        page: The owner's page, for a human.
        url: Direct address of the archive; None where the owner wants terms accepted or a form filled first.
        sha256: Known checksum of the archive; None where none is known.
        max_bytes: Most bytes that the unpacked data may have, about twice what the data set has.

    Source: ours.
    """

    page: str
    url: str | None
    sha256: str | None
    max_bytes: int


# No owner publishes checksums beside the archives. These are the ones that anomalib (2.x, anomalib/data/datamodules and
# models/image/draem) verifies its downloads with; several independent downloads report the same for MVTec AD and VisA.
MVTEC = "https://www.mvtec.com/company/research/datasets"
VICOS = "https://www.vicos.si/resources"
SOURCES = {
    "mvtec_ad": Source(
        page=f"{MVTEC}/mvtec-ad",
        url=None,
        sha256="cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d",
        max_bytes=12 * GB,
    ),
    "mvtec_loco": Source(
        page=f"{MVTEC}/mvtec-loco",
        url=None,
        sha256="9e7c84dba550fd2e59d8e9e231c929c45ba737b6b6a6d3814100f54d63aae687",
        max_bytes=14 * GB,
    ),
    "mpdd": Source(page="https://github.com/stepanje/MPDD", url=None, sha256=None, max_bytes=6 * GB),
    "visa": Source(
        page="https://github.com/amazon-science/spot-diff",
        url="https://amazon-visual-anomaly.s3.us-west-2.amazonaws.com/VisA_20220922.tar",
        sha256="2eb8690c803ab37de0324772964100169ec8ba1fa3f7e94291c9ca673f40f362",
        max_bytes=6 * GB,
    ),
    "btad": Source(
        page="https://github.com/pankajmishra000/VT-ADL",
        url="https://avires.dimi.uniud.it/papers/btad/btad.zip",
        sha256="461c9387e515bfed41ecaae07c50cf6b10def647b36c9e31d239ab2736b10d2a",
        max_bytes=10 * GB,
    ),
    "mvtec_ad_2": Source(page=f"{MVTEC}/mvtec-ad-2", url=None, sha256=None, max_bytes=80 * GB),
    "mvtec_3d": Source(page=f"{MVTEC}/mvtec-3d-ad", url=None, sha256=None, max_bytes=40 * GB),
    "kolektor_sdd": Source(page=f"{VICOS}/kolektorsdd", url=None, sha256=None, max_bytes=2 * GB),
    "kolektor_sdd2": Source(page=f"{VICOS}/kolektorsdd2", url=None, sha256=None, max_bytes=3 * GB),
    "dagm": Source(page="https://zenodo.org/records/12750201", url=None, sha256=None, max_bytes=8 * GB),
    "dtd": Source(
        page="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        url="https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
        sha256="e42855a52a4950a3b59612834602aa253914755c95b0cff9ead6d07395f8e205",
        max_bytes=2 * GB,
    ),
}


def prepare_dataset(
    *,
    dataset: str,
    data_dir: Path | str,
    archive: Path | None = None,
    url: str | None = None,
    sha256: str | None = None,
) -> Path:
    """Bring a published data set into the data folder.

    Unpacked beside its place and moved there when complete; a download that broke off is resumed by the next call. An
    archive of some categories only is added to those that are there.

    Args:
        dataset: One of `SOURCES`.
        data_dir: The folder that is to hold `<dataset>/`; made if it is missing.
        archive: An archive that is already on this machine; None downloads it.
        url: Address to use instead of the official one.
        sha256: Checksum to expect instead of the known one; "none" for no check.

    Returns:
        The folder `<data_dir>/<dataset>`.

    Raises:
        UserError: Unknown data set, no address known, already there, failed download, wrong checksum, unsafe or
            damaged archive, an archive of something else.

    Source: ours.
    """
    if dataset not in SOURCES:
        raise UserError(f"unknown data set {dataset!r}: expected one of {', '.join(SOURCES)}")
    source = SOURCES[dataset]
    target = Path(data_dir) / dataset
    expected = source.sha256 if sha256 is None else None if sha256 == "none" else sha256
    if archive is None:
        if _layout_entries(dataset, target):
            raise UserError(f"{target.resolve()} already holds {dataset}: look it over with python -m dmdd.data check")
        address = url or source.url
        if address is None:
            raise UserError(
                f"{dataset} has no direct address, its owner wants its terms accepted: get the archive from "
                f"{source.page}, then add --archive FILE (or --url LINK)"
            )
    _make_folder(Path(data_dir))
    downloaded = None
    if archive is None:
        assert address is not None, "checked above"
        name = Path(urllib.parse.urlsplit(address).path).name or f"{dataset}.archive"
        downloaded = archive = download(address, Path(data_dir) / f".{dataset}-{name}")
    _verify(archive, sha256=expected, downloaded=downloaded is not None)
    _unpack(archive, dataset=dataset, target=target, max_bytes=source.max_bytes)
    if downloaded is not None:
        downloaded.unlink()
    return target


def download(url: str, target: Path) -> Path:
    """Download a file, going on where an earlier call broke off.

    The bytes gather in `<target>.part`; `<target>.version` keeps what the server calls this version of the file, so
    that a file which has changed since, or a server that names no version, starts anew.

    Args:
        url: An http or https address.
        target: Where the file goes; if it is there, nothing is done.

    Returns:
        `target`.

    Raises:
        UserError: Another kind of address, no connection, an HTTP error, too little space, a connection that broke.

    Source: ours.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise UserError(f"cannot download {url}: expected an http or https address")
    if target.exists():
        return target
    part, version = target.with_name(target.name + ".part"), target.with_name(target.name + ".version")
    try:
        with _open(url, part=part, version=version) as response:
            _receive(response, part=part, version=version, url=url)
    except urllib.error.HTTPError as error:
        error.close()
        # 416, nothing left to send: an earlier call ended between the last byte and the renaming below.
        if error.code != 416:
            raise UserError(f"cannot download {url}: the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        have = part.stat().st_size if part.exists() else 0
        raise UserError(f"download of {url} broke off after {have} bytes ({reason}): run again to go on") from error
    part.rename(target)
    version.unlink(missing_ok=True)
    return target


def _open(url: str, *, part: Path, version: Path) -> http.client.HTTPResponse:
    request = urllib.request.Request(url, headers={"User-Agent": "dmdd"})
    if part.exists() and part.stat().st_size and version.exists():
        request.add_header("Range", f"bytes={part.stat().st_size}-")
        request.add_header("If-Range", version.read_text(encoding="ascii"))
    return urllib.request.urlopen(request, timeout=TIMEOUT_S)


def _receive(response: http.client.HTTPResponse, *, part: Path, version: Path, url: str) -> None:
    have = 0
    if response.status == 206:
        have = part.stat().st_size
        if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise UserError(f"cannot go on with {url}: the server sends another part; delete {part} and run again")
    else:
        _keep_version(response, version)
    length = response.headers.get("Content-Length")
    total = have + int(length) if length is not None and length.isdigit() else None
    if total is not None and total - have > free_bytes(part.parent):
        raise UserError(f"cannot download {url}: {total - have} bytes are more than the free space of {part.parent}")
    with part.open("ab" if have else "wb") as file:
        while chunk := response.read(CHUNK_BYTES):
            file.write(chunk)
            have += len(chunk)
            _show_progress(have, total)
    if total is not None and have < total:
        raise UserError(f"download of {url} broke off after {have} of {total} bytes: run again to go on")


def _keep_version(response: http.client.HTTPResponse, version: Path) -> None:
    etag = response.headers.get("ETag", "")
    # A weak tag (W/"...") promises equal meaning, not equal bytes, and may not be used to resume.
    name = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
    if name.isascii() and name:
        version.write_text(name, encoding="ascii")
    else:
        version.unlink(missing_ok=True)


def _show_progress(have: int, total: int | None) -> None:
    if sys.stderr.isatty():
        of = f" of {total / 1e6:.0f} MB ({100 * have / total:.0f} %)" if total else " MB"
        print(f"\r{have / 1e6:.0f}{of}", end="\n" if have == total else "", file=sys.stderr, flush=True)


def _verify(archive: Path, *, sha256: str | None, downloaded: bool) -> None:
    if not archive.is_file():
        raise UserError(f"no archive {archive.resolve()}")
    if sha256 is None:
        return
    found = file_sha256(archive)
    if found != sha256.lower():
        if downloaded:
            archive.unlink()
        hint = "run again to fetch it anew" if downloaded else "give --sha256 none if it is another release or a part"
        raise UserError(f"wrong checksum of {archive}: sha256 {found}, expected {sha256}; {hint}")


def _unpack(archive: Path, *, dataset: str, target: Path, max_bytes: int) -> None:
    """Unpack beside the target, find the layout inside, and move its entries into place."""
    staging = Path(tempfile.mkdtemp(prefix=f".{dataset}-", dir=target.parent))
    try:
        extract_archive(archive, staging, max_bytes=max_bytes)
        root = _find_layout(dataset, staging)
        if root is None:
            raise UserError(f"{archive} does not hold {dataset}: its layout was not found inside")
        present = [name for name in _layout_entries(dataset, root) if (target / name).exists()]
        if present:
            raise UserError(f"{target.resolve()} already holds {', '.join(present)}: move it away first")
        target.mkdir(exist_ok=True)
        for entry in sorted(root.iterdir()):
            if not (target / entry.name).exists():
                entry.rename(target / entry.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _find_layout(dataset: str, folder: Path, *, depth: int = 2) -> Path | None:
    """Find the folder whose entries are the layout's: archives wrap it in none, one or two folders."""
    if _layout_entries(dataset, folder):
        return folder
    if depth == 0:
        return None
    found = (_find_layout(dataset, subfolder, depth=depth - 1) for subfolder in list_folders(folder))
    return next((path for path in found if path is not None), None)


def _layout_entries(dataset: str, folder: Path) -> list[str]:
    """Name the folders by which the layout is known: the categories, or `images` of DTD."""
    if dataset == "dtd":
        return ["images"] if list_folders(folder / "images") else []
    if dataset in READERS:
        return READERS[dataset][1](folder)
    return list_visa_categories(folder) if dataset == "visa" else list_categories(folder)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder.resolve()}: {error.strerror}") from error
