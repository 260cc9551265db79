"""Metrics of anomaly detection: exact or with a certified interval, small in memory, the same on every machine."""

from dmdd.metrics.base import estimates
from dmdd.metrics.bootstrap import bootstrap_image_metrics, image_intervals
from dmdd.metrics.curves import Curve, precision_recall_curve, pro_curve, roc_curve
from dmdd.metrics.decisions import (
    Decisions,
    ImageDecisions,
    PixelDecisions,
    decide,
    decision_figures,
    decision_intervals,
)
from dmdd.metrics.functional import Estimate
from dmdd.metrics.image import ImageAUROC, ImageAveragePrecision, ImageF1Max, ImageRecallAtFPR
from dmdd.metrics.inside import keep_inside
from dmdd.metrics.intervals import Interval, mean_interval, percentile_interval, sample_interval, wilson_interval
from dmdd.metrics.native import native_maps, update_native
from dmdd.metrics.per_image import AUPROPerImage200
from dmdd.metrics.per_type import DefectTypes, TypeRow, auroc_by_type, of_type, recall_by_type
from dmdd.metrics.pimo import AUPIMO
from dmdd.metrics.pixel import AUPRO, PixelAUROC, PixelAveragePrecision, PixelF1Max, PixelIoUMax
from dmdd.metrics.pixel_bootstrap import PixelBootstrap
from dmdd.metrics.pooled_200 import AUPROPooled200
from dmdd.metrics.regions import Channel
from dmdd.metrics.saturated import SaturatedAUPRO, saturated_overlap, united_masks
from dmdd.metrics.suites import image_metrics, pixel_metrics

__all__ = [
    "AUPIMO",
    "AUPRO",
    "AUPROPerImage200",
    "AUPROPooled200",
    "Channel",
    "Curve",
    "Decisions",
    "DefectTypes",
    "Estimate",
    "ImageAUROC",
    "ImageAveragePrecision",
    "ImageDecisions",
    "ImageF1Max",
    "ImageRecallAtFPR",
    "Interval",
    "PixelAUROC",
    "PixelAveragePrecision",
    "PixelBootstrap",
    "PixelDecisions",
    "PixelF1Max",
    "PixelIoUMax",
    "SaturatedAUPRO",
    "TypeRow",
    "auroc_by_type",
    "bootstrap_image_metrics",
    "decide",
    "decision_figures",
    "decision_intervals",
    "estimates",
    "image_intervals",
    "image_metrics",
    "keep_inside",
    "mean_interval",
    "native_maps",
    "of_type",
    "percentile_interval",
    "pixel_metrics",
    "precision_recall_curve",
    "pro_curve",
    "recall_by_type",
    "roc_curve",
    "sample_interval",
    "saturated_overlap",
    "united_masks",
    "update_native",
    "wilson_interval",
]
