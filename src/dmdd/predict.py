"""Score images with a trained model: ``python -m dmdd.predict model=runs/.../model input=FOLDER output=FOLDER``."""

import sys
from collections.abc import Mapping

from dmdd.config.command import run
from dmdd.config.schema import PredictSettings

SOME_BAD = 3
"""Exit code: finished, but some images could not be read."""


def main(arguments: list[str] | None = None) -> int:
    """Run the entry point.

    Args:
        arguments: Settings as ``NAME=VALUE``; ``sys.argv[1:]`` if None.

    Returns:
        Exit code: 0; 3 if finished but some images were bad; 2 after bad input; 128 plus the signal's number if stopped
        by one, but 0 with ``watch=true``.
    """
    return run(predict, PredictSettings, arguments)


def predict(settings: PredictSettings) -> int:
    """Predict as configured.

    Args:
        settings: Of the prediction.

    Returns:
        Exit code.

    Raises:
        UserError: The model, the input, the output or a setting cannot be used.
    """
    from dmdd.inference.folder.progress import StopSignal

    with StopSignal() as stop:  # from the start: loading takes seconds
        from dmdd.inference.folder.run import predict_folder

        scores, counts, drift = predict_folder(settings, stop=stop)
    print(f"scores    {scores}")
    if drift is not None:
        print(f"drift     {drift}")
    print(_summary(counts))
    if stop.number is not None:
        return 0 if settings.watch else 128 + stop.number
    return SOME_BAD if counts["bad"] else 0


def _summary(counts: Mapping[str, int]) -> str:
    unjudged = f"{counts['unjudged']} without a threshold, " if counts["unjudged"] else ""
    shown = f"{counts['normal']} normal, {counts['anomalous']} anomalous, {unjudged}{counts['bad']} bad"
    total = sum(counts.values())
    return f"{total} image{'' if total == 1 else 's'}: {shown}"


if __name__ == "__main__":
    sys.exit(main())
