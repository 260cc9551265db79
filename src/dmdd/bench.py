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
    from dmdd.core.failures import report_write_errors
    from dmdd.deploy.bench.run import measure_speed
    from dmdd.deploy.bench.speed import print_speed
    from dmdd.experiment.outputs import write_result

    report = measure_speed(settings)
    print_speed(report)
    file = Path(settings.output)
    with report_write_errors(file.parent, then="", own=False):
        write_result(file, report)


if __name__ == "__main__":
    sys.exit(main())
