"""Device, precision and thresholds: what was asked for, or what is sensible here."""

import math
import numbers

import torch

from dmdd.core.errors import UserError
from dmdd.models.detector import SPEC_FILE, Detector

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(device: str | torch.device | None) -> torch.device:
    """Find the device to run on.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; CUDA if there is one, if None.

    Returns:
        A device that is there.

    Raises:
        UserError: It is not.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device("cuda" if device == "gpu" else device)
        torch.empty(0, device=found)
        if found.type == "meta":  # a place for shapes without numbers
            raise RuntimeError
    except (RuntimeError, AssertionError, TypeError):  # the second is how a PyTorch without CUDA says so
        raise UserError(f"device={device} is not on this machine; device=cpu is") from None
    return found


def choose_precision(precision: str, device: torch.device) -> torch.dtype | None:
    """Find the type to autocast to.

    Args:
        precision: One of ``PRECISIONS``.
        device: Where it is to be computed.

    Returns:
        The type; None for float32, which needs no autocast.

    Raises:
        UserError: There is no such precision, or not on this device.
    """
    if str(precision) not in PRECISIONS:
        raise UserError(f"precision={precision}: choose one of {', '.join(PRECISIONS)}")
    if precision == "float16" and device.type == "cpu":
        raise UserError("precision=float16 needs a GPU; the CPU has float32 and bfloat16")
    return PRECISIONS[precision]


def choose_threshold(name: str, given: float | None, detector: Detector) -> float | None:
    """Take the threshold that was given, else the detector's.

    Args:
        name: ``image_threshold`` or ``pixel_threshold``.
        given: In [0, 1], or None.
        detector: Calibrated or not.

    Returns:
        The threshold; None if there is none.

    Raises:
        UserError: It is no number or out of range.
    """
    value = detector.calibration.get(name) if given is None else given
    if value is None:
        return None
    # A calibrated threshold may lie just above 1: the smallest number above the largest normal score.
    limit = 1 if given is not None else math.inf
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= float(value) <= limit:
        place = "" if given is not None else f" in {SPEC_FILE}"
        raise UserError(f"{name}={value}{place}: give a number from 0 to 1")
    return float(value)
