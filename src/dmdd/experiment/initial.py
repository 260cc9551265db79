"""Start from a trained model: its student and segmentation network in place of random ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dmdd.core.errors import UserError
from dmdd.core.files import file_sha256, write_atomically
from dmdd.models.detector import WEIGHTS_FILE, Detector

PARTS = {"input_size": "image_size", "teacher": "teacher", "student": "student", "segmentation": "segmentation"}
"""Of a detector's description what must agree, and the setting that decides it."""

TRAINED_FILE = "trained_on.txt"
"""Beside the model: the images it was trained on. None of them is held out when another training starts from it."""


def start_from(detector: Detector, folder: str) -> dict[str, str]:
    """Give a detector the student and the segmentation network of a trained one.

    What is fitted after them, the whitening, levels and thresholds, is fitted anew by the run.

    Args:
        detector: Untrained.
        folder: The model folder of a run.

    Returns:
        Where the weights come from and their checksum, as the result records them.

    Raises:
        UserError: The model cannot be read, or its networks, teacher or input size are others.
    """
    try:
        earlier = Detector.load(folder)
    except UserError as error:
        raise UserError(f"init={folder}: {error}") from None
    if found := _differences(detector.spec, earlier.spec):
        raise UserError(f"init={folder} does not fit: {found}; set them alike, or leave init= out")
    own, other = detector.teacher.state_dict(), earlier.teacher.state_dict()
    if own.keys() != other.keys() or not all(torch.equal(own[name], other[name]) for name in own):
        raise UserError(
            f"init={folder} does not fit: its student learned from a teacher with other weights; "
            "give the same teacher.weights= or teacher.package=, or leave init= out"
        )
    detector.student.load_state_dict(earlier.student.state_dict())
    detector.segmentation.load_state_dict(earlier.segmentation.state_dict())
    return {"model": str(folder), "sha256": file_sha256(Path(folder) / WEIGHTS_FILE)}


def _differences(own: dict[str, Any], other: dict[str, Any]) -> str:
    """Name the settings in which two descriptions differ."""
    found = []
    for part, setting in PARTS.items():
        if not isinstance(own[part], dict):
            if own[part] != other[part]:
                found.append(f"{setting}={other[part]} there, {own[part]} here")
            continue
        for name in sorted(own[part].keys() | other[part].keys()):
            there, here = other[part].get(name), own[part].get(name)
            if there != here:
                found.append(f"{setting}.{name}={there} there, {here} here")
    return "; ".join(found)


def trained_before(folder: str | None) -> list[str]:
    """Name the images that a model was trained on.

    Args:
        folder: The model folder of a run, or None.

    Returns:
        Their places below the folder of the category; none where that is not known.
    """
    file = Path(folder or "").absolute().parent / TRAINED_FILE
    if folder is None or not file.is_file():
        return []
    return file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()


def write_trained(run_dir: Path, names: Sequence[str]) -> None:
    """Write what a model was trained on beside it.

    Args:
        run_dir: The run folder.
        names: Places of the images below the folder of the category.
    """
    write_atomically(run_dir / TRAINED_FILE, "".join(f"{name}\n" for name in names))


def doubts_of_init(folder: str | None) -> list[str]:
    """Say what is not known of the model that training starts from.

    Args:
        folder: The model folder of a run, or None.

    Returns:
        Sentences.
    """
    if folder is None or trained_before(folder):
        return []
    return [
        f"init={folder}: there is no {TRAINED_FILE} beside it, so images that it was trained on may be held out now; "
        "thresholds may come out too low"
    ]
