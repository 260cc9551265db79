"""Measure the speed of a trained detector: ``python -m dmdd.bench model=runs/.../model``."""

import sys
from pathlib import Path
from typing import Any

from dmdd.config.compose import run_command


def main(arguments: list[str] | None = None) -> int:
    """Run the entry point.

    Args:
        arguments: ``NAME=VALUE``; ``sys.argv[1:]`` if None.

    Returns:
        Exit code.
    """
    return run_command(bench, "bench", arguments)


def bench(config: Any) -> None:
    """Measure as configured, print the table and write the JSON.

    Args:
        config: ``conf/bench.yaml`` composed.

    Raises:
        UserError: The model or a setting cannot be used.
    """
    from importlib.metadata import version

    import numpy as np
    import torch

    from dmdd.core import hardware, provenance
    from dmdd.core.errors import UserError, check_positive
    from dmdd.core.failures import report_write_errors
    from dmdd.deploy.bench.engines import ENGINES, open_engines
    from dmdd.deploy.bench.speed import measure, print_speed
    from dmdd.deploy.export.metadata import PACKAGES
    from dmdd.experiment import outputs
    from dmdd.models.detector import Detector

    if config.model is None:
        raise UserError("model is missing: give model=FOLDER, the model folder of a run")
    unknown = [name for name in config.engines if name not in ENGINES]
    if unknown or not config.engines:
        raise UserError(f"engines={list(config.engines)}: choose from {', '.join(ENGINES)}")
    if len(config.image_size) != 2:
        raise UserError(f"image_size={list(config.image_size)}: give height and width, as in image_size=[1024,1024]")
    for name, value in (("image_size", side) for side in config.image_size):
        check_positive(name, value)
    check_positive("runs", config.runs)
    for size in config.batches:
        check_positive("batches", size)
    if config.threads is not None:
        check_positive("threads", config.threads)
    detector = Detector.load(config.model)
    threads = config.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    shape = (max([1, *config.batches]), *config.image_size, 3)
    images = np.random.default_rng(config.seed).integers(0, 256, shape, np.uint8)
    rows = {}
    with open_engines(
        list(config.engines), detector, Path(config.model), size=tuple(config.image_size), threads=threads
    ) as engines:
        for name, engine in engines:
            rows[name] = measure(engine, images, runs=config.runs, batches=list(config.batches))
    report = {
        "model": str(config.model),
        "image_size": list(config.image_size),
        "input_size": list(detector.input_size),
        "threads": threads,
        "runs": config.runs,
        "engines": rows,
        "device": hardware.describe_device("cpu"),
        "versions": provenance.describe_versions() | {package: version(package) for package in PACKAGES},
    }
    print_speed(report)
    with report_write_errors(Path(config.output).parent, then="", own=False):
        outputs.write_result(Path(config.output), report)


if __name__ == "__main__":
    sys.exit(main())
