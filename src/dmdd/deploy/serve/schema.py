"""What the endpoint answers, as OpenAPI tells it."""

from typing import Literal

from pydantic import BaseModel, Field


class PredictionResponse(BaseModel):
    """What the detector says of one image."""

    score: float = Field(
        description="In [0, 1]; large for an anomalous image. Not a probability; 0.5 is the calibrated threshold, 0.1 "
        "a typical good image, unless the model is older than this scale."
    )
    raw_score: float = Field(description="In [0, 1]; does not depend on the calibration.")
    false_alarm_probability: float | None = Field(
        description="How likely a good image is to score at least so high; null if the model cannot say."
    )
    label: bool | None = Field(
        description="True for anomalous: the score reaches the image threshold. Null if the model has no threshold."
    )
    verdict: Literal["anomalous", "normal"] | None = Field(description="The label in words.")
    image_threshold: float | None = Field(description="What the score is compared with.")
    pixel_threshold: float | None = Field(description="What the map is compared with for the mask.")
    width: int = Field(description="Of the upright image, in pixels.")
    height: int = Field(description="Of the upright image, in pixels.")
    model: str = Field(description="The model's name, as in GET /model.")
    time_ms: float = Field(description="Decoding and inspection, without the time in the queue.")
    map: str | None = Field(
        default=None,
        description="With ?map=true: the anomaly map as a base64 PNG, 16 bits, width x height; value / 65535 is in "
        "[0, 1].",
    )
    mask: str | None = Field(
        default=None,
        description="With ?mask=true: base64 PNG, 255 where the map reaches the pixel threshold, less what blur "
        "adds to each region, else 0. Null if the model has no pixel threshold.",
    )


class ModelCard(BaseModel):
    """The model behind the answers."""

    model: str
    weights_sha256: str = Field(description="Fingerprint of the weights file.")
    dmdd_version: str
    input_width: int = Field(description="Images are resized to this before they are inspected, in pixels.")
    input_height: int
    image_threshold: float | None
    pixel_threshold: float | None
    false_alarm_rate: float | None = Field(
        description="Share of normal images expected to reach the image threshold, if they are like its own."
    )
    false_alarm_interval: list[float] | None = Field(description="Lower and upper end of its 90 % interval.")
    promise: str | None = Field(description="What the threshold promises, in a sentence.")
    normal_images: int | None = Field(description="How many normal images the image threshold was set on.")
    thresholds_from: str | None = Field(description="What the thresholds were set on.")
    categories: list[str] = Field(
        description="Of a model for several: those with thresholds of their own, for ?category=NAME; else empty."
    )
    fixed: str | None = Field(description="Why the page may not change the thresholds; null if it may.")
    upload_mb: int = Field(description="Largest file that is taken, in MB (a million bytes).")
    max_pixels: int = Field(description="Largest image that is decoded, in pixels.")
    page_images: int = Field(description="Images that the page shows at once.")
    live_images: int = Field(description="Newest results that the page lists.")


class Health(BaseModel):
    """That the server answers, and how much it has to do."""

    status: Literal["ok"] = "ok"
    waiting: int = Field(description="Requests that wait or run.")
    places: int = Field(description="How many may; beyond it the answer is 503.")


class Error(BaseModel):
    """Why a request was refused."""

    error: str = Field(description="One line.")
