"""The endpoint for machines: POST /predict, GET /health, GET /model, and the schema of all three."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import cv2
import numpy as np
from fastapi import APIRouter, FastAPI, Query
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from dmdd import __version__
from dmdd.data.images import MAX_PIXELS
from dmdd.deploy.serve.decoding import decode_image, read_upload
from dmdd.deploy.serve.gate import Gate
from dmdd.deploy.serve.limits import Limits, RateLimit, Refusal
from dmdd.deploy.serve.model import ServedModel
from dmdd.deploy.serve.schema import Error, Health, ModelCard, PredictionResponse
from dmdd.deploy.serve.worker import Worker
from dmdd.inference.prediction import Prediction

BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "format": "binary"}},
                }
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The form is broken or the client went away."},
    403: {"description": "The request comes from another web site or names another host."},
    408: {"description": "The image did not arrive in time."},
    413: {"description": "Too many bytes or pixels."},
    415: {"description": "Not an image, or another kind of body."},
    422: {"description": "A damaged image, no file in the field image, or a bad parameter."},
    429: {"description": "Too many images a minute; Retry-After says when to come again."},
    503: {"description": "The queue is full, or the answer took too long; Retry-After says when to come again."},
}

Category = Annotated[
    str | None, Query(max_length=200, description="Of a model for several: judge by this one's thresholds.")
]


@dataclass(frozen=True)
class Inspected:
    """An image, what the detector says of it, and how long both took."""

    pixels: np.ndarray
    prediction: Prediction
    time_ms: float


class Inspection:
    """From a request to a prediction, within the limits; the endpoint and the page share it.

    Args:
        model: What inspects.
        limits: How much is taken.

    Source: ours.
    """

    def __init__(self, model: ServedModel, limits: Limits) -> None:
        self.model, self.limits = model, limits
        self.worker, self.rate = Worker(limits.queue), RateLimit(limits.requests_per_minute)
        self.tell: Callable[[Inspected, str | None, str | None], None] | None = None
        """Gets each image of the endpoint with the sender's name for it and its category, in the worker's thread."""

    async def __call__(self, request: Request, finish: Any, *, category: str | None = None) -> Any:
        """Read, decode and inspect the image of a request.

        Args:
            request: See :func:`read_upload`.
            finish: Gets the :class:`Inspected` in the worker's thread; what it returns is the answer.
            category: By whose thresholds the image is judged; None for those of all categories.

        Returns:
            What ``finish`` returns.

        Raises:
            Refusal: The request is beyond a limit, its image cannot be read, or there is no such category.
        """
        model = self.model.of(category)
        self.rate.check(request.client.host if request.client else "unknown")
        arrived = False
        with self.worker.slot():
            try:
                async with asyncio.timeout(self.limits.timeout_s):
                    data = await read_upload(request, self.limits.upload_bytes)
                    arrived = True
                    return await self.worker.run(lambda: finish(self._inspect(data, model)))
            except TimeoutError:
                if not arrived:
                    raise Refusal(408, f"the image did not arrive in {self.limits.timeout_s:g} s") from None
                message = f"no answer in {self.limits.timeout_s:g} s"
                raise Refusal(503, message, retry_after_s=self.limits.timeout_s) from None

    @staticmethod
    def _inspect(data: bytes, model: ServedModel) -> Inspected:
        started = time.perf_counter()
        pixels = decode_image(data)
        prediction = model.predictor(pixels)
        return Inspected(pixels, prediction, 1000 * (time.perf_counter() - started))


def build_api(model: ServedModel, limits: Limits, *, hosts: list[str] | None) -> tuple[FastAPI, Inspection]:
    """Build the application without the page.

    Args:
        model: What inspects.
        limits: How much is taken.
        hosts: Host names requests may be addressed to; None for any.

    Returns:
        The application, and the inspection behind it.
    """
    inspection = Inspection(model, limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        inspection.worker.close()

    app = FastAPI(
        title="dmdd",
        version=__version__,
        description=f"Anomaly detection with the model {model.title}.",
        docs_url=None,  # Swagger UI and ReDoc would load their scripts from a content delivery network
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_middleware(Gate, hosts=hosts)
    for kind, handler in (
        (Refusal, _refused),
        (HTTPException, _failed),
        (RequestValidationError, _invalid),
        (Exception, _broken),
    ):
        app.add_exception_handler(kind, handler)  # type: ignore[arg-type]
    app.include_router(_routes(inspection))
    return app, inspection


def _routes(inspection: Inspection) -> APIRouter:
    router = APIRouter()
    limits = inspection.limits
    refusals = {status: {**entry, "model": Error} for status, entry in REFUSALS.items()}

    @router.post(
        "/predict",
        response_model=PredictionResponse,
        response_model_exclude_unset=True,
        responses=refusals,
        openapi_extra=BODY,
        operation_id="predict",
    )
    async def predict(
        request: Request,
        with_map: Annotated[bool, Query(alias="map", description="Also send the map.")] = False,
        with_mask: Annotated[bool, Query(alias="mask", description="Also send the mask.")] = False,
        name: Annotated[str | None, Query(max_length=200, description="The image's name in the page's list.")] = None,
        category: Category = None,
    ) -> Any:
        """Inspect one image: as the field ``image`` of a form, or as the body."""

        def finish(found: Inspected) -> PredictionResponse:
            if inspection.tell is not None:
                inspection.tell(found, name, category)
            return _answer(found, inspection.model.of(category), with_map, with_mask)

        return await inspection(request, finish, category=category)

    @router.get("/health", operation_id="health")
    async def health() -> Health:
        """Say that the server answers."""
        return Health(waiting=inspection.worker.taken, places=inspection.worker.slots)

    @router.get("/model", operation_id="model")
    async def card(category: Category = None) -> ModelCard:
        """Describe the model."""
        model = inspection.model.of(category)
        entries = {name: getattr(model, name) for name in ModelCard.model_fields if hasattr(model, name)}
        return ModelCard(
            model=model.title,
            dmdd_version=__version__,
            upload_mb=limits.upload_mb,
            max_pixels=MAX_PIXELS,
            page_images=limits.page_images,
            live_images=limits.live_images,
            **entries | {"categories": inspection.model.categories},
        )

    return router


def _answer(found: Inspected, model: ServedModel, with_map: bool, with_mask: bool) -> PredictionResponse:
    prediction = found.prediction
    height, width = found.pixels.shape[:2]
    answer = PredictionResponse(
        score=prediction.score,
        raw_score=prediction.score if prediction.raw_score is None else prediction.raw_score,
        false_alarm_probability=prediction.false_alarm_probability,
        label=prediction.label,
        verdict=None if prediction.label is None else "anomalous" if prediction.label else "normal",
        image_threshold=model.image_threshold,
        pixel_threshold=model.pixel_threshold,
        width=width,
        height=height,
        model=model.title,
        time_ms=round(found.time_ms, 1),
    )
    if with_map:
        answer.map = _png(np.rint(prediction.map * 65535).astype(np.uint16))
    if with_mask:
        answer.mask = None if prediction.mask is None else _png(prediction.mask.astype(np.uint8) * 255)
    return answer


def _png(pixels: np.ndarray) -> str:
    return base64.b64encode(cv2.imencode(".png", pixels)[1].tobytes()).decode("ascii")


async def _refused(request: Request, refusal: Refusal) -> JSONResponse:
    return JSONResponse({"error": refusal.message}, refusal.status, refusal.headers)


async def _failed(request: Request, error: HTTPException) -> JSONResponse:
    known = {
        404: "no such address; there are POST /predict, GET /health, /model, /openapi.json and the page at /",
        405: f"{request.method} is not taken here, {(error.headers or {}).get('Allow', 'another method')} is",
    }
    return JSONResponse({"error": known.get(error.status_code, str(error.detail))}, error.status_code, error.headers)


async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    return JSONResponse({"error": f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"}, 422)


async def _broken(request: Request, error: Exception) -> JSONResponse:
    # Starlette raises the error again behind this answer, so that its traceback reaches the server's own log only.
    return JSONResponse({"error": "internal error; the server's log has the details"}, 500)
