"""The page for people: drop images, see verdicts and where they come from, move the thresholds.

What is dropped stays in the browser: the server keeps nothing of it once it has answered. The live list
(:mod:`dmdd.deploy.serve.live`) keeps small pictures of the newest images in memory.
"""

import base64
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from dmdd.deploy.serve.api import Category, Inspected, Inspection
from dmdd.deploy.serve.live import add_live

ASSETS = Path(__file__).with_name("page")
FILES = {"/": "index.html", **{f"/{name}": name for name in ("page.js", "calibrate.js", "live.js", "page.css")}}

PHOTO_PX = 1024
"""Longest side of the photo as shown."""

MAP_PX = 512
"""Longest side of the map as shown; the network's own is about half of it."""


class PageAnswer(BaseModel):
    """What the page shows of one image."""

    score: float = Field(description="In [0, 1].")
    raw_score: float | None = Field(description="In [0, 1]; does not depend on the calibration.")
    false_alarm_probability: float | None = Field(description="Of a good image to score so high; null if unknown.")
    width: int = Field(description="Of the upright image, in pixels.")
    height: int
    time_ms: float
    photo: str = Field(description="Base64 JPEG.")
    map: str = Field(description="Base64 of map_height x map_width little-endian uint16; value / 65535 is in [0, 1].")
    map_width: int
    map_height: int
    spot_area: float = Field(
        description="Pixels of the map that each region of the mask loses, since maps are blurred."
    )


def add_page(app: FastAPI, inspection: Inspection, *, follow: Path | None = None) -> None:
    """Add the page, its files and the routes behind it.

    Args:
        app: The application of :func:`dmdd.deploy.serve.api.build_api`.
        inspection: The inspection behind it.
        follow: Output folder of ``dmdd predict``, whose newest results are listed; None for none.

    Raises:
        UserError: ``follow`` is no such folder.
    """
    if inspection.limits.live_images:
        add_live(app, inspection, follow=follow)
    for address, name in FILES.items():
        app.add_api_route(address, _file(ASSETS / name), include_in_schema=False, response_class=FileResponse)

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return Response(status_code=204)

    @app.post("/page/inspect", include_in_schema=False)
    async def inspect(request: Request, category: Category = None) -> PageAnswer:
        answer: PageAnswer = await inspection(request, make_answer, category=category)
        return answer


def _file(file: Path) -> Any:
    async def serve() -> FileResponse:
        return FileResponse(file, headers={"Cache-Control": "no-cache"})

    return serve


def make_answer(found: Inspected) -> PageAnswer:
    """Reduce what was found to what is shown.

    Args:
        found: Image and prediction.

    Returns:
        Photo and map no larger than ``PHOTO_PX`` and ``MAP_PX``.
    """
    heat = _shrink(found.prediction.map, MAP_PX)
    photo = cv2.cvtColor(_shrink(found.pixels, PHOTO_PX), cv2.COLOR_RGB2BGR)
    jpeg = cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    return PageAnswer(
        score=found.prediction.score,
        raw_score=found.prediction.raw_score,
        false_alarm_probability=found.prediction.false_alarm_probability,
        width=found.pixels.shape[1],
        height=found.pixels.shape[0],
        time_ms=round(found.time_ms, 1),
        photo=base64.b64encode(jpeg).decode("ascii"),
        map=base64.b64encode(np.rint(heat * 65535).astype("<u2").tobytes()).decode("ascii"),
        map_width=heat.shape[1],
        map_height=heat.shape[0],
        spot_area=found.prediction.spot_area_px * heat.size / found.prediction.map.size,
    )


def _shrink(pixels: np.ndarray, longest: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    if max(height, width) <= longest:
        return pixels
    scale = longest / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
