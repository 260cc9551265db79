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
    "pixel_iou_max": "pixel IoU-max",
    "aupro_per_image_200": "AUPRO per image (old)",
}
DEFAULT_METRICS = ("pixel_auroc", "aupro_30", "image_auroc")
