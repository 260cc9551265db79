"""The pictures of a run, chosen, reduced and ranked for the page."""

import base64
import io
import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dmdd.core.files import picture_name
from dmdd.report.collect import Unreadable
from dmdd.report.detail import Score

CAPTION_PX = 22  # height of the strip of text that dmdd.experiment.pictures draws; the page shows the text itself
PANELS = 4
PANEL_WIDTH_PX = 224
WEBP_QUALITY = 72
WEBP_METHOD = 2  # half the time of the default for pictures 6 % larger


def pictures(
    folder: Path,
    scores: Sequence[Score],
    *,
    threshold: float | None,
    count: int,
    max_bytes: int,
    unreadable: list[Unreadable],
) -> list[dict[str, Any]]:
    """Read a run's pictures and make them small.

    Args:
        folder: The run's.
        scores: Its test scores.
        threshold: Score from which an image counts as anomalous; None where unknown.
        count: How many pictures at most.
        max_bytes: Of all together, as they stand in the page.
        unreadable: Gets an entry for a damaged picture.

    Returns:
        One entry a picture: ``source`` (a data address), size, name, defect, label, score, ``verdict`` and
        ``disorder``, see :func:`disorder`; the last four are None where the picture's image is not known.
    """
    found: list[dict[str, Any]] = []
    if not count or not max_bytes:
        return found
    by_name = _scores_by_picture(scores)
    order = _choose([(file, by_name.get(_stem(file))) for file in sorted((folder / "images").glob("*.png"))], scores)
    for file, score in order:
        # Encoding one only to find that it is too large would double the time of a report of many runs.
        if len(found) == count or max_bytes < min((len(picture["source"]) for picture in found), default=0):
            break
        try:
            source, width, height = _encode(file)
        except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for a damaged file
            unreadable.append(Unreadable(file, f"damaged: {error}"))
            continue
        max_bytes -= len(source)
        if max_bytes < 0:
            break
        found.append({"source": source, "width": width, "height": height} | _describe(file, score, scores, threshold))
    return found


def thumbnails(folder: Path, count: int, unreadable: list[Unreadable]) -> list[str | None]:
    """Read the small pictures of the training images to look at.

    Args:
        folder: The run's.
        count: How many such images its result names.
        unreadable: Gets an entry for a damaged picture.

    Returns:
        Data addresses in the result's order; None where there is no picture.
    """
    found: list[str | None] = []
    for place in range(count):
        file = folder / "images" / "suspicious" / f"{place:02d}.png"
        try:
            found.append(_encode(file, caption_px=0)[0] if file.is_file() else None)
        except (OSError, ValueError, SyntaxError) as error:
            unreadable.append(Unreadable(file, f"damaged: {error}"))
            found.append(None)
    return found


def _stem(file: Path) -> str:
    return re.sub(r"^\d+_", "", file.stem)


def _scores_by_picture(scores: Sequence[Score]) -> dict[str, Score]:
    """Name scores as ``dmdd.experiment.pictures`` names files; where two images share a name, neither can be told."""
    named: dict[str, list[Score]] = defaultdict(list)
    for score in scores:
        named[picture_name(score.defect, Path(score.file).stem)].append(score)
    return {name: own[0] for name, own in named.items() if len(own) == 1}


def disorder(score: Score, scores: Sequence[Score]) -> float:
    """Say how wrong a score is without a threshold: a value that can be compared between models.

    Args:
        score: Of one image.
        scores: Of the whole test set.

    Returns:
        Share of the images of the other label that it is ordered wrongly against, a tie counting half, in [0, 1]; its
        mean over the images of a label is 1 - AUROC.
    """
    others = sorted(other.score for other in scores if other.label != score.label)
    if not others:
        return 0.0
    below, upto = bisect_left(others, score.score), bisect_right(others, score.score)
    larger = (len(others) - upto) + (upto - below) / 2
    return (larger if score.label else len(others) - larger) / len(others)


def _choose(files: list[tuple[Path, Score | None]], scores: Sequence[Score]) -> Iterator[tuple[Path, Score | None]]:
    """Go round the types, in turn with the worst and the best picture of each that is left."""
    types: dict[str, list[tuple[Path, Score | None]]] = defaultdict(list)

    def badness(item: tuple[Path, Score | None]) -> tuple[float, float]:
        score = item[1]
        return (0.0, 0.0) if score is None else (disorder(score, scores), -score.score if score.label else score.score)

    for item in sorted(files, key=badness, reverse=True):
        types[item[1].defect if item[1] else ""].append(item)
    for turn in range(len(files)):
        for name in sorted(types):
            if types[name]:
                yield types[name].pop(0 if turn % 2 == 0 else -1)


def _encode(file: Path, *, caption_px: int = CAPTION_PX) -> tuple[str, int, int]:
    from PIL import Image

    with Image.open(file) as opened:
        picture = opened.convert("RGB").crop((0, min(caption_px, opened.height - 1), opened.width, opened.height))
    width = min(picture.width, PANELS * PANEL_WIDTH_PX)
    height = max(1, round(picture.height * width / picture.width))
    content = io.BytesIO()
    picture.resize((width, height), Image.Resampling.LANCZOS).save(
        content, "WEBP", quality=WEBP_QUALITY, method=WEBP_METHOD
    )
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}", width, height


def _describe(file: Path, score: Score | None, scores: Sequence[Score], threshold: float | None) -> dict[str, Any]:
    if score is None:
        return {"name": _stem(file), "defect": None, "label": None, "score": None, "verdict": None, "disorder": None}
    verdict = None
    if threshold is not None:
        found = score.score >= threshold
        right = "found" if found else "passed"
        verdict = right if found == bool(score.label) else "false alarm" if found else "missed"
    entry = {"name": score.file, "defect": score.defect, "label": score.label, "score": score.score}
    return entry | {"verdict": verdict, "disorder": round(disorder(score, scores), 4)}
