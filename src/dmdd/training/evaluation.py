"""Evaluation: calibrate on held-out pairs, then measure the test set once."""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from dmdd.core.errors import UserError
from dmdd.core.masks import SPOT_AREA_PX
from dmdd.core.resize import resize_masks
from dmdd.data.datasets import EvaluationBatch
from dmdd.data.images import count_pixels
from dmdd.data.listing import Sample
from dmdd.data.saturation import ImageDefects
from dmdd.metrics import (
    AUPRO,
    Curve,
    Decisions,
    DefectTypes,
    Interval,
    PixelAUROC,
    PixelBootstrap,
    PixelDecisions,
    decision_figures,
    decision_intervals,
    estimates,
    image_intervals,
    image_metrics,
    keep_inside,
    native_maps,
    pixel_metrics,
    precision_recall_curve,
    pro_curve,
    roc_curve,
)
from dmdd.metrics.pixel_threshold import choose_pixel_threshold, count_values, peaks
from dmdd.models.detector import Detector, Slices
from dmdd.models.normal_scores import calibrate_scores, learn_normal_scores
from dmdd.models.tiling import look
from dmdd.training.baselines import NormalImages, learn_baselines, scores_by_tiles_of_others
from dmdd.training.categories import CategoryFigures, image_entry
from dmdd.training.figures import (
    ImageScore,
    decisions_at,
    image_figures_by_type,
    image_intervals_by_type,
    loco_figures,
    loco_intervals,
)
from dmdd.training.saturated import METRIC as AU_SPRO
from dmdd.training.saturated import SaturatedFigures

Phase = Literal["validation", "test"]

EXACT_PIXELS = 1 << 24
"""Test sets of at most so many pixels are measured exactly: 70 MB, 2 s of processor time more than with histograms."""

MAX_TYPES = 100
"""Defect types with pixel figures of their own: 17 MB each; more are rather the serial numbers of parts."""


class EvaluationModule(LightningModule):
    """Measure a detector: ``trainer.validate`` calibrates its thresholds, ``trainer.test`` measures the test set.

    After ``test``, ``metrics`` holds the figures of the detector's own map and score, ``bounds`` the certified interval
    of those that have one, ``intervals`` their 95 % intervals over the choice of test images, ``study`` pixel AUROC,
    AUPRO and image AUROC of every map by its name, ``types`` figures by defect type, ``type_intervals`` their 95 %
    intervals, ``decisions`` the counts at the calibrated image threshold, ``left_out`` how many anomalous images a
    metric leaves out, ``curves`` ROC, precision-recall and per-region-overlap curves, and ``scores`` index, label and
    score of each image. After ``validate`` metrics, bounds, study and scores are of the synthetic validation, and
    ``intruders`` holds the probability of each held-out image, by index, that its score is none of a good image;
    ``measured`` says which it was. ``strangeness`` may be set before: how strange each held-out image looks. Of several
    categories ``categories`` holds figures of each, as they are in ``result.json``. With several devices the first
    alone draws the intervals; the others have none.

    Args:
        detector: What is measured; calibration fills its ``calibration``, and that of each category.
        defects: Type of each test image, by index; "good" for a normal one.
        categories: Category of each test image, by index; empty names where there is one.
        held_out_categories: The same of the held-out images.
        training_categories: The same of the images trained on.
        parts: What names the part that each test image shows, by index; empty names where each shows its own.
        false_alarm_rate: Wanted share of normal images at or above the image threshold, in (0, 1).
        has_masks: Whether the test masks are known; without them pixel metrics are absent.
        study_maps: Also measure the maps of stage 1.
        normal_images: ``(N, 3, h, w)`` uint8, from which ``trainer.validate`` learns normal images' baselines; None
            keeps those the detector has. A function gives them where they are seen in tiles or have regions.
        training_images: ``(M, 3, h, w)`` uint8 trained on; how their scores scatter tells how those of few held-out
            images may.
        baselines_batch_size: How many of them at once.
        resamples: Test sets drawn for the intervals; 0 for none.
        exact: Keep every score of the detector's own map, see :func:`choose_exact`.
        read_defects: Reads the defects of a test image in the layout of MVTec LOCO, by its index; None for others.
        own_pixel_metrics: More metrics by name, updated with maps ``(B, 1, h, w)`` in [0, 1] and masks of 0 and 1.
        own_image_metrics: The same of image scores ``(B,)`` in [0, 1] and labels of 0 and 1.

    Raises:
        UserError: ``false_alarm_rate`` is not between 0 and 1, ``resamples`` no whole number from 0, or one of the own
            metrics has a name that is taken.

    Source: ours (docs/method.md, protocol).
    """

    def __init__(
        self,
        detector: Detector,
        *,
        defects: Sequence[str] = (),
        categories: Sequence[str] = (),
        held_out_categories: Sequence[str] = (),
        training_categories: Sequence[str] = (),
        parts: Sequence[str] = (),
        false_alarm_rate: float = 0.01,
        has_masks: bool = True,
        study_maps: bool = True,
        normal_images: Slices | Callable[[], NormalImages] | None = None,
        training_images: Slices | None = None,
        baselines_batch_size: int = 16,
        resamples: int = 0,
        exact: bool = False,
        read_defects: Callable[[int], ImageDefects] | None = None,
        own_pixel_metrics: Mapping[str, Metric] | None = None,
        own_image_metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        super().__init__()
        if not 0 < false_alarm_rate < 1:
            raise UserError(f"evaluation.false_alarm_rate={false_alarm_rate}: give a number between 0 and 1")
        if not isinstance(resamples, int) or isinstance(resamples, bool) or resamples < 0:
            raise UserError(f"evaluation.resamples={resamples}: give a whole number from 0")
        self.detector, self.false_alarm_rate, self.has_masks = detector, false_alarm_rate, has_masks
        own = (detector.anomaly_map, detector.score_map)
        self.map_names = detector.map_names if study_maps else tuple(dict.fromkeys(own))
        self.image_metrics, self.pixel_metrics = image_metrics(), pixel_metrics(exact=exact)
        # Plain collections and not submodules of one another: each keeps a state of its own.
        self.study_pixels = torch.nn.ModuleDict({_key(n): _study_metrics() for n in self.map_names if n != own[0]})
        self.study_images = torch.nn.ModuleDict({_key(n): image_metrics() for n in self.map_names})
        self.own_pixels, self.own_images = _own_metrics(own_pixel_metrics), _own_metrics(own_image_metrics)
        self.defects, self.resamples = tuple(defects), resamples
        self.normal_images, self.baselines_batch_size = normal_images, baselines_batch_size
        self.training_images = training_images
        self.training_scores: list[float] = []
        self.strangeness: list[float] | None = None
        self.intruders: dict[int, float] = {}
        self._pixels: list[tuple[int, Tensor]] = []  # of the synthetic validation, by index
        self._baselines: dict[str, Tensor] = {}
        self._owners: Tensor | None = None
        self._tile_scores: dict[int, tuple[Tensor, Tensor]] = {}
        self.type_metrics: DefectTypes | None = None  # made when the test begins: it needs the calibrated threshold
        self.bootstrap = PixelBootstrap(n_resamples=max(resamples, 1))
        self.saturated = read_defects and SaturatedFigures(read_defects, defects=defects, resamples=resamples)
        self.held_out_categories, self.training_categories = tuple(held_out_categories), tuple(training_categories)
        self.by_category = (
            CategoryFigures(categories, resamples=resamples, exact=exact) if len(set(categories)) > 1 else None
        )
        self.categories: dict[str, dict[str, Any]] = {}
        self.parts, self.pixel_decisions = tuple(parts), PixelDecisions()
        self.metrics: dict[str, float] = {}
        self.intervals: dict[str, Interval] = {}
        self.types: dict[str, dict[str, float]] = {}
        self.type_intervals: dict[str, dict[str, Interval]] = {}
        self.decisions: Decisions | None = None
        self.left_out: dict[str, int] = {}
        self.curves: dict[str, Curve] = {}
        self.bounds: dict[str, tuple[float, float]] = {}
        self.study: dict[str, dict[str, float]] = {}
        self.scores: list[ImageScore] = []
        self.measured: Phase | None = None
        self._uneven = False
        self._pixels_known = True

    def setup(self, stage: str) -> None:
        """Forget all figures, so that those of an earlier phase are never taken for this one's.

        Lightning calls this before it looks whether there is a batch at all; without one it calls nothing else.

        Args:
            stage: Lightning's stage.
        """
        self._forget()

    def check_complete(self, phase: Phase, *, listed: int) -> None:
        """Refuse to give figures that are not of all images that are listed, each measured as often as any other.

        Args:
            phase: What the figures are to be of.
            listed: How many images there are.

        Raises:
            UserError: The figures are of another phase, or of other images.
        """
        scored = len(self.scores)
        if self.measured != phase:
            reason = f"measured {self.measured or 'nothing'}"
        elif scored != listed or self._uneven:
            reason = f"scored {scored} of {listed} images" + (", some of them more often than others" * self._uneven)
        else:
            return
        raise UserError(
            f"the {phase} {reason}, so no result is written; leave out what limits the batches "
            "(trainer settings, callbacks) and start the same command again"
        )

    def validation_step(self, batch: EvaluationBatch, batch_idx: int) -> None:
        """Score held-out normal images and their twins.

        Args:
            batch: Synthetic pairs laid out as images.
            batch_idx: Not used.
        """
        maps = self._step(batch)
        if isinstance(batch.masks, Tensor):
            self._pixels += zip(batch.indices.tolist(), _count_pixels(maps, batch), strict=True)

    def test_step(self, batch: EvaluationBatch, batch_idx: int) -> None:
        """Score test images.

        Args:
            batch: Test images.
            batch_idx: Not used.
        """
        maps = self._step(batch)
        if self._pixels_known and self.type_metrics is not None:
            types = [self.defects[index] for index in batch.indices.tolist()]
            _compare(self.type_metrics.update, maps, batch, types)
        if self._pixels_known and self.resamples:
            _compare(self.bootstrap.update, maps, batch, batch.indices.tolist())
        if self._pixels_known:
            _compare(self.pixel_decisions.update, maps, batch)
        if self._pixels_known and self.by_category is not None:
            _compare(self.by_category.update, maps, batch, batch.indices.tolist())
        if self.saturated is not None:
            self.saturated.update(maps, batch.indices.tolist())

    def _step(self, batch: EvaluationBatch) -> Tensor:
        tiling, inside = self.detector.tiling, None
        if batch.inside is not None:
            size = self.detector.input_size if tiling is None else None
            inside = torch.cat(
                [region[None] if size is None else resize_masks(region[None], size) for region in batch.inside]
            )
        seen = look(self.detector, batch.images, only=self.map_names, tiling=tiling, inside=inside)
        maps, scores = seen.maps, seen.scores
        own = scores[self.detector.score_map]
        if tiling is not None:
            parts = zip(seen.tile_scores.double().cpu(), seen.tile_baselines.double().cpu(), strict=True)
            self._tile_scores |= dict(zip(batch.indices.tolist(), parts, strict=True))
        self.image_metrics.update(own, batch.labels)
        for name in self.map_names:
            self.study_images[_key(name)].update(scores[name], batch.labels)  # type: ignore[operator]
        self.own_images.update(own, batch.labels)
        if self._pixels_known:
            _compare(self.pixel_metrics.update, maps[self.detector.anomaly_map], batch)
            _compare(self.own_pixels.update, maps[self.detector.anomaly_map], batch)
            for name in self.map_names:
                if name != self.detector.anomaly_map:
                    _compare(self.study_pixels[_key(name)].update, maps[name], batch)  # type: ignore[arg-type]
        self.scores += zip(batch.indices.tolist(), batch.labels.tolist(), own.tolist(), strict=True)
        return maps[self.detector.anomaly_map]

    def on_validation_epoch_start(self) -> None:
        """Forget earlier images, and learn the baselines of normal ones before any score is computed."""
        self._reset(pixels_known=True)
        self._pixels = []
        if self.normal_images is not None:  # on every device all of them, so that all know the same range
            given = self.normal_images
            normal = given() if callable(given) else NormalImages(given)
            self._owners = normal.owners
            self._baselines = learn_baselines(self.detector, normal, batch_size=self.baselines_batch_size)
        if self.training_images is not None:
            self.training_scores = self._score(self.training_images)

    def _score(self, images: Slices) -> list[float]:
        """Score images one batch after the other; only those of the batch in hand are on the device."""
        name, scores = self.detector.score_map, []
        with torch.no_grad():
            for first in range(0, len(images), self.baselines_batch_size):
                batch = images[first : first + self.baselines_batch_size]
                raw = self.detector.raw_maps(batch.to(self.device), only=(name,))[name]
                scores += self.detector.image_score(name, raw).tolist()
        return scores

    def on_test_epoch_start(self) -> None:
        """Forget earlier images."""
        self._reset(pixels_known=self.has_masks)
        self.bootstrap.reset()
        self.pixel_decisions.threshold = self._pixel_threshold(self.detector.calibration)
        if self.by_category is not None:
            self.by_category.decide_at([self._pixel_threshold(self._known(name)) for name in self.by_category.names])
        if self.saturated is not None:
            self.saturated.reset()
        self.type_metrics = None
        names = sorted(set(self.defects) - {"good"})
        if len(names) > MAX_TYPES and self.has_masks:
            left_out = f"{len(names)} defect types: pixel figures by type are left out with more than {MAX_TYPES}"
            rank_zero_warn(left_out, category=UserWarning)
        elif self.defects and self.has_masks:
            threshold = self._pixel_threshold(self.detector.calibration)
            self.type_metrics = DefectTypes(names, threshold=threshold).to(self.device)

    def _reset(self, *, pixels_known: bool) -> None:
        self._forget()
        self._pixels_known = pixels_known

    def _forget(self) -> None:
        self.measured, self._uneven = None, False
        self.metrics, self.bounds, self.study = {}, {}, {}
        self.intervals, self.types, self.type_intervals, self.curves = {}, {}, {}, {}
        self.decisions, self.left_out, self.categories = None, {}, {}
        self.scores, self._tile_scores = [], {}
        self.pixel_decisions.reset()
        if self.by_category is not None:
            self.by_category.reset()
        for metrics in self._collections():
            metrics.reset()

    def _collections(self) -> list[MetricCollection]:
        studies = [*self.study_pixels.values(), *self.study_images.values()]
        own = [self.image_metrics, self.pixel_metrics, self.own_images, self.own_pixels]
        return [*own, *studies]  # type: ignore[list-item]

    def on_validation_epoch_end(self) -> None:
        """Compute the figures and set the thresholds."""
        self._finish()
        self._pixels = self._gather(self._pixels)
        self._calibrate()
        self.measured = "validation"

    def on_test_epoch_end(self) -> None:
        """Compute the figures, their intervals, those by type, and the curves."""
        self._finish()
        self._decide()
        self.categories = self._by_category()
        self.types = self._by_type() if self.defects else {}
        self.metrics |= loco_figures(self.types)
        self.type_intervals = self._type_intervals() if self.resamples else {}
        self.intervals = self._resample() if self.resamples else {}
        if by_part := self._by_part():
            self.metrics |= by_part["metrics"]
            self.intervals |= {name: Interval(*pair) for name, pair in by_part["intervals_95"].items()}
        self.curves = self._draw_curves()
        self.measured = "test"

    def _decide(self) -> None:
        """Count the decisions at the calibrated image threshold, where there is one."""
        threshold = self.detector.calibration.get("image_threshold")
        self.decisions = None if threshold is None else decisions_at(self.scores, threshold)
        if self.decisions is not None:
            self.metrics |= {k: v for k, v in decision_figures(self.decisions).items() if not math.isnan(v)}
        f1 = float(self.pixel_decisions.compute()) if self._pixels_known else math.nan
        if self.pixel_decisions.threshold < math.inf and not math.isnan(f1):
            self.metrics["pixel_f1"] = f1

    def _by_part(self) -> dict[str, Any]:
        """Judge parts that are shown by several images: a part's score is the largest of its views."""
        if len(set(self.parts)) < 2:
            return {}
        rows: dict[str, ImageScore] = {}
        for index, label, score in self.scores:
            _, known, largest = rows.get(self.parts[index], (index, 0, 0.0))
            rows[self.parts[index]] = (index, max(known, label), max(largest, score))
        entry = image_entry(
            list(rows.values()), self.detector.calibration.get("image_threshold"), resamples=self.resamples
        )
        return {
            kind: {name.replace("image_", "part_"): value for name, value in entry[kind].items()}
            for kind in ("metrics", "intervals_95")
        }

    @staticmethod
    def _pixel_threshold(calibration: Mapping[str, Any]) -> float:
        threshold = calibration.get("pixel_threshold")
        return math.inf if threshold is None else threshold

    def _known(self, category: str) -> dict[str, Any]:
        """Give the calibration of a category, or that for all."""
        return self.detector.category_calibrations.get(category, self.detector.calibration)

    def _by_category(self) -> dict[str, dict[str, Any]]:
        """Give the figures of each category, decided by its own threshold where the model has one."""
        if self.by_category is None:
            return {}
        thresholds = {name: self._known(name).get("image_threshold") for name in self.by_category.names}
        return self.by_category.entries(self.scores, thresholds, pixels_known=self._pixels_known)

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
        """Share of images and pixels found at the calibrated thresholds, image AUROC and AUPRO, by type."""
        calibration = self.detector.calibration
        rows = image_figures_by_type(self.scores, self.defects, calibration.get("image_threshold"))
        if self.type_metrics is not None:
            with self.type_metrics.sync_context():
                table = self.type_metrics.table()
            for name, row in table.items():
                if name not in rows:  # no image of that type was scored, which check_complete tells
                    continue
                values = {"aupro_30": row.aupro.value}
                if calibration.get("pixel_threshold") is not None:
                    values["pixels_found"] = row.pixel_recall
                rows[name] |= {key: float(value) for key, value in values.items() if not math.isnan(value)}
        if self.saturated is not None:
            for name, value in self.saturated.values().items():
                rows[name][AU_SPRO] = value
        return rows

    def _type_intervals(self) -> dict[str, dict[str, Interval]]:
        """Give the 95 % intervals of the figures by type; on devices but the first none, they only send their part."""
        if len(self.types) > MAX_TYPES + 1:
            return {}
        rows = self.types if self.trainer.is_global_zero else {}
        found = image_intervals_by_type(self.scores, self.defects, rows, resamples=self.resamples)
        if self.type_metrics is not None:
            own = {name: [i for i, defect in enumerate(self.defects) if defect == name] for name in rows}
            values = {n: {k: v for k, v in rows[n].items() if k in ("aupro_30", "pixels_found")} for n in rows}
            threshold = self.type_metrics.threshold
            with self.bootstrap.sync_context():
                pixels = self.bootstrap.intervals_by_type(own, values, threshold) if rows else {}
            found = {name: figures | pixels.get(name, {}) for name, figures in found.items()}
        if self.saturated is not None:
            values_of = {name: row[AU_SPRO] for name, row in rows.items() if AU_SPRO in row}
            for name, interval in self.saturated.intervals(values_of).items():
                found[name][AU_SPRO] = interval
        return found

    def _resample(self) -> dict[str, Interval]:
        """Give the 95 % interval over the choice of test images of each metric that has one; see `_type_intervals`."""
        first, pixels = self.trainer.is_global_zero, {}
        if self._pixels_known:
            with self.bootstrap.sync_context():
                pixels = self.bootstrap.intervals(self.metrics, self.pixel_decisions.threshold) if first else {}
            per_image: Any = self.pixel_metrics["aupro_per_image_200"]
            if per_image.interval is not None:
                pixels["aupro_per_image_200"] = per_image.interval
        if not first:
            return {}
        scores = torch.tensor([score for _, _, score in self.scores])
        labels = torch.tensor([label for _, label, _ in self.scores])
        found = image_intervals(scores, labels, n_resamples=self.resamples)
        if self.decisions is not None:
            found |= decision_intervals(self.decisions)
        return found | pixels | loco_intervals(self.types, self.type_intervals)

    def _finish(self) -> None:
        # By index, since devices with fewer images than there are devices score the same ones.
        scores = self._gather(self.scores)
        self._uneven = len(set(Counter(index for index, _, _ in scores).values())) > 1
        self.scores = sorted({score[0]: score for score in scores}.values())
        self.metrics, self.bounds, self.left_out = {}, {}, {}
        used = [self.own_images, self.image_metrics]
        used += [self.own_pixels, self.pixel_metrics] if self._pixels_known else []
        for collection in used:
            values, found = collection.compute(), estimates(collection)
            for name, value in values.items():
                if math.isnan(float(value)):
                    continue
                self.metrics[name] = float(value)
                if name in found and found[name].lower < found[name].upper:
                    self.bounds[name] = (found[name].lower, found[name].upper)
        if self._pixels_known:
            per_image: Any = self.pixel_metrics["aupro_per_image_200"]
            self.left_out = {"aupro_per_image_200": per_image.left_out}
        self.study = {name: self._study(name) for name in self.map_names}

    def _study(self, name: str) -> dict[str, float]:
        values: dict[str, Tensor] = {"image_auroc": self.study_images[_key(name)].compute()["image_auroc"]}  # type: ignore[operator]
        if self._pixels_known and name == self.detector.anomaly_map:
            values |= {key: torch.tensor(self.metrics[key]) for key in _study_metrics() if key in self.metrics}
        elif self._pixels_known:
            values |= self.study_pixels[_key(name)].compute()  # type: ignore[operator]
        return {key: float(value) for key, value in values.items() if not math.isnan(float(value))}

    def _gather(self, found: list[Any]) -> list[Any]:
        if self.trainer.world_size == 1:
            return found
        parts: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(parts, found)
        return [one for part in parts for one in part]

    def _calibrate(self) -> None:
        """Choose thresholds for images whose category is not known, and for each category."""
        own = self._scores_as_new()
        self.strangeness = self.trainer.strategy.broadcast(self.strangeness)  # the first device alone has looked
        self.detector.calibration = self._choose_thresholds(own, self.scores, self.training_scores)
        self.intruders = self._find_intruders(own)
        held_out = self.held_out_categories
        for name in dict.fromkeys(held_out) if len(set(held_out)) > 1 else ():
            # A twin in a later round has a number beyond that of its image by a multiple of their count.
            rows = [row for row in self.scores if held_out[max(row[0], -1 - row[0]) % len(held_out)] == name]
            training = zip(self.training_scores, self.training_categories, strict=False)
            self.detector.category_calibrations[name] = self._choose_thresholds(
                {row[0]: own[row[0]] for row in rows if row[0] in own},
                rows,
                [score for score, category in training if category == name],
            )

    def _find_intruders(self, own: Mapping[int, float]) -> dict[int, float]:
        """Give by index how likely a held-out image is none of the good ones; 0 where it scores no higher."""
        if not own:
            return {}
        known = learn_normal_scores(
            list(own.values()), training=self.training_scores, strangeness=self._strangeness_of(own)
        )
        found = zip(own.items(), known.intruders.tolist(), strict=True)
        return {index: doubt if score > known.typical else 0.0 for (index, score), doubt in found}

    def _strangeness_of(self, own: Iterable[int]) -> list[float] | None:
        return None if self.strangeness is None else [self.strangeness[index] for index in own]

    def _scores_as_new(self) -> dict[int, float]:
        """Give the scores of held-out normal images by the baselines of the others, as a new image gets them."""
        own = {index: score for index, label, score in self.scores if label == 0 and index >= 0}
        if not own:
            return {}
        baselines = self._baselines.get(self.detector.score_map)
        if baselines is not None and self.detector.baseline_power and self._owners is not None:
            tiles = {index: self._tile_scores[index] for index in own if index in self._tile_scores}
            power, known = self.detector.baseline_power, baselines.double().cpu()
            own |= scores_by_tiles_of_others(tiles, known, self._owners, power)
        elif baselines is not None and self.detector.baseline_power:
            mine = baselines.double().cpu()[list(own)]
            scores = by_baselines_of_others(
                torch.tensor(list(own.values())).double(), mine, self.detector.baseline_power
            )
            own = dict(zip(own, scores.tolist(), strict=True))
        return own

    def _choose_thresholds(
        self, own: Mapping[int, float], rows: Sequence[ImageScore], training: Sequence[float]
    ) -> dict[str, Any]:
        """Choose thresholds on held-out normal images and their synthetic twins.

        The pixel threshold is the one of the largest F1 over normal images and the twins that the image threshold
        finds: contours are looked at where an image is rejected, and the faintest twins would make those of real
        defects too wide.

        Args:
            own: Scores of the normal images, by index.
            rows: Index, label and score of normal images and twins.
            training: Scores of the images trained on.
        """
        if not own:
            return {}
        image = calibrate_scores(
            list(own.values()),
            rate=self.false_alarm_rate,
            training=training,
            strangeness=self._strangeness_of(own),
            anomalous=[score for _, label, score in rows if label],
            other_lots=True,
        )
        counts = dict(self._pixels)
        found = [i for i, label, score in rows if label and score >= image["image_threshold"]]
        chosen = found or [i for i, label, _ in rows if label]
        seen = [counts[i] for i in [*own, *chosen] if i in counts]
        pixel = choose_pixel_threshold(torch.stack(seen)) if seen else None
        normal = [counts[i] for i in own if i in counts]
        return {
            **image,
            "pixel_threshold": None if pixel is None else pixel[0],
            "pixel_f1_on_synthetic": None if pixel is None else pixel[1],
            "spot_area_px": SPOT_AREA_PX,
            **({"typical_peak": statistics.median(peaks(torch.stack(normal)))} if normal else {}),
            "source": "held-out normal training images and their synthetic twins",
        }


def choose_exact(setting: bool | None, samples: Sequence[Sample], *, size: tuple[int, int] | None) -> bool:
    """Decide whether the pixel metrics keep every score.

    Args:
        setting: ``evaluation.exact``; None lets the size of the test set decide.
        samples: The test set.
        size: Height and width in pixels that maps and masks are compared at; None for the images' own.

    Returns:
        The setting; without one, whether there are at most ``EXACT_PIXELS`` pixels.

    Raises:
        UserError: The setting is another value.
    """
    if isinstance(setting, bool):
        return setting
    if setting is not None:
        raise UserError(f"evaluation.exact={setting}: give true, false or null")
    pixels = sum(count_pixels(s.path) for s in samples) if size is None else len(samples) * size[0] * size[1]
    return pixels <= EXACT_PIXELS


def by_baselines_of_others(scores: Tensor, baselines: Tensor, power: float) -> Tensor:
    """Score normal images with the range of baselines that the others have.

    Of the images that a range was learnt from none lies outside it, of new ones 2 in n + 1 do; above it the score is
    larger for it. An image held against its own range would seem more normal than a new one.

    Args:
        scores: ``(N,)``, as :meth:`dmdd.models.detector.Detector.image_score` gives them with the range of all.
        baselines: ``(N,)``, the images' baselines, above 0.
        power: The detector's ``baseline_power``.

    Returns:
        ``(N,)``; the same but for the images of the least and the largest baseline, and of fewer than two images.

    Source: leave-one-out; the baseline ours.
    """
    if len(baselines) < 2:
        return scores
    ascending = baselines.sort().values
    others = torch.where(baselines == ascending[0], baselines.clamp(min=float(ascending[1])), baselines)
    others = torch.where(baselines == ascending[-1], others.clamp(max=float(ascending[-2])), others)
    contrast = scores / (1 - scores) * (baselines / others) ** power
    return torch.where((others == baselines) | (scores >= 1), scores, contrast / (1 + contrast))


def _compare(update: Callable[..., None], maps: Tensor, batch: EvaluationBatch, *more: Sequence[Any]) -> None:
    """Give a metric a batch at once; image by image where masks have sizes of their own or some pixels do not count."""
    if isinstance(batch.masks, Tensor) and batch.inside is None:
        update(maps, batch.masks, *more)
        return
    for place, (own, mask) in enumerate(native_maps(maps, batch.masks)):
        if batch.inside is not None:
            inside = resize_masks(batch.inside[place][None], (mask.shape[1], mask.shape[2]))[0]
            own, mask = keep_inside(own, mask, inside)
        update(own, mask, *(values[place : place + 1] for values in more))


def _count_pixels(maps: Tensor, batch: EvaluationBatch) -> Tensor:
    """Count the pixels that count by value."""
    assert isinstance(batch.masks, Tensor)
    if batch.inside is None:
        return count_values(maps, batch.masks)
    rows = []
    for own, mask, region in zip(maps, batch.masks, batch.inside, strict=True):
        inside = resize_masks(region[None], (mask.shape[1], mask.shape[2]))[0]
        row, marked = keep_inside(own, mask, inside)
        rows.append(count_values(row[None], marked[None]))
    return torch.cat(rows)


def _key(map_name: str) -> str:
    """Give a map's name the form that torch takes for the name of a part."""
    return map_name.replace(".", "/")


def _own_metrics(metrics: Mapping[str, Metric] | None) -> MetricCollection:
    taken = {*pixel_metrics(), *image_metrics(), *Decisions._fields}
    for name, metric in (metrics or {}).items():
        if name in taken:
            raise UserError(f"evaluation: there is a metric {name} already; give yours another name")
        if not isinstance(metric, Metric):
            raise UserError(f"evaluation: the metric {name} is a {type(metric).__name__}, not a torchmetrics.Metric")
    return MetricCollection(dict(metrics or {}), compute_groups=False)


def _study_metrics() -> MetricCollection:
    return MetricCollection(
        {"pixel_auroc": PixelAUROC(), "aupro_30": AUPRO(0.3)}, compute_groups=[["pixel_auroc", "aupro_30"]]
    )
