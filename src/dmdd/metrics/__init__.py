"""Metrics of anomaly detection: exact or with a certified interval, small in memory, the same on every machine."""

from dmdd.metrics.base import estimates
from dmdd.metrics.bootstrap import Interval, PixelBootstrap, bootstrap_image_metrics, percentile_interval
from dmdd.metrics.curves import Curve, precision_recall_curve, pro_curve, roc_curve
from dmdd.metrics.functional import Estimate
from dmdd.metrics.image import ImageAUROC, ImageAveragePrecision, ImageF1Max
from dmdd.metrics.inside import keep_inside
from dmdd.metrics.native import native_maps, update_native
from dmdd.metrics.per_image import AUPROPerImage200
from dmdd.metrics.per_type import DefectTypes, TypeRow, recall_by_type
from dmdd.metrics.pixel import AUPRO, PixelAUROC, PixelAveragePrecision, PixelF1Max, PixelIoUMax
from dmdd.metrics.suites import image_metrics, pixel_metrics

__all__ = [
    "AUPRO",
    "AUPROPerImage200",
    "Curve",
    "DefectTypes",
    "Estimate",
    "ImageAUROC",
    "ImageAveragePrecision",
    "ImageF1Max",
    "Interval",
    "PixelAUROC",
    "PixelAveragePrecision",
    "PixelBootstrap",
    "PixelF1Max",
    "PixelIoUMax",
    "TypeRow",
    "bootstrap_image_metrics",
    "estimates",
    "image_metrics",
    "keep_inside",
    "native_maps",
    "percentile_interval",
    "pixel_metrics",
    "precision_recall_curve",
    "pro_curve",
    "recall_by_type",
    "roc_curve",
    "update_native",
]
