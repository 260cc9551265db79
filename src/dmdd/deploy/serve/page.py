"""The page for people: drop images, see verdicts and where they come from, move the thresholds."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import gradio
from fastapi import FastAPI, Query
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from dmdd.deploy.serve.api import Inspection
from dmdd.deploy.serve.board import Board, make_finding
from dmdd.deploy.serve.gate import PAGE
from dmdd.deploy.serve.limits import Refusal
from dmdd.deploy.serve.markup import header, scale_middle, table
from dmdd.deploy.serve.model import ServedModel

STEP = 0.0001
"""Of the sliders."""

SESSIONS = 256
"""Open pages whose list of images is remembered."""

NAME_LETTERS = 200


def add_page(app: FastAPI, inspection: Inspection) -> None:
    """Add the page and the two routes behind it.

    Args:
        app: The application of :func:`build_api`.
        inspection: The inspection behind it.

    Raises:
        RuntimeError: In a running event loop.
    """

    async def build() -> None:
        _add_page(app, inspection)

    # Where no event loop runs, Gradio makes one for each of its locks and never closes them.
    asyncio.run(build())


def _add_page(app: FastAPI, inspection: Inspection) -> None:
    board = Board(inspection.limits.page_memory_mb * 1_000_000)
    _add_routes(app, inspection, board)
    page = _build_blocks(inspection, board)
    page.state_session_capacity = SESSIONS
    system = ("system-ui", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif")
    gradio.mount_gradio_app(
        app,
        page,
        path=PAGE,
        theme=gradio.themes.Base(primary_hue="blue", font=system, font_mono=("ui-monospace", "monospace")).set(
            # Base's grey is too pale to read on white.
            body_text_color_subdued="*neutral_600",
            body_text_color_subdued_dark="*neutral_400",
            block_info_text_color="*neutral_600",
            block_info_text_color_dark="*neutral_400",
        ),
        css=Path(__file__).with_name("page.css").read_text(encoding="utf-8"),
        # Said here, since Gradio reads the rest from environment variables.
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        show_error=False,
        max_file_size=1,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
    )


def _add_routes(app: FastAPI, inspection: Inspection, board: Board) -> None:
    middle = scale_middle(inspection.model)

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse(f"{PAGE}/")

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return Response(status_code=204)

    @app.post("/findings", include_in_schema=False)
    async def add(request: Request, name: Annotated[str, Query()] = "image") -> dict[str, str]:
        shown = name[:NAME_LETTERS] or "image"
        finding = await inspection(request, lambda found: make_finding(shown, found, middle=middle))
        return {"key": board.add(finding)}

    @app.get("/findings/{key}/{kind}.jpg", include_in_schema=False)
    async def picture(key: str, kind: str) -> Response:
        finding = board.get(key)
        if finding is None or kind not in ("photo", "heat"):
            raise Refusal(404, "no such picture; it is no longer in memory")
        content = finding.photo if kind == "photo" else finding.heat
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})


def _build_blocks(inspection: Inspection, board: Board) -> Any:
    model, room = inspection.model, inspection.limits.page_images
    events = _Events(model, board, room)
    with gradio.Blocks(title=f"dmdd: {model.title}", analytics_enabled=False, delete_cache=(600, 600)) as page:
        gradio.HTML(header(model))
        drop = gradio.HTML(html_template=_drop_field(inspection), js_on_load=_script())
        with gradio.Row(elem_classes="dmdd-controls"):
            image, pixel = (
                gradio.Slider(0, 1, start, step=STEP, label=label, info=info, elem_id=name, min_width=300)
                for name, start, label, info in (
                    ("image-threshold", events.starts[0], "Image threshold", "Scores at or above it are anomalous."),
                    ("pixel-threshold", events.starts[1], "Pixel threshold", "Moves contours and masks only."),
                )
            )
            with gradio.Column(min_width=150, scale=0):
                reset = gradio.Button("Model's thresholds", size="sm")
                clear = gradio.Button("Remove all images", size="sm")
        shown = gradio.HTML(events.draw([], *events.starts), elem_id="findings")
        keys = gradio.State([], time_to_live=3600, delete_callback=board.forget)
        # One after the other: two events at once would each add to the list the other has not seen yet.
        quiet: dict[str, Any] = {
            "show_progress": "hidden",
            "api_visibility": "private",
            "concurrency_id": "board",
            "concurrency_limit": 1,
        }
        drop.submit(events.add, [keys, image, pixel], [keys, shown], trigger_mode="multiple", **quiet)
        for slider in (image, pixel):
            slider.change(events.draw, [keys, image, pixel], shown, trigger_mode="always_last", **quiet)
        reset.click(lambda: events.starts, None, [image, pixel], **quiet)
        clear.click(events.clear, [keys, image, pixel], [keys, shown], **quiet)
    return page


def _drop_field(inspection: Inspection) -> str:
    limits = inspection.limits
    return (
        f'<label class="dmdd-drop" data-room="{limits.page_images}"><input type="file" multiple '
        'aria-label="Images to inspect"><b>Drop images here</b><span>or click to choose them</span>'
        f"<small>PNG, JPEG, BMP, TIFF, WebP, GIF or PPM, up to {limits.upload_mb} MB each. They stay in this server's "
        'memory and are never written to disk.</small></label><div class="dmdd-status" role="status"></div>'
    )


def _script() -> str:
    return Path(__file__).with_name("page.js").read_text(encoding="utf-8")


class _Events:
    """What the page does on each event."""

    def __init__(self, model: ServedModel, board: Board, room: int) -> None:
        self.model, self.board, self.room = model, board, room
        known = (model.image_threshold, model.pixel_threshold)
        self.exact = tuple(0.5 if threshold is None else threshold for threshold in known)
        self.starts = [round(threshold, 4) for threshold in self.exact]

    def add(self, keys: list[str], image: float, pixel: float, event: gradio.EventData) -> tuple[list[str], str]:
        """Append an image; beyond the room of the page the oldest goes."""
        key = event._data.get("key") if isinstance(event._data, dict) else None
        if isinstance(key, str) and self.board.get(key) is not None and key not in keys:
            keys = [*keys, key]
            self.board.forget(keys[: -self.room])
            keys = keys[-self.room :]
        return keys, self.draw(keys, image, pixel)

    def clear(self, keys: list[str], image: float, pixel: float) -> tuple[list[str], str]:
        """Forget all images."""
        self.board.forget(keys)
        return [], self.draw([], image, pixel)

    def draw(self, keys: list[str], image: float, pixel: float) -> str:
        """Draw the table by the sliders' thresholds, without running the network."""
        cut = [
            # The sliders show four digits; where they stand at the model's threshold, that one counts to the last bit.
            exact if abs(value - exact) < STEP else float(value)
            for value, exact in zip((image, pixel), self.exact, strict=True)
        ]
        return table([self.board.get(key) for key in keys], keys, self.model, (cut[0], cut[1]))
