"""What a run leaves behind: result.json, scores.csv, and the table that ends it in the terminal."""

import csv
import io
import json
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dmdd.core.files import write_atomically
from dmdd.data.listing import NORMAL, Sample
from dmdd.data.plausibility import NO_ANOMALIES
from dmdd.data.regions import Regions
from dmdd.models.detector import Tiling
from dmdd.models.score_scale import ScoreScale
from dmdd.training.categories import mean_figures
from dmdd.training.evaluation import EvaluationModule, ImageScore, Phase

SUSPICIOUS_SHOWN = 5

OF_THE_REGION = (
    "all figures are of the region of interest: no pixel outside it is seen, scored or counted, and an image whose "
    "defects all lie outside counts as normal"
)


def protocol(*, native_masks: bool, tiling: Tiling | None = None, regions: Regions | None = None) -> dict[str, str]:
    """Say how the figures came about, as ``result.json`` records it.

    Args:
        native_masks: Whether maps were compared with masks of the images' own sizes.
        tiling: How images were cut into tiles, whose maps were joined at the images' own size; None if they were not.
        regions: Which pixels counted; None if all did.

    Returns:
        Sentences by topic.

    Source: ours (docs/method.md, protocol).
    """
    size = (
        "compared at the masks' own size, maps upsampled bilinearly" if native_masks else "compared at the input size"
    )
    if tiling is not None:
        height, width = tiling.tile_px
        size = f"compared at the images' own size, maps joined from tiles of {height} x {width} px"
    return {
        "selection": "none on test data: fixed step budgets, the last weights are measured, once",
        "thresholds": "held-out normal training images and their synthetic twins",
        "masks_and_maps": size,
        "aupro": "pooled over all images, 8-connected regions, linear interpolation at the FPR limit, divided by it",
        **({"region": OF_THE_REGION} if regions else {}),
    }


def write_scores(
    file: Path, samples: tuple[Sample, ...], scores: list[ImageScore], root: Path, scale: ScoreScale | None = None
) -> None:
    """Write one line an image: file, defect, label, score; with a scale raw score and false-alarm probability.

    Of several categories the last column is the category.

    Args:
        file: The CSV file.
        samples: The test set.
        scores: ``(index, label, raw score)`` of each.
        root: Paths are written relative to it.
        scale: Turns raw scores into those that users see; None where these are the raw ones.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    of_category = any(sample.category for sample in samples)
    more = [*(["raw_score", "false_alarm_probability"] if scale else []), *(["category"] if of_category else [])]
    writer.writerow(["file", "defect", "label", "score", *more])
    for index, label, raw in scores:
        path = samples[index].path
        shown = path.relative_to(root) if path.is_relative_to(root) else path
        values = [raw] if scale is None else [scale.readable(raw), raw, scale.false_alarm_probability(raw)]
        known = [samples[index].category] if of_category else []
        writer.writerow([shown.as_posix(), samples[index].defect, label, *(f"{value:.9g}" for value in values), *known])
    write_atomically(file, text.getvalue())


def evaluation_entries(evaluation: EvaluationModule, phase: Phase, *, listed: int) -> dict[str, Any]:
    """Lay out the figures of a finished evaluation for ``result.json``.

    Args:
        evaluation: After ``trainer.test`` or ``trainer.validate``.
        phase: Which of them.
        listed: How many images were to be measured.

    Returns:
        ``metrics`` by name in [0, 1], ``bounds`` their certified intervals, ``intervals_95`` their intervals over the
        choice of test images, ``maps`` the figures of every map, ``types`` those of every defect type,
        ``type_intervals_95`` their intervals, ``decisions`` the counts of images at the calibrated threshold,
        ``left_out`` how many anomalous images a metric could not measure, ``categories`` the figures of each category
        where there are several and ``category_mean`` their means; what is unknown is absent.

    Raises:
        UserError: The figures are of something else, or not of all images.
    """
    evaluation.check_complete(phase, listed=listed)
    entries = {
        "metrics": evaluation.metrics,
        "bounds": {name: list(interval) for name, interval in evaluation.bounds.items()},
        "intervals_95": {name: list(interval) for name, interval in evaluation.intervals.items()},
        "maps": evaluation.study,
        "types": evaluation.types,
        "type_intervals_95": {
            name: {metric: list(interval) for metric, interval in figures.items()}
            for name, figures in evaluation.type_intervals.items()
        },
        "decisions": {} if evaluation.decisions is None else evaluation.decisions._asdict(),
        "left_out": evaluation.left_out,
        "categories": evaluation.categories,
        "category_mean": mean_figures(evaluation.categories),
    }
    return {name: entry for name, entry in entries.items() if entry or name == "metrics"}


def write_result(file: Path, entries: dict[str, Any]) -> None:
    """Write ``result.json``.

    Args:
        file: The JSON file.
        entries: Plain JSON values; NaN is refused, an undefined metric is absent instead.

    Raises:
        ValueError: A value is NaN or infinite.
    """
    write_atomically(file, json.dumps(entries, indent=2, allow_nan=False) + "\n")


def print_summary(result: dict[str, Any], run_dir: Path) -> None:
    """Print the table that ends a run.

    Args:
        result: As in ``result.json``.
        run_dir: Where everything lies.
    """
    console = Console()
    if _known(result["test"]):
        console.print(_map_table(result))
    if categories := result["test"].get("categories"):
        console.print(_category_table(categories, result["test"].get("category_mean", {})))
    types = result["test"].get("types", {})
    if set(types) - {NORMAL}:
        console.print(_type_table(types))
    elif types:
        console.print(NO_ANOMALIES, soft_wrap=True, highlight=False)
    for line in (*_threshold_lines(result), *_score_lines(run_dir / "scores.csv"), *odd_lines(result)):
        console.print(_printable(line), soft_wrap=True, highlight=False)
    minutes = [f"{name} {seconds / 60:.1f} min" for name, seconds in result["wall_time_s"].items()]
    console.print(f"{', '.join(minutes)} on {result['device']}", soft_wrap=True)
    for title, name in (("result", "result.json"), ("pictures", "images"), ("model", "model")):
        if (run_dir / name).exists():
            console.print(_printable(f"{title:<9} {run_dir / name}"), soft_wrap=True)


def odd_lines(result: dict[str, Any]) -> list[str]:
    """Say which training images to look at.

    Args:
        result: As in ``result.json``.

    Returns:
        Lines; none for results that know of none.
    """
    suspicious = result.get("suspicious", [])
    lines = [
        f"look at   {entry['file']}: given as good, but like none of the others"
        + ("; the threshold was set without it" if entry.get("left_out") else "")
        for entry in suspicious[:SUSPICIOUS_SHOWN]
    ]
    if len(suspicious) > SUSPICIOUS_SHOWN:
        lines.append(f"          and {len(suspicious) - SUSPICIOUS_SHOWN} more, see result.json")
    return lines


COLUMNS = [("pixel_auroc", "pixel AUROC"), ("aupro_30", "AUPRO@0.3"), ("image_auroc", "image AUROC")]


def _known(test: dict[str, Any]) -> bool:
    """Tell whether any figure of the table of maps is known: of good images alone none is."""
    return any(name in figures for figures in (test["metrics"], *test.get("maps", {}).values()) for name, _ in COLUMNS)


def _map_table(result: dict[str, Any]) -> Table:
    of = ", region of interest" if "region" in result.get("protocol", {}) else ""
    table = Table(title=_printable(f"{result['dataset']} / {result['category']}, test set{of}, percent"))
    table.add_column("map")
    for _, title in COLUMNS:
        table.add_column(title, justify="right")
    rows = [("detector", result["test"]["metrics"])]
    rows += [(f"{name} map", figures) for name, figures in result["test"].get("maps", {}).items()]
    for label, figures in rows:
        table.add_row(label, *(_percent(figures, key) for key, _ in COLUMNS))
    return table


def _category_table(categories: dict[str, dict[str, Any]], mean: dict[str, float]) -> Table:
    """Lay out the figures of each category, decided by its own threshold, and their means."""
    table = Table(title="by category, each at its own threshold, percent")
    columns = [*COLUMNS, ("image_recall", "found"), ("image_false_alarm_rate", "false alarms")]
    table.add_column("category")
    for _, title in columns:
        table.add_column(title, justify="right")
    rows = [(_printable(name), entry["metrics"]) for name, entry in categories.items()]
    for name, figures in (*rows, (f"mean of {len(rows)}", mean)):
        table.add_row(name, *(_percent(figures, key) for key, _ in columns))
    return table


def _threshold_lines(result: dict[str, Any]) -> list[str]:
    """Say what the image threshold is, what it is expected to do, and what it did on the test set."""
    calibration, types = result.get("calibration") or {}, result["test"].get("types", {})
    if (threshold := calibration.get("image_threshold")) is None:
        return ["no image threshold: no good images were held out, or other maps than the model's own were chosen"]
    scaled = ScoreScale.of(calibration) is not None
    of_all = " for all categories" if result["test"].get("categories") else ""
    line = f"threshold of the score{of_all} {0.5 if scaled else threshold:.4g}"
    if promise := calibration.get("promise"):
        line += f": {promise}"
    elif (rate := calibration.get("image_false_alarm_rate")) is not None:
        known = f", from {calibration['normal_images']} held-out ones" if "normal_images" in calibration else ""
        line += f": false alarms expected on {100 * rate:.3g} % of good images{known}"
    lines = [line]
    for good, what in ((True, "false alarms on {} of {} good"), (False, "found {} of {} anomalous")):
        group = [row for name, row in types.items() if (name == NORMAL) == good and "images_found" in row]
        images = int(sum(row["images"] for row in group))
        found = round(sum(row["images"] * row["images_found"] for row in group))
        if images:
            lines.append(f"{what.format(found, images)} test images ({100 * found / images:.3g} %)")
    return lines


def _score_lines(file: Path) -> list[str]:
    """Give the range of the scores of good and of anomalous test images."""
    try:
        with file.open(newline="", encoding="utf-8", errors="replace") as text:
            rows = [(row["label"], float(row["score"])) for row in csv.DictReader(text)]
    except (OSError, ValueError, KeyError):
        return []
    lines = []
    for label, what in (("0", "good"), ("1", "anomalous")):
        if scores := sorted(score for own, score in rows if own == label):
            spread = f"{scores[0]:.4g} to {scores[-1]:.4g}, median {median(scores):.4g}"
            lines.append(f"scores of {len(scores)} {what} test images: {spread}")
    return lines


def _type_table(types: dict[str, dict[str, float]]) -> Table:
    """Lay out the figures of each defect type; what is found on good images are false alarms."""
    table = Table(title="by type, at the calibrated thresholds, percent")
    columns = [("images_found", "images found"), ("pixels_found", "pixels found"), ("aupro_30", "AUPRO@0.3")]
    alarms = [("images_found", "false alarms")] if NORMAL in types else []
    table.add_column("type")
    for title in ("images", *(title for _, title in (*columns, *alarms))):
        table.add_column(title, justify="right")
    for name, figures in types.items():
        cells = [_percent(figures if name != NORMAL else {}, key) for key, _ in columns]
        cells += [_percent(figures if name == NORMAL else {}, key) for key, _ in alarms]
        table.add_row(_printable(name), str(int(figures["images"])), *cells)
    return table


def _printable(name: str) -> str:
    """Let a folder's name stand for itself: no markup, and a question mark for each byte that is no text."""
    return escape(name.encode(errors="replace").decode())


def _percent(figures: dict[str, float], key: str) -> str:
    return f"{100 * figures[key]:.2f}" if key in figures else "-"
