"""The sets of metrics that a test reports."""

from torchmetrics import Metric, MetricCollection

from dmdd.metrics.image import RECALL_LIMITS, ImageAUROC, ImageAveragePrecision, ImageF1Max, ImageRecallAtFPR
from dmdd.metrics.per_image import AUPROPerImage200
from dmdd.metrics.pimo import AUPIMO
from dmdd.metrics.pixel import AUPRO, PixelAUROC, PixelAveragePrecision, PixelF1Max, PixelIoUMax
from dmdd.metrics.pooled_200 import AUPROPooled200


def pixel_metrics(*, exact: bool = False) -> MetricCollection:
    """Build the pixel metrics, which count each map once between them.

    Args:
        exact: keep every score instead of histograms, see `PixelMetric`.

    Returns:
        `pixel_auroc`, `pixel_ap`, `aupro_30`, `aupro_5`, `pixel_f1_max`, `pixel_iou_max`, `aupro_pooled_200`,
        `aupro_per_image_200`, `aupimo`; `update(maps, masks)`.

    Source: ours.
    """
    shared = {
        "pixel_auroc": PixelAUROC(exact=exact),
        "pixel_ap": PixelAveragePrecision(exact=exact),
        "aupro_30": AUPRO(0.3, exact=exact),
        "aupro_5": AUPRO(0.05, exact=exact),
        "pixel_f1_max": PixelF1Max(exact=exact),
        "pixel_iou_max": PixelIoUMax(exact=exact),
        "aupro_pooled_200": AUPROPooled200(exact=exact),
    }
    # Groups are named, not found: finding them updates every metric on the first batch.
    metrics = MetricCollection(
        {**shared, "aupro_per_image_200": AUPROPerImage200(), "aupimo": AUPIMO()},
        compute_groups=[list(shared), ["aupro_per_image_200"], ["aupimo"]],
    )
    metrics.values(copy_state=False)  # makes the group share one state before the first batch
    return metrics


def image_metrics() -> MetricCollection:
    """Build the image metrics.

    Returns:
        `image_auroc`, `image_ap`, `image_f1_max` and the recall at each of `RECALL_LIMITS`;
        `update(scores, labels)`.

    Source: ours.
    """
    metrics: dict[str, Metric | MetricCollection] = {
        "image_auroc": ImageAUROC(),
        "image_ap": ImageAveragePrecision(),
        "image_f1_max": ImageF1Max(),
        **{name: ImageRecallAtFPR(limit) for name, limit in RECALL_LIMITS.items()},
    }
    return MetricCollection(metrics, compute_groups=[list(metrics)])
