"""Measure a saved model on a test set: ``python -m dmdd.evaluate model=runs/.../model category=screw``."""

import sys

from dmdd.config.schema import EvaluateSettings


def main(arguments: list[str] | None = None) -> int:
    """Run the entry point.

    Args:
        arguments: Settings as ``NAME=VALUE``, and flags; ``sys.argv[1:]`` if None.

    Returns:
        Exit code.
    """
    from dmdd.experiment.leaving import run_whole

    return run_whole(evaluate, EvaluateSettings, arguments)


def evaluate(settings: EvaluateSettings) -> None:
    """Evaluate as configured, on one device.

    Args:
        settings: Of the evaluation.

    Raises:
        UserError: The model, the data or a setting cannot be used.
    """
    from dmdd.experiment.run import test

    test(settings)


if __name__ == "__main__":
    sys.exit(main())
