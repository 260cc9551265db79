"""The page sets thresholds: from scores of dropped photographs to a new calibration, shown first, then kept."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel, Field, ValidationError
from starlette.requests import Request

from dmdd.deploy.calibrate import job
from dmdd.deploy.calibrate.subject import ExportedModel, Subject
from dmdd.deploy.serve.api import Category, Inspected, Inspection
from dmdd.deploy.serve.exported import ExportedPredictor
from dmdd.deploy.serve.limits import Refusal, limited_stream
from dmdd.deploy.serve.model import ServedModel
from dmdd.models.score_scale import ScoreScale

MOST_PHOTOGRAPHS = 2000
"""Good or bad photographs of one calibration; a hundred good ones promise 1 %."""

REQUEST_BYTES = 1_000_000

Unit = Annotated[float, Field(ge=0, le=1)]


class Scored(BaseModel):
    """What is kept of a photograph."""

    raw_score: Unit
    peak: Unit = Field(description="The map's largest value.")


class CalibrationRequest(BaseModel):
    """Photographs that thresholds are to be set from."""

    good: list[Scored] = Field(min_length=1, max_length=MOST_PHOTOGRAPHS)
    bad: list[Scored] = Field(default=[], max_length=MOST_PHOTOGRAPHS)
    rate: float = Field(gt=0, lt=1, description="Wanted share of good images at or above the threshold.")
    keep: bool = Field(default=False, description="Put the calibration in force and write it to the model.")


class Shown(BaseModel):
    """The same photographs under one calibration."""

    threshold: float | None = Field(description="What the scores are compared with.")
    good: list[float] = Field(description="Scores that users see.")
    bad: list[float]


class CalibrationAnswer(BaseModel):
    """What changes."""

    before: Shown
    now: Shown
    promise: str
    strange: list[int] = Field(description="Places of good photographs that score like none of the others.")
    kept: bool


def add_calibration(app: FastAPI, inspection: Inspection) -> None:
    """Add the routes behind the page's calibration.

    Args:
        app: The application of :func:`dmdd.deploy.serve.api.build_api`.
        inspection: The inspection behind it.
    """

    @app.post("/page/score", include_in_schema=False)
    async def score(request: Request) -> Scored:
        scored: Scored = await inspection(request, reduce_to_scores)
        return scored

    @app.post("/page/calibrate", include_in_schema=False)
    async def calibrate(request: Request, category: Category = None) -> CalibrationAnswer:
        model = inspection.model.of(category)
        wanted = await read_wanted(request)
        with inspection.worker.slot():  # in the thread that inspects: no image is judged by half a calibration
            return await inspection.worker.run(lambda: recalibrate(model, wanted))


async def read_wanted(request: Request) -> CalibrationRequest:
    """Read what a calibration is asked for.

    Args:
        request: Its body is JSON.

    Returns:
        The request, checked.

    Raises:
        Refusal: 413 too long; 422 not what is wanted.
    """
    body = b"".join([piece async for piece in limited_stream(request, REQUEST_BYTES, what="request")])
    try:
        return CalibrationRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        raise Refusal(422, f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}") from None


def reduce_to_scores(found: Inspected) -> Scored:
    """Keep of an inspected photograph what a calibration needs."""
    prediction = found.prediction
    raw = prediction.score if prediction.raw_score is None else prediction.raw_score
    return Scored(raw_score=raw, peak=float(prediction.map.max()))


def recalibrate(model: ServedModel, wanted: CalibrationRequest) -> CalibrationAnswer:
    """Calibrate a served model, and keep the result where that is wanted.

    Args:
        model: What is served.
        wanted: The photographs' scores.

    Returns:
        Scores before and now.

    Raises:
        Refusal: 403 the thresholds may not be changed here; 422 the rate cannot be promised; 500 the model's file
            cannot be written.
    """
    old = model.predictor.detector.calibration
    good, bad = (_photographs(scored) for scored in (wanted.good, wanted.bad))
    try:
        new = job.calibrate(old, good, bad, rate=wanted.rate, source="photographs of good parts dropped on the page")
    except job.CannotPromise as told:
        raise Refusal(
            422,
            f"{100 * told.rate:g} % false alarms cannot be promised with so few good photographs ({told.count}): "
            f"it may be up to {100 * told.high:.2g} %. Give about {told.images} photographs, or ask for "
            f"{100 * told.smallest:g} %",
        ) from None
    answer = CalibrationAnswer(
        before=_show(old, good, bad),
        now=_show(new, good, bad),
        promise=new["promise"],
        strange=job.intruders(old, good),
        kept=wanted.keep,
    )
    if wanted.keep:
        _keep(model, new)
    return answer


def _photographs(scored: Sequence[Scored]) -> job.Photographs:
    raw, peaks = (np.array([getattr(one, name) for one in scored]) for name in ("raw_score", "peak"))
    return job.Photographs([str(place) for place in range(len(scored))], raw, peaks)


def _show(calibration: Mapping[str, Any], good: job.Photographs, bad: job.Photographs) -> Shown:
    scale = ScoreScale.of(calibration)
    seen = [[float(s) if scale is None else scale.readable(float(s)) for s in one.scores] for one in (good, bad)]
    return Shown(threshold=calibration.get("image_threshold") if scale is None else 0.5, good=seen[0], bad=seen[1])


def _keep(model: ServedModel, new: dict[str, Any]) -> None:
    if model.fixed is not None or model.folder is None:
        raise Refusal(403, f"thresholds cannot be changed here: {model.fixed or 'the model is not from a folder'}")
    try:
        _subject(model, model.folder).keep(new)
    except OSError as error:
        raise Refusal(500, f"the model folder cannot be written: {error.strerror or error}") from None
    model.recalibrate(new)


def _subject(model: ServedModel, folder: Path) -> Subject:
    if isinstance(model.predictor, ExportedPredictor):
        return ExportedModel(folder, model.category, run=model.predictor.run)
    from dmdd.deploy.calibrate.trained import TrainedModel  # here, since a server of an exported file has no torch

    return TrainedModel(folder, model.predictor, category=model.category)
