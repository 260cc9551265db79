"""The output folder: it belongs to one model with one set of settings, and to one process at a time."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dmdd.core.errors import UserError
from dmdd.core.files import write_atomically
from dmdd.inference.folder.ledger import CLAIM, CSV, JSONL
from dmdd.models.detector import SPEC_FILE, WEIGHTS_FILE

PICTURE_FOLDERS = ("maps", "masks", "overlays")


def model_fingerprint(folder: Path) -> str:
    """Hash what decides maps and scores: weights and description, but not the thresholds, which are compared as such.

    Args:
        folder: The ``model`` folder of a run.

    Returns:
        SHA-256 in hexadecimal.
    """
    with (folder / WEIGHTS_FILE).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    spec = json.loads((folder / SPEC_FILE).read_text(encoding="utf-8"))
    for name in ("calibration", "category_calibrations", "former_calibrations"):
        spec.pop(name, None)
    digest.update(json.dumps(spec, sort_keys=True).encode())
    return digest.hexdigest()


@contextlib.contextmanager
def open_output(folder: Path, claim: dict[str, Any], *, overwrite: bool) -> Iterator[None]:
    """Take the output folder for this process, or say why not.

    Args:
        folder: Made if it does not exist.
        claim: What wrote the folder: settings that must be the same when it is continued, and the model's fingerprint.
        overwrite: Remove what an earlier prediction wrote.

    Yields:
        While the folder is taken; a killed process gives it back.

    Raises:
        UserError: It cannot be written, another process has it, it holds scores of something else, or it was written
            with another model or other settings and ``overwrite`` is false.

    Source: ours.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise UserError(
            f"output={folder}: another process is writing to this folder; wait, or give another one"
        ) from None
    except OSError as error:
        raise UserError(f"output={folder} cannot be written: {error.strerror}") from None
    try:
        _claim(folder, json.loads(json.dumps(claim)), overwrite=overwrite)
        yield
    finally:
        lock.release()


def _claim(folder: Path, claim: dict[str, Any], *, overwrite: bool) -> None:
    file = folder / CLAIM
    if not file.is_file():
        for name in (JSONL, CSV):
            if (folder / name).exists():
                raise UserError(f"output={folder} holds a {name} that predict has not written; give another folder")
    elif overwrite:
        _clear(folder)
    else:
        _compare(folder, _read_claim(file), claim)
    try:
        write_atomically(file, json.dumps(claim, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}; the same command goes on from here") from None


def _read_claim(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError):
        raise UserError(f"{file} is damaged; overwrite=true begins anew") from None


def _compare(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    if old.get("model_sha256") != new["model_sha256"]:
        difference = f"another model ({old.get('model')})"
    else:
        # The model's place may change, its content is what counts.
        changed = [name for name in new if name != "model" and old.get(name) != new[name]]
        if not changed:
            return
        difference = ", ".join(f"{name}={_shown(old.get(name))} (now {_shown(new[name])})" for name in changed)
    raise UserError(
        f"output={folder} was written with {difference}; give another folder, or overwrite=true to begin anew"
    )


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _clear(folder: Path) -> None:
    """Remove what predict writes, first what says that images are done."""
    for name in (JSONL, CSV):
        (folder / name).unlink(missing_ok=True)
    for name in PICTURE_FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
