"""Train DMDD in two stages on one category, measure it once, and leave a run folder: ``python -m dmdd.train``."""

import sys

from dmdd.config.schema import TrainSettings


def main(arguments: list[str] | None = None) -> int:
    """Run the entry point.

    Args:
        arguments: Settings as ``NAME=VALUE``, and flags; ``sys.argv[1:]`` if None.

    Returns:
        Exit code.
    """
    from dmdd.experiment.leaving import run_whole

    return run_whole(train, TrainSettings, arguments)


def train(settings: TrainSettings) -> str | float:
    """Train as configured, on one device or several.

    Args:
        settings: Of the run.

    Returns:
        The run folder; or, if ``objective`` names a figure of the result, that figure.

    Raises:
        UserError: Something given cannot be used.
    """
    from dmdd.experiment.run import fit

    finished = fit(settings)
    return str(finished.folder) if settings.objective is None else finished.figure(settings.objective)


if __name__ == "__main__":
    sys.exit(main())
