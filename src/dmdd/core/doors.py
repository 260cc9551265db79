"""Which packages besides this one may supply parts: data sets, anomalies, networks, loggers."""

import importlib
import os
import sys
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from dmdd.core.errors import UserError

VARIABLE = "DMDD_TARGET_PACKAGES"
GROUP = "dmdd.targets"


def opened_packages() -> tuple[str, ...]:
    """List the packages that the user allows.

    Returns:
        Those named in ``DMDD_TARGET_PACKAGES``, parted by commas, and those that an installed package names in the
        entry-point group ``dmdd.targets``.
    """
    named = [name.strip() for name in os.environ.get(VARIABLE, "").split(",")]
    return tuple(dict.fromkeys(name for name in [*named, *_installed(tuple(sys.path))] if name.isidentifier()))


@cache  # it reads a file of each installed package, and a command asks some 80 times
def _installed(path: tuple[str, ...]) -> tuple[str, ...]:
    """Name the packages of the entry-point group that are installed in ``sys.path``, which is ``path``."""
    return tuple(entry.value.partition(":")[0].partition(".")[0] for entry in entry_points(group=GROUP))


def find_opened(name: str) -> Any:
    """Look up a class or function of an allowed package.

    Args:
        name: Dotted name.

    Returns:
        What has this name.

    Raises:
        UserError: The package is not allowed, or there is no such thing in it.
    """
    package = name.partition(".")[0]
    if package not in opened_packages():
        raise UserError(f"{name} is not allowed; to use classes of {package} set {VARIABLE}={package}")
    module, _, last = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), last)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{name} cannot be imported: {error}") from None
    if str(getattr(found, "__module__", "")).partition(".")[0] != package:
        raise UserError(f"{name} is not allowed: it is not defined in {package}")
    return found
