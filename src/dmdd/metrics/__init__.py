"""Metrics of anomaly detection: exact or with a certified interval, small in memory, the same on every machine."""

from dmdd.metrics.collections import image_metrics, pixel_metrics
from dmdd.metrics.functional import Estimate
from dmdd.metrics.image import ImageAUROC, ImageAveragePrecision, ImageF1Max
from dmdd.metrics.per_image import AUPROPerImage200
from dmdd.metrics.pixel import AUPRO, PixelAUROC, PixelAveragePrecision, PixelF1Max, PixelIoUMax

__all__ = [
    "AUPRO",
    "AUPROPerImage200",
    "Estimate",
    "ImageAUROC",
    "ImageAveragePrecision",
    "ImageF1Max",
    "PixelAUROC",
    "PixelAveragePrecision",
    "PixelF1Max",
    "PixelIoUMax",
    "image_metrics",
    "pixel_metrics",
]
