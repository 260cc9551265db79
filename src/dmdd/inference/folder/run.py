"""A prediction from its settings to a folder of scores and pictures."""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dmdd.config.schema import PredictSettings
from dmdd.core.errors import warn
from dmdd.inference.folder.inputs import Listing, find_unread
from dmdd.inference.folder.progress import Progress, StopSignal
from dmdd.inference.folder.settings import Places, check_model, check_settings, describe

if TYPE_CHECKING:
    from dmdd.inference.folder.pipeline import Scorer
    from dmdd.inference.predictor import Predictor

PREDICTOR = (
    "device",
    "precision",
    "category",
    "image_threshold",
    "pixel_threshold",
    "tile",
    "tile_px",
    "overlap",
    "roi",
    "ignore",
    "align",
)


class Predicted(NamedTuple):
    """What a prediction came to.

    Args:
        scores: ``scores.csv``.
        counts: Images that are recorded, by ``normal``, ``anomalous``, ``unjudged`` and ``bad``.
        drift: How the images called normal differ from the calibration's; None where nothing can be said.
    """

    scores: Path
    counts: Mapping[str, int]
    drift: str | None


def predict_folder(settings: PredictSettings, *, stop: StopSignal | None = None) -> Predicted:
    """Score images of a folder, or go on where an earlier call stopped.

    Args:
        settings: From ``PredictSettings.compose(...)``.
        stop: Says when to stop; None listens to no signal.

    Returns:
        The scores' file and how many images there are of each kind.

    Raises:
        UserError: The model, the input, the output or a setting cannot be used.
    """
    stop = stop or StopSignal()
    places = check_settings(settings)
    listing = None
    if not settings.watch:
        listing = Listing(places.entries, base=places.base, recursive=settings.recursive, skip=places.skip)
    warn(find_unread(places.entries, recursive=settings.recursive, skip=places.skip))
    # Only now what takes seconds to import.
    from dmdd.inference.folder.output import model_fingerprint, open_output
    from dmdd.inference.predictor import load

    predictor = load(places.model, base=places.base, **{name: getattr(settings, name) for name in PREDICTOR})
    check_model(settings, predictor)
    claim = describe(settings, places, predictor, model_fingerprint(places.model))
    with open_output(places.output, claim, overwrite=settings.overwrite):
        counts, drift = _score(settings, places, listing, predictor, stop)
    return Predicted(places.output / "scores.csv", counts, drift)


def _score(
    settings: PredictSettings, places: Places, listing: Listing | None, predictor: "Predictor", stop: StopSignal
) -> tuple[Mapping[str, int], str | None]:
    """Score what is not recorded yet, or follow the folder; count what is recorded then, and tell how it drifts."""
    from dmdd.inference.folder.ledger import Ledger
    from dmdd.inference.folder.pictures import PictureWriter
    from dmdd.inference.folder.pipeline import Scorer
    from dmdd.models.score_scale import describe_drift

    kinds: dict[str, Any] = {"maps": settings.maps or "none", "masks": settings.masks, "overlays": settings.overlays}
    pictures = PictureWriter(places.output, **kinds, middle=predictor.pixel_threshold)
    workers = settings.workers or min(8, os.cpu_count() or 1)
    with Ledger(places.output) as ledger:
        found = Counter(ledger.outcome(item) for item in listing or ())
        left = found.pop(None, 0)
        with Progress(None if listing is None else left) as progress:
            scorer = Scorer(
                predictor=predictor,
                ledger=ledger,
                pictures=pictures,
                progress=progress,
                batch_size=1 if predictor.tile else settings.batch_size,  # an image is many tiles already
                workers=workers,
            )
            if listing is None:
                _follow(settings, places, scorer, stop)
            else:
                progress.say(f"{found.total() + left} found, {found.total()} of them scored before")
                scorer.run((item for item in listing if not ledger.holds(item)), stopped=stop.requested)
                if stop.requested():
                    progress.say("stopped before the end; the same command goes on from here")
        drift = describe_drift(ledger.normal_scores(), predictor.detector.calibration)
        if listing is None:
            return ledger.counts(), drift
        return {outcome: found[outcome] + count for outcome, count in ledger.added.items()}, drift


def _follow(settings: PredictSettings, places: Places, scorer: "Scorer", stop: StopSignal) -> None:
    from dmdd.inference.folder.watching import Watcher

    watcher = Watcher(
        places.base,
        recursive=settings.recursive,
        skip=places.skip,
        is_done=scorer.ledger.holds,
        poll_s=settings.poll_s,
        settle_s=settings.settle_s,
        say=scorer.progress.say,
    )
    scorer.progress.say(f"following {places.base}; Ctrl-C or SIGTERM ends it")
    scorer.run(watcher.items(stop.requested), stopped=stop.requested, is_final=watcher.is_final)
