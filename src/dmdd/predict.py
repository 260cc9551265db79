"""Score images with a trained model: ``python -m dmdd.predict model=runs/.../model input=FOLDER output=FOLDER``."""

import os
import sys
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dmdd.config.compose import run_command

if TYPE_CHECKING:
    from dmdd.inference.folder.inputs import Listing
    from dmdd.inference.folder.pipeline import Scorer
    from dmdd.inference.folder.progress import StopSignal
    from dmdd.inference.folder.settings import Places
    from dmdd.inference.predictor import Predictor

SOME_BAD = 3
"""Exit code: finished, but some images could not be read."""

PATHS = ("model", "input", "output")
PREDICTOR = ("device", "precision", "image_threshold", "pixel_threshold", "tile", "tile_px", "overlap")


def main(arguments: list[str] | None = None) -> int:
    """Run the entry point.

    Args:
        arguments: Settings; ``sys.argv[1:]`` if None.

    Returns:
        Exit code: 0; 3 if finished but some images were bad; 2 after bad input; 128 plus the signal's number if stopped
        by one, but 0 with ``watch=true``.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_command(predict, "predict", [_quote(argument) for argument in arguments])


def _quote(argument: str) -> str:
    """Quote a path, which may hold letters and signs that an override may not; lists and quoted values stay."""
    name, equals, value = argument.partition("=")
    if name not in PATHS or not value or value[0] in "[\"'":
        return argument
    return f"{name}{equals}'{value.replace(chr(39), chr(92) + chr(39))}'"


def predict(config: Any) -> int:
    """Predict as configured.

    Args:
        config: ``conf/predict.yaml`` composed.

    Returns:
        Exit code.

    Raises:
        UserError: The model, the input, the output or a setting cannot be used.
    """
    from omegaconf import OmegaConf

    from dmdd.inference.folder.progress import StopSignal

    settings: Any = OmegaConf.to_container(config)
    with StopSignal() as stop:  # from the start: loading takes seconds
        from dmdd.inference.folder.inputs import Listing
        from dmdd.inference.folder.output import model_fingerprint, open_output
        from dmdd.inference.folder.settings import check_model, check_settings, describe
        from dmdd.inference.predictor import load

        places = check_settings(settings)
        listing = None
        if not settings["watch"]:
            listing = Listing(places.entries, base=places.base, recursive=settings["recursive"], skip=places.skip)
        predictor = load(places.model, **{name: settings[name] for name in PREDICTOR})
        check_model(settings, predictor)
        claim = describe(settings, places, predictor, model_fingerprint(places.model))
        with open_output(places.output, claim, overwrite=settings["overwrite"]):
            counts = _score(settings, places, listing, predictor, stop)
    print(f"scores    {places.output / 'scores.csv'}")
    print(_summary(counts))
    if stop.number is not None:
        return 0 if settings["watch"] else 128 + stop.number
    return SOME_BAD if counts["bad"] else 0


def _score(
    settings: dict[str, Any],
    places: "Places",
    listing: "Listing | None",
    predictor: "Predictor",
    stop: "StopSignal",
) -> Mapping[str, int]:
    """Score what is not recorded yet, or follow the folder, and count what is recorded then."""
    from dmdd.inference.folder.ledger import Ledger
    from dmdd.inference.folder.pictures import PictureWriter
    from dmdd.inference.folder.pipeline import Scorer
    from dmdd.inference.folder.progress import Progress

    kinds = {"maps": settings["maps"] or "none", "masks": settings["masks"], "overlays": settings["overlays"]}
    pictures = PictureWriter(places.output, **kinds, middle=predictor.pixel_threshold)
    workers = settings["workers"] or min(8, os.cpu_count() or 1)
    with Ledger(places.output) as ledger:
        found = Counter(ledger.outcome(item) for item in listing or ())
        left = found.pop(None, 0)
        with Progress(None if listing is None else left) as progress:
            scorer = Scorer(
                predictor=predictor,
                ledger=ledger,
                pictures=pictures,
                progress=progress,
                batch_size=1 if settings["tile"] else settings["batch_size"],  # an image is many tiles already
                workers=workers,
            )
            if listing is None:
                _follow(settings, places, scorer, stop)
            else:
                progress.say(f"{found.total() + left} found, {found.total()} of them scored before")
                scorer.run((item for item in listing if not ledger.holds(item)), stopped=stop.requested)
                if stop.requested():
                    progress.say("stopped before the end; the same command goes on from here")
        if listing is None:
            return ledger.counts()
        return {outcome: found[outcome] + count for outcome, count in ledger.added.items()}


def _follow(settings: dict[str, Any], places: "Places", scorer: "Scorer", stop: "StopSignal") -> None:
    from dmdd.inference.folder.watching import Watcher

    watcher = Watcher(
        places.base,
        recursive=settings["recursive"],
        skip=places.skip,
        is_done=scorer.ledger.holds,
        poll_s=settings["poll_s"],
        settle_s=settings["settle_s"],
        say=scorer.progress.say,
    )
    scorer.progress.say(f"following {places.base}; Ctrl-C or SIGTERM ends it")
    scorer.run(watcher.items(stop.requested), stopped=stop.requested, is_final=watcher.is_final)


def _summary(counts: Mapping[str, int]) -> str:
    unjudged = f"{counts['unjudged']} without a threshold, " if counts["unjudged"] else ""
    shown = f"{counts['normal']} normal, {counts['anomalous']} anomalous, {unjudged}{counts['bad']} bad"
    total = sum(counts.values())
    return f"{total} image{'' if total == 1 else 's'}: {shown}"


if __name__ == "__main__":
    sys.exit(main())
