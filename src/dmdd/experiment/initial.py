"""Start from a trained model: its student and segmentation network in place of random ones."""

from pathlib import Path
from typing import Any

import torch

from dmdd.core.errors import UserError
from dmdd.core.files import file_sha256
from dmdd.models.detector import WEIGHTS_FILE, Detector

PARTS = {"input_size": "image_size", "teacher": "teacher", "student": "student", "segmentation": "segmentation"}
"""Of a detector's description what must agree, and the setting that decides it."""


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
