"""The published data sets: which categories make a whole, and what the paper claims over it."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Benchmark:
    """A data set whose mean over all categories is published.

    Args:
        title: Its name in papers.
        categories: All of them.
        claims: The paper's means in [0, 1], by metric. They are quoted, nothing here reproduces them.
    """

    title: str
    categories: frozenset[str]
    claims: dict[str, float] = field(default_factory=dict)


# Claims: Liu et al., ACM MM 2024 (arXiv 2408.03888). It says PRO without saying which of the definitions in use.
BENCHMARKS = {
    "mvtec_ad": Benchmark(
        "MVTec AD",
        frozenset(
            (
                *("bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill", "screw"),
                *("tile", "toothbrush", "transistor", "wood", "zipper"),
            )
        ),
        {"pixel_auroc": 0.9885, "aupro_30": 0.9613},
    ),
    "mpdd": Benchmark(
        "MPDD",
        frozenset(("bracket_black", "bracket_brown", "bracket_white", "connector", "metal_plate", "tubes")),
        {"image_auroc": 0.9810, "pixel_auroc": 0.9896, "aupro_30": 0.9766},
    ),
    "visa": Benchmark(
        "VisA",
        frozenset(
            (
                *("candle", "capsules", "cashew", "chewinggum", "fryum", "macaroni1", "macaroni2"),
                *("pcb1", "pcb2", "pcb3", "pcb4", "pipe_fryum"),
            )
        ),
    ),
    "btad": Benchmark("BTAD", frozenset(("01", "02", "03"))),
    "mvtec_loco": Benchmark(
        "MVTec LOCO AD",
        frozenset(("breakfast_box", "juice_bottle", "pushpins", "screw_bag", "splicing_connectors")),
    ),
}

METRIC_TITLES = {
    "pixel_auroc": "pixel AUROC",
    "aupro_30": "AUPRO@0.3",
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1_max": "image F1-max",
    "pixel_ap": "pixel AP",
    "aupro_5": "AUPRO@0.05",
    "pixel_f1_max": "pixel F1-max",
    "pixel_f1": "pixel F1 at threshold",
    "part_auroc": "part AUROC",
    "pixel_iou_max": "pixel IoU-max",
    "aupro_pooled_200": "AUPRO, 200 thresholds",
    "aupro_per_image_200": "AUPRO per image (old)",
    "aupimo": "AUPIMO",
    "image_recall_at_fpr_1": "recall at 1 % false alarms",
    "image_recall_at_fpr_5": "recall at 5 % false alarms",
    "image_precision": "precision at threshold",
    "image_recall": "recall at threshold",
    "image_f1": "F1 at threshold",
    "image_balanced_accuracy": "balanced accuracy at threshold",
    "image_false_alarm_rate": "false alarms at threshold",
    "image_auroc_logical": "image AUROC, logical",
    "image_auroc_structural": "image AUROC, structural",
    "image_auroc_loco": "image AUROC, mean of both",
    "au_spro_5_logical": "AU-sPRO@0.05, logical",
    "au_spro_5_structural": "AU-sPRO@0.05, structural",
    "au_spro_5_loco": "AU-sPRO@0.05, mean of both",
}
DEFAULT_METRICS = ("pixel_auroc", "aupro_30", "image_auroc")
