"""Evaluation: calibrate on held-out pairs, then measure the test set once."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torchmetrics import MetricCollection

from dmdd.core.errors import UserError
from dmdd.data.datasets import EvaluationBatch
from dmdd.metrics import (
    AUPRO,
    Curve,
    DefectTypes,
    PixelAUROC,
    PixelBootstrap,
    bootstrap_image_metrics,
    estimates,
    image_metrics,
    native_maps,
    percentile_interval,
    pixel_metrics,
    precision_recall_curve,
    pro_curve,
    recall_by_type,
    roc_curve,
)
from dmdd.models.detector import MAP_NAMES, Detector, Slices

ImageScore = tuple[int, int, float]  # index, label, score

MAX_TYPES = 100
"""Defect types with pixel figures of their own: 17 MB each; more are rather the serial numbers of parts."""


class EvaluationModule(LightningModule):
    """Measure a detector: ``trainer.validate`` calibrates its thresholds, ``trainer.test`` measures the test set.

    After ``test``, ``metrics`` holds the figures of the detector's own map and score, ``bounds`` the certified interval
    of those that have one, ``intervals`` their 95 % intervals over the choice of test images, ``study`` pixel AUROC,
    AUPRO and image AUROC of every map by its name, ``types`` figures by defect type, ``curves`` ROC,
    precision-recall and per-region-overlap curves, and ``scores`` index, label and score of each image. After
    ``validate`` metrics, bounds, study and scores are of the synthetic validation.

    Args:
        detector: What is measured; calibration fills its ``calibration``.
        defects: Type of each test image, by index; "good" for a normal one.
        false_alarm_rate: Wanted share of normal images at or above the image threshold, in (0, 1).
        has_masks: Whether the test masks are known; without them pixel metrics are absent.
        study_maps: Also measure the maps of stage 1.
        normal_images: ``(N, 3, h, w)`` uint8, from which ``trainer.validate`` learns the levels of normal images; None
            keeps those the detector has.
        levels_batch_size: How many of them at once.
        resamples: Test sets drawn for the intervals; 0 for none.

    Raises:
        UserError: ``false_alarm_rate`` is not between 0 and 1, or ``resamples`` no whole number from 0.

    Source: ours (docs/method.md, protocol).
    """

    def __init__(
        self,
        detector: Detector,
        *,
        defects: Sequence[str] = (),
        false_alarm_rate: float = 0.01,
        has_masks: bool = True,
        study_maps: bool = True,
        normal_images: Slices | None = None,
        levels_batch_size: int = 16,
        resamples: int = 0,
    ) -> None:
        super().__init__()
        if not 0 < false_alarm_rate < 1:
            raise UserError(f"evaluation.false_alarm_rate={false_alarm_rate}: give a number between 0 and 1")
        if not isinstance(resamples, int) or isinstance(resamples, bool) or resamples < 0:
            raise UserError(f"evaluation.resamples={resamples}: give a whole number from 0")
        self.detector, self.false_alarm_rate, self.has_masks = detector, false_alarm_rate, has_masks
        own = (detector.anomaly_map, detector.score_map)
        self.map_names = tuple(MAP_NAMES) if study_maps else tuple(dict.fromkeys(own))
        self.image_metrics, self.pixel_metrics = image_metrics(), pixel_metrics()
        # Plain collections and not submodules of one another: each keeps a state of its own.
        self.study_pixels = torch.nn.ModuleDict({n: _study_metrics() for n in self.map_names if n != own[0]})
        self.study_images = torch.nn.ModuleDict({n: image_metrics() for n in self.map_names})
        self.defects, self.resamples = tuple(defects), resamples
        self.normal_images, self.levels_batch_size = normal_images, levels_batch_size
        self._levels: dict[str, Tensor] = {}
        self.type_metrics: DefectTypes | None = None  # made when the test begins: it needs the calibrated threshold
        self.bootstrap = PixelBootstrap(n_resamples=max(resamples, 1))
        self.metrics: dict[str, float] = {}
        self.intervals: dict[str, tuple[float, float]] = {}
        self.types: dict[str, dict[str, float]] = {}
        self.curves: dict[str, Curve] = {}
        self.bounds: dict[str, tuple[float, float]] = {}
        self.study: dict[str, dict[str, float]] = {}
        self.scores: list[ImageScore] = []
        self._pixels_known = True

    def validation_step(self, batch: EvaluationBatch, batch_idx: int) -> None:
        """Score held-out normal images and their twins.

        Args:
            batch: Synthetic pairs laid out as images.
            batch_idx: Not used.
        """
        self._step(batch)

    def test_step(self, batch: EvaluationBatch, batch_idx: int) -> None:
        """Score test images.

        Args:
            batch: Test images.
            batch_idx: Not used.
        """
        maps = self._step(batch)
        if self._pixels_known and self.type_metrics is not None:
            types = [self.defects[index] for index in batch.indices.tolist()]
            _compare(self.type_metrics.update, maps, batch.masks, types)
        if self._pixels_known and self.resamples:
            _compare(self.bootstrap.update, maps, batch.masks, batch.indices.tolist())

    def _step(self, batch: EvaluationBatch) -> Tensor:
        raw = self.detector.raw_maps(batch.images, only=self.map_names)
        scores = {name: self.detector.image_score(name, values) for name, values in raw.items()}
        maps = {name: self.detector.smooth(values) for name, values in raw.items()}
        own = scores[self.detector.score_map]
        self.image_metrics.update(own, batch.labels)
        for name in self.map_names:
            self.study_images[name].update(scores[name], batch.labels)  # type: ignore[operator]
        if self._pixels_known:
            _compare(self.pixel_metrics.update, maps[self.detector.anomaly_map], batch.masks)
            for name, metrics in self.study_pixels.items():
                _compare(metrics.update, maps[name], batch.masks)  # type: ignore[arg-type]
        self.scores += zip(batch.indices.tolist(), batch.labels.tolist(), own.tolist(), strict=True)
        return maps[self.detector.anomaly_map]

    def on_validation_epoch_start(self) -> None:
        """Forget earlier images, and learn the levels of normal ones before any score is computed."""
        self._reset(pixels_known=True)
        if self.normal_images is not None:  # on every device all of them, so that all know the same range
            self._levels = self.detector.learn_levels(self.normal_images, batch_size=self.levels_batch_size)

    def on_test_epoch_start(self) -> None:
        """Forget earlier images."""
        self._reset(pixels_known=self.has_masks)
        self.bootstrap.reset()
        self.type_metrics = None
        names = sorted(set(self.defects) - {"good"})
        if len(names) > MAX_TYPES and self.has_masks:
            left_out = f"{len(names)} defect types: pixel figures by type are left out with more than {MAX_TYPES}"
            rank_zero_warn(left_out, category=UserWarning)
        elif self.defects and self.has_masks:
            threshold = self.detector.calibration.get("pixel_threshold")
            self.type_metrics = DefectTypes(names, threshold=math.inf if threshold is None else threshold).to(
                self.device
            )

    def _reset(self, *, pixels_known: bool) -> None:
        self._pixels_known = pixels_known
        self.scores = []
        for metrics in self._collections():
            metrics.reset()

    def _collections(self) -> list[MetricCollection]:
        studies = [*self.study_pixels.values(), *self.study_images.values()]
        return [self.image_metrics, self.pixel_metrics, *studies]  # type: ignore[list-item]

    def on_validation_epoch_end(self) -> None:
        """Compute the figures and set the thresholds."""
        self._finish()
        self.detector.calibration = self._calibrate()

    def on_test_epoch_end(self) -> None:
        """Compute the figures, their intervals, those by type, and the curves."""
        self._finish()
        self.types = self._by_type() if self.defects else {}
        self.intervals = self._resample() if self.resamples else {}
        self.curves = self._draw_curves()

    def _draw_curves(self) -> dict[str, Curve]:
        image: Any = self.image_metrics["image_auroc"]
        with image.sync_context():
            steps = image.steps()
        curves = {"image_roc": roc_curve(steps), "image_pr": precision_recall_curve(steps)}
        if self._pixels_known:
            pixel: Any = self.pixel_metrics["pixel_auroc"]
            with pixel.sync_context():
                steps = pixel.steps()
            curves |= {
                "pixel_roc": roc_curve(steps),
                "pixel_pr": precision_recall_curve(steps),
                "pro": pro_curve(steps),
            }
        return {name: curve for name, curve in curves.items() if len(curve.x)}

    def _by_type(self) -> dict[str, dict[str, float]]:
        """Share of images and pixels found at the calibrated thresholds, and AUPRO, by type; absent where unknown."""
        names = [self.defects[index] for index, _, _ in self.scores]
        rows: dict[str, dict[str, float]] = {name: {"images": names.count(name)} for name in sorted(set(names))}
        calibration = self.detector.calibration
        if (threshold := calibration.get("image_threshold")) is not None:
            found = recall_by_type(torch.tensor([score for _, _, score in self.scores]), names, threshold)
            for name, share in found.items():
                rows[name]["images_found"] = share
        if self.type_metrics is not None:
            with self.type_metrics.sync_context():
                table = self.type_metrics.table()
            for name, row in table.items():
                values = {"aupro_30": row.aupro.value}
                if calibration.get("pixel_threshold") is not None:
                    values["pixels_found"] = row.pixel_recall
                rows[name] |= {key: float(value) for key, value in values.items() if not math.isnan(value)}
        return rows

    def _resample(self) -> dict[str, tuple[float, float]]:
        """Draw test sets from the images and give the middle 95 % of each metric."""
        scores = torch.tensor([score for _, _, score in self.scores])
        labels = torch.tensor([label for _, label, _ in self.scores])
        samples: dict[str, Any] = dict(bootstrap_image_metrics(scores, labels, n_resamples=self.resamples))
        if self._pixels_known:
            samples |= {name: values.numpy() for name, values in self.bootstrap.compute().items()}
        known = {name: percentile_interval(values) for name, values in samples.items() if not np.isnan(values).any()}
        return {name: (interval.lower, interval.upper) for name, interval in known.items()}

    def _finish(self) -> None:
        # By index, since devices with fewer images than there are devices score the same ones.
        self.scores = sorted({score[0]: score for score in self._gather(self.scores)}.values())
        self.metrics, self.bounds = {}, {}
        used = [self.image_metrics, self.pixel_metrics] if self._pixels_known else [self.image_metrics]
        for collection in used:
            values, found = collection.compute(), estimates(collection)
            for name, value in values.items():
                if math.isnan(float(value)):
                    continue
                self.metrics[name] = float(value)
                if name in found and found[name].lower < found[name].upper:
                    self.bounds[name] = (found[name].lower, found[name].upper)
        self.study = {name: self._study(name) for name in self.map_names}

    def _study(self, name: str) -> dict[str, float]:
        values: dict[str, Tensor] = {"image_auroc": self.study_images[name].compute()["image_auroc"]}  # type: ignore[operator]
        if self._pixels_known and name == self.detector.anomaly_map:
            values |= {key: torch.tensor(self.metrics[key]) for key in _study_metrics() if key in self.metrics}
        elif self._pixels_known:
            values |= self.study_pixels[name].compute()  # type: ignore[operator]
        return {key: float(value) for key, value in values.items() if not math.isnan(float(value))}

    def _gather(self, scores: list[ImageScore]) -> list[ImageScore]:
        if self.trainer.world_size == 1:
            return scores
        parts: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(parts, scores)
        return [score for part in parts for score in part]

    def _calibrate(self) -> dict[str, Any]:
        """Choose thresholds on held-out normal images and their synthetic twins.

        The image threshold is the k-th largest of n normal scores, k the largest count that keeps the expected rate
        k / (n + 1) at or under the wanted one, or 1 where n is too small for it, for any distribution of scores; it
        says so when the wanted rate cannot be had. An image's score is here the one that it gets from the levels of
        the others, as a new image would. The pixel threshold is the one of the largest F1.
        """
        own = {index: score for index, label, score in self.scores if label == 0 and index >= 0}
        if not own:
            return {}
        levels = self._levels.get(self.detector.score_map)
        if levels is not None and self.detector.level_power:
            mine = levels.double().cpu()[list(own)]
            scores = by_levels_of_others(torch.tensor(list(own.values())).double(), mine, self.detector.level_power)
            own = dict(zip(own, scores.tolist(), strict=True))
        normal = sorted(own.values(), reverse=True)
        k = max(1, int(self.false_alarm_rate * (len(normal) + 1)))
        pixel = estimates(self.pixel_metrics)["pixel_f1_max"].threshold
        # The smallest float32 above the k-th largest score, since at the threshold already means anomalous.
        image = float(np.nextafter(np.float32(normal[k - 1]), np.float32(np.inf)))
        return {
            "image_threshold": image,
            "image_false_alarm_rate": k / (len(normal) + 1),
            "pixel_threshold": None if math.isnan(pixel) else float(pixel),
            "pixel_f1_on_synthetic": self.metrics.get("pixel_f1_max"),
            "normal_images": len(normal),
            "source": "held-out normal training images and their synthetic twins",
        }


def by_levels_of_others(scores: Tensor, levels: Tensor, power: float) -> Tensor:
    """Score normal images with the range of levels that the others have.

    Of the images that a range was learnt from none lies outside it, of new ones 2 in n + 1 do; above it the score is
    larger for it. An image held against its own range would seem more normal than a new one.

    Args:
        scores: ``(N,)``, as :meth:`dmdd.models.detector.Detector.image_score` gives them with the range of all.
        levels: ``(N,)``, the images' levels, above 0.
        power: The detector's ``level_power``.

    Returns:
        ``(N,)``; the same but for the images of the least and the largest level, and of fewer than two images.

    Source: leave-one-out; the level ours.
    """
    if len(levels) < 2:
        return scores
    ascending = levels.sort().values
    others = torch.where(levels == ascending[0], levels.clamp(min=float(ascending[1])), levels)
    others = torch.where(levels == ascending[-1], others.clamp(max=float(ascending[-2])), others)
    contrast = scores / (1 - scores) * (levels / others) ** power
    return torch.where((others == levels) | (scores >= 1), scores, contrast / (1 + contrast))


def _compare(update: Callable[..., None], maps: Tensor, masks: Tensor | list[Tensor], *more: Sequence[Any]) -> None:
    """Give a metric a batch at once, or image by image where the masks have sizes of their own."""
    if isinstance(masks, Tensor):
        update(maps, masks, *more)
        return
    for place, (own, mask) in enumerate(native_maps(maps, masks)):
        update(own, mask, *(values[place : place + 1] for values in more))


def _study_metrics() -> MetricCollection:
    return MetricCollection(
        {"pixel_auroc": PixelAUROC(), "aupro_30": AUPRO(0.3)}, compute_groups=[["pixel_auroc", "aupro_30"]]
    )
