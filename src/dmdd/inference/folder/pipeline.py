"""From image files to lines and pictures: decoding in threads ahead of the network, batches, records."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from torch import Tensor

from dmdd.core import failures
from dmdd.core.errors import UserError
from dmdd.inference.folder.inputs import Item
from dmdd.inference.folder.ledger import Ledger, Record
from dmdd.inference.folder.pictures import ImageError, PictureWriter
from dmdd.inference.folder.progress import Progress
from dmdd.inference.predictor import Predictor

BATCH_BYTES = 256 * 1024**2
"""A batch ends early when the images it keeps for overlays take more."""


@dataclass(frozen=True)
class Decoded:
    """An image file, read, or why it could not be.

    Args:
        item: The file.
        image: ``(3, h, w)`` uint8 as the network takes it; None if it could not be read.
        rgb: ``(H, W, 3)`` uint8, if asked for.
        size: Height and width of the image in pixels.
        inside: ``(H, W)`` bool, its region of interest; None where all pixels count.
        error: What is wrong with it.
        seconds: How long reading took.
    """

    item: Item
    image: Tensor | None = None
    rgb: np.ndarray | None = None
    size: tuple[int, int] | None = None
    inside: Tensor | None = None
    error: str | None = None
    seconds: float = 0.0


def decode(item: Item, predictor: Predictor, *, keep_rgb: bool) -> Decoded:
    """Read one image file and resize it.

    Args:
        item: The file, as it was when it was listed.
        predictor: Knows the size.
        keep_rgb: Whether the image itself is needed later.

    Returns:
        The image; with an error if it cannot be read or was written to since it was listed.
    """
    began = time.perf_counter()
    try:
        tensor = predictor.read(item.path)
        size = (tensor.shape[1], tensor.shape[2])
        inside = predictor.inside(item.path, size)
        status = item.path.stat()
    except (UserError, OSError) as error:
        return Decoded(item, error=" ".join(str(error).split()), seconds=time.perf_counter() - began)
    if (status.st_size, status.st_mtime_ns) != item.version:
        return Decoded(item, error=f"{item.path} was written to while it was read", seconds=time.perf_counter() - began)
    rgb = tensor.permute(1, 2, 0).numpy() if keep_rgb else None
    return Decoded(item, predictor.prepare(tensor), rgb, size, inside, seconds=time.perf_counter() - began)


def decode_ahead(
    items: Iterable[Item | None], read: Callable[[Item], Decoded], *, workers: int, ahead: int
) -> Generator[Decoded | None, None, None]:
    """Read files in threads while what was read is being used.

    Threads, not processes: decoding and resizing let go of Python's lock, and a killed process leaves none behind.

    Args:
        items: Files; None where the source has no more at the moment.
        read: Reads one.
        workers: Number of threads.
        ahead: How many images may be read and unused.

    Yields:
        What was read, in order; None where the source gave it, when all before it have been yielded.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    waiting: deque[Future[Decoded]] = deque()
    try:
        for item in items:
            if item is not None:
                waiting.append(pool.submit(read, item))
            while len(waiting) >= (ahead if item is not None else 1):
                yield waiting.popleft().result()
            if item is None:
                yield None
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class Scorer:
    """Score files and record them: pictures first, then the line that says the image is done.

    Args:
        predictor: Computes maps and scores.
        ledger: Takes the lines.
        pictures: Writes maps, masks and overlays.
        progress: Is told of each image.
        batch_size: Images that go through the network at once.
        workers: Threads that decode, and threads that write pictures.

    Source: ours.
    """

    def __init__(
        self,
        *,
        predictor: Predictor,
        ledger: Ledger,
        pictures: PictureWriter,
        progress: Progress,
        batch_size: int,
        workers: int,
    ) -> None:
        self.predictor, self.ledger, self.pictures, self.progress = predictor, ledger, pictures, progress
        self.batch_size, self.workers = batch_size, workers

    def run(
        self,
        items: Iterable[Item | None],
        *,
        stopped: Callable[[], bool],
        is_final: Callable[[Item], bool] = lambda item: True,
    ) -> None:
        """Score all items.

        Args:
            items: Files; None where no more come at the moment, so that a batch is not waited for.
            stopped: Asked after each batch; the rest is left undone.
            is_final: Asked of a file that cannot be read: whether it is recorded as bad, or will come again.

        Raises:
            UserError: Memory or disk do not suffice.
        """

        def read(item: Item) -> Decoded:
            return decode(item, self.predictor, keep_rgb=self.pictures.overlays)

        # Images that are kept whole are few at a time, for they may be large.
        ahead = self.workers if self.pictures.overlays else self.batch_size + self.workers
        source = decode_ahead(items, read, workers=self.workers, ahead=ahead)
        batch: list[Decoded] = []
        told = failures.report_errors(f"prediction on {self.predictor.device}", sizes=self._sizes())
        with told, closing(source), ThreadPoolExecutor(self.workers, thread_name_prefix="pictures") as pool:
            for decoded in source:
                if stopped():
                    return
                if decoded is not None and (decoded.error is None or is_final(decoded.item)):
                    batch.append(decoded)
                if batch and (decoded is None or self._is_full(batch)):
                    self._score(batch, pool)
                    batch = []
            if batch and not stopped():
                self._score(batch, pool)

    def _sizes(self) -> dict[str, object]:
        """Give the settings that decide how much memory is taken."""
        if not self.predictor.tile:
            return {"batch_size": self.batch_size, "workers": self.workers}
        return {"tile_px": list(self.predictor.tiling.tile_px), "workers": self.workers}

    def _is_full(self, batch: list[Decoded]) -> bool:
        kept = sum(decoded.rgb.size for decoded in batch if decoded.rgb is not None)
        return len(batch) == self.batch_size or kept > BATCH_BYTES

    def _score(self, batch: list[Decoded], pool: ThreadPoolExecutor) -> None:
        good = [decoded for decoded in batch if decoded.error is None]
        began = time.perf_counter()
        images = [decoded.image for decoded in good if decoded.image is not None]
        heats, scores = self.predictor.predict(images, [decoded.inside for decoded in good]) if good else ([], [])
        share = (time.perf_counter() - began) / max(1, len(good))
        # All pictures of the batch are there before its first line says so.
        drawn = list(pool.map(self._draw, good, heats, scores)) if self.pictures.wanted else [(0.0, None)] * len(good)
        found = {
            d.item.name: (score, share + more, error)
            for d, score, (more, error) in zip(good, scores, drawn, strict=True)
        }
        records = [
            self._record(decoded, *found.get(decoded.item.name, (None, 0.0, decoded.error))) for decoded in batch
        ]
        for record in records:
            self.ledger.append(record)
        self.progress.advance(records)

    def _draw(self, decoded: Decoded, heat: Tensor, score: float) -> tuple[float, str | None]:
        """Write the pictures of an image; gives the seconds it took, and why they could not be written."""
        began, error = time.perf_counter(), None
        if decoded.size is not None:
            prediction = self.predictor.finish(heat, score, decoded.size, decoded.inside)
            inside = None if decoded.inside is None else decoded.inside.numpy()
            try:
                self.pictures.write(decoded.item.name, prediction, decoded.rgb, inside)
            except ImageError as failed:
                error = str(failed)
        return time.perf_counter() - began, error

    def _record(self, decoded: Decoded, raw_score: float | None, seconds: float, error: str | None) -> Record:
        judged = None if raw_score is None else self.predictor.judge(raw_score)
        score, label, probability = (None, None, None) if judged is None else judged
        height, width = decoded.size or (None, None)
        return Record(
            file=decoded.item.name,
            score=score,
            label=None if label is None else "anomalous" if label else "normal",
            image_threshold=self.predictor.image_threshold,
            width=width,
            height=height,
            time_ms=round(1000 * (decoded.seconds + seconds), 2),
            error=error,
            bytes=decoded.item.bytes,
            mtime_ns=decoded.item.mtime_ns,
            scored_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            raw_score=raw_score,
            false_alarm_probability=probability,
        )
