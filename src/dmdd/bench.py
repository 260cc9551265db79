"""Measure the speed of a trained detector: ``python -m dmdd.bench model=runs/.../model``."""

import sys
from pathlib import Path

from dmdd.config.command import run
from dmdd.config.schema import BenchSettings


def main(arguments: list[str] | None = None) -> int:
    """Run the entry point.

    Args:
        arguments: ``NAME=VALUE``; ``sys.argv[1:]`` if None.

    Returns:
        Exit code.
    """
    return run(bench, BenchSettings, arguments)


def bench(settings: BenchSettings) -> None:
    """Measure as configured, print the table and write the JSON.

    Args:
        settings: Of the measurement.

    Raises:
        UserError: The model or a setting cannot be used.
    """
    from importlib.metadata import version

    import numpy as np
    import torch

    from dmdd.core import hardware, provenance
    from dmdd.core.errors import UserError
    from dmdd.core.failures import report_write_errors
    from dmdd.deploy.bench.engines import ENGINES, open_engines
    from dmdd.deploy.bench.speed import measure, print_speed
    from dmdd.deploy.export.metadata import PACKAGES
    from dmdd.experiment import outputs
    from dmdd.models.detector import Detector

    unknown = [name for name in settings.engines if name not in ENGINES]
    if unknown or not settings.engines:
        raise UserError(f"engines={list(settings.engines)}: choose from {', '.join(ENGINES)}")
    detector = Detector.load(settings.model)
    threads = settings.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    shape = (max([1, *settings.batches]), *settings.image_size, 3)
    images = np.random.default_rng(settings.seed).integers(0, 256, shape, np.uint8)
    rows = {}
    with open_engines(
        list(settings.engines), detector, Path(settings.model), size=settings.image_size, threads=threads
    ) as engines:
        for name, engine in engines:
            rows[name] = measure(engine, images, runs=settings.runs, batches=list(settings.batches))
    report = {
        "model": str(settings.model),
        "image_size": list(settings.image_size),
        "input_size": list(detector.input_size),
        "threads": threads,
        "runs": settings.runs,
        "engines": rows,
        "device": hardware.describe_device("cpu"),
        "versions": provenance.describe_versions() | {package: version(package) for package in PACKAGES},
    }
    print_speed(report)
    with report_write_errors(Path(settings.output).parent, then="", own=False):
        outputs.write_result(Path(settings.output), report)


if __name__ == "__main__":
    sys.exit(main())
