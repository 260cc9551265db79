"""Maps and scores that come from another package."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from dmdd.core.doors import find_opened
from dmdd.core.errors import UserError


class Evidence(NamedTuple):
    """What the networks say of a batch, from which a map is made.

    Args:
        teacher: Teacher features ``(B, C_l, h_l, w_l)`` at strides 4, 8, 16.
        normality: The student's normality features, same shapes.
        abnormality: Its abnormality features, same shapes.
        segmentation: The sigmoid of stage 2, ``(B, 1, h_1, w_1)`` float32 in [0, 1].
    """

    teacher: list[Tensor]
    normality: list[Tensor]
    abnormality: list[Tensor]
    segmentation: Tensor


OwnMap = Callable[[Evidence], Tensor]
"""Gives ``(B, 1, h_1, w_1)`` float32 in [0, 1], large where a pixel looks anomalous."""

OwnScore = Callable[[Tensor], Tensor]
"""From the values of a map, ``(B, N)`` in [0, 1], to image scores ``(B,)`` in [0, 1]."""


def find_function(setting: str, name: str) -> Callable[..., Tensor]:
    """Find a function of a package that the user allows (:mod:`dmdd.core.doors`).

    Args:
        setting: What named it, for messages.
        name: Dotted name.

    Returns:
        The function.

    Raises:
        UserError: Its package is not allowed, or it is no function.
    """
    found = find_opened(name)
    if not callable(found) or isinstance(found, type):
        raise UserError(f"{setting}={name}: expected a function")
    return found


def compute(name: str, function: OwnMap, evidence: Evidence) -> Tensor:
    """Compute a map of another package.

    Args:
        name: Of the function, for messages.
        function: The map.
        evidence: What the networks say.

    Returns:
        ``(B, 1, h_1, w_1)`` float32.

    Raises:
        UserError: It has another shape.
    """
    found = function(evidence)
    if found.shape != evidence.segmentation.shape:
        wanted = tuple(evidence.segmentation.shape)
        raise UserError(f"the map {name} has the shape {tuple(found.shape)}, expected {wanted}")
    return found.float()
