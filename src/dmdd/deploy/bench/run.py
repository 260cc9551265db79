"""A measurement of speed from its settings to a report."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dmdd.config.schema import BenchSettings
from dmdd.core import hardware, provenance
from dmdd.core.errors import UserError
from dmdd.deploy.bench.engines import ENGINES, open_engines
from dmdd.deploy.bench.speed import measure
from dmdd.deploy.export.metadata import PACKAGES
from dmdd.models.detector import Detector


def measure_speed(settings: BenchSettings) -> dict[str, Any]:
    """Time every engine on noise images.

    Args:
        settings: From ``BenchSettings.compose(...)``.

    Returns:
        What the JSON of ``dmdd bench`` holds.

    Raises:
        UserError: The model or a setting cannot be used.
    """
    unknown = [name for name in settings.engines if name not in ENGINES]
    if unknown or not settings.engines:
        raise UserError(f"engines={list(settings.engines)}: choose from {', '.join(ENGINES)}")
    detector = Detector.load(settings.model)
    threads = settings.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    return {
        "model": settings.model,
        "image_size": list(settings.image_size),
        "input_size": list(detector.input_size),
        "threads": threads,
        "runs": settings.runs,
        "engines": _time(settings, detector, threads),
        "device": hardware.describe_device("cpu"),
        "versions": provenance.describe_versions() | {package: version(package) for package in PACKAGES},
    }


def _time(settings: BenchSettings, detector: Detector, threads: int) -> dict[str, Any]:
    shape = (max([1, *settings.batches]), *settings.image_size, 3)
    images = np.random.default_rng(settings.seed).integers(0, 256, shape, np.uint8)
    names, model = list(settings.engines), Path(settings.model)
    with open_engines(names, detector, model, size=settings.image_size, threads=threads) as engines:
        return {
            name: measure(engine, images, runs=settings.runs, batches=list(settings.batches))
            for name, engine in engines
        }
