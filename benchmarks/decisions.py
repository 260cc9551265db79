"""What do trained models decide? Found anomalies, rejected good images and contours at the calibrated thresholds.

    python benchmarks/decisions.py RUN [RUN ...] [--again [--spots]] [--cache FOLDER] [--output decisions.json]

RUN is a run folder, or a folder that holds some. Without ``--again`` the thresholds are the runs' own. With it every
model is calibrated again on its held-out images, by the rule of version 0.1 (the k-th largest of few scores) and by
today's, so that runs of both versions can be compared; that needs the images. Scores, maps and counts of pixels are
kept in ``--cache``, so that a second table takes seconds. ``best`` is what the best threshold finds that rejects no
more good images; ``shift`` is how many spreads the median of the good test images lies above that of held-out ones.
``cut`` is the IoU at the pixel threshold before anything was taken off the regions, ``IoU`` that of the masks.
``--spots`` shows instead what taking more or less off does to masks of the synthetic twins that are found, and of the
test images; the former chose the area.
"""

import argparse
import csv
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dmdd.core.masks import SPOT_AREA_PX

SPOT_RADII_PX = (0, 4, 6, 8, 10, 12)

Looked = Mapping[str, np.ndarray]


def read_raw(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the raw scores of a run's test set.

    Args:
        folder: The run's.

    Returns:
        Labels and raw scores, ``(N,)`` each.
    """
    with (folder / "scores.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    raw = [float(row.get("raw_score") or row["score"]) for row in rows]
    return np.array([int(row["label"]) for row in rows]), np.array(raw)


def decide(labels: np.ndarray, scores: np.ndarray, calibration: Mapping[str, Any]) -> dict[str, Any]:
    """Count what a threshold decides.

    Args:
        labels: 0 normal, 1 anomalous.
        scores: Raw scores.
        calibration: Of the run.

    Returns:
        Shares: ``found`` of anomalous images, ``rejected`` of normal ones, ``best`` found by the best threshold that
        rejects no more, ``promised`` with ``low`` and ``high``, ``elsewhere`` what it may be on other lots, and whether
        ``rejected`` is compatible with the interval of images like the held-out ones (``kept``) and with that of
        other lots (``kept_elsewhere``).
    """
    threshold = calibration["image_threshold"]
    normal, anomalous = np.sort(scores[labels == 0])[::-1], scores[labels == 1]
    rejected = int((normal >= threshold).sum())
    # Just above the first normal image that is not rejected.
    best = normal[rejected] if rejected < len(normal) else -np.inf
    low, high = calibration.get("image_false_alarm_interval", [0.0, 1.0])
    elsewhere = calibration.get("other_lots_rate", high)
    # Of so few test images no share lies between 0 and 1 / N: one image more or less is no disagreement.
    least, most = (rejected - 1) / len(normal), (rejected + 1) / len(normal)
    return {
        "held_out": calibration["normal_images"],
        "found": float((anomalous >= threshold).mean()),
        "rejected": rejected / len(normal),
        "normal": len(normal),
        "best": float((anomalous > best).mean()),
        "promised": calibration["image_false_alarm_rate"],
        "low": low,
        "high": high,
        "elsewhere": elsewhere,
        "kept": bool(low <= most and least <= high),
        "kept_elsewhere": bool(low <= most and least <= elsewhere),
    }


def calibrate_again(looked: Looked, *, rate: float) -> dict[str, dict[str, Any]]:
    """Set the thresholds of a run's model anew, by the former rules and by today's.

    Args:
        looked: What :func:`look` gave.
        rate: Wanted.

    Returns:
        Calibrations by rule: ``before`` and ``now``.
    """
    import torch

    from dmdd.metrics.pixel_threshold import choose_pixel_threshold
    from dmdd.models.normal_scores import calibrate_scores
    from dmdd.training.evaluation import by_baselines_of_others

    scores = torch.from_numpy(looked["held_out_scores"])
    if power := float(looked["level_power"]):
        scores = by_baselines_of_others(scores, torch.from_numpy(looked["held_out_levels"]).clamp(min=1e-6), power)
    descending = sorted(scores.tolist(), reverse=True)
    k = max(1, int(rate * (len(descending) + 1)))
    before = {
        "image_threshold": float(np.nextafter(np.float32(descending[k - 1]), np.float32(np.inf))),
        "image_false_alarm_rate": k / (len(descending) + 1),
        "normal_images": len(descending),
    }
    now = calibrate_scores(
        scores.tolist(),
        rate=rate,
        training=looked["training_scores"],
        strangeness=looked.get("held_out_strangeness"),  # earlier looks lack it
        other_lots=True,
    )
    found = looked["twins_scores"] >= now["image_threshold"]
    for calibration, chosen in ((before, np.ones_like(found)), (now, found if found.any() else ~found)):
        counts = np.concatenate([looked["held_out_counts"], looked["twins_counts"][chosen]])
        calibration["pixel_threshold"] = (choose_pixel_threshold(torch.from_numpy(counts)) or (1.0, 0.0))[0]
    return {"before": before, "now": now}


def contours(counts: np.ndarray, threshold: float) -> tuple[float, float]:
    """Give the IoU of what reaches a threshold in a test set.

    Args:
        counts: ``(N, 2, bins)`` pixels by map value, outside and inside the true masks.
        threshold: Of the map.

    Returns:
        At the threshold and at the best one.
    """
    outside, inside = counts.astype(np.int64).sum(0)[:, ::-1].cumsum(1)[:, ::-1]
    iou = inside / np.maximum(inside[0] + outside, 1)
    return float(iou[min(round(threshold * len(iou)), len(iou) - 1)]), float(iou.max())


def overlaps(looked: Looked, name: str, threshold: float, spot_area_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Compare masks as ``predict`` makes them with the true ones.

    Args:
        looked: What :func:`look` gave.
        name: ``test`` or ``twins``.
        threshold: Of the map.
        spot_area_px: Area taken off each region.

    Returns:
        Pixels in both and pixels in either, ``(N,)`` each.
    """
    from dmdd.core.masks import find_mask

    maps = looked[f"{name}_maps"].astype(np.float32)
    true = np.unpackbits(looked[f"{name}_masks"], axis=-1)[..., : maps.shape[-1]].astype(bool)
    found = np.stack([find_mask(heat, threshold, spot_area_px=spot_area_px) for heat in maps])
    return (found & true).sum((1, 2)), (found | true).sum((1, 2))


def look(folder: Path, cache: Path | None) -> Looked:
    """Look at everything that a calibration and its judgement need, or read it from the cache.

    Args:
        folder: The run's.
        cache: Folder of earlier looks; None keeps none.

    Returns:
        Raw scores, levels and counts of pixels by map value of the images trained on, held out, tested, and of the
        synthetic twins; maps (float16) and masks (packed bits) of the last two.
    """
    weights = (folder / "model" / "weights.safetensors").read_bytes()
    file = None if cache is None else cache / f"{hashlib.sha256(weights).hexdigest()[:16]}.npz"
    if file is not None and file.is_file():
        return dict(np.load(file))
    found = dict(_look(folder))
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(file, **found)
    return found


def _look(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    import torch
    from omegaconf import OmegaConf

    from dmdd.config.targets import build
    from dmdd.data.datamodule import PairDataModule
    from dmdd.models.detector import Detector
    from dmdd.models.suspicion import strangeness

    plain: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    detector = Detector.load(folder / "model")
    data = PairDataModule(
        category=build(plain["dataset"]["layout"], category=plain["category"]),
        synthesis=build(plain["pairs"]),
        image_size=plain["image_size"],
        batch_size=1,
        seed=plain["seed"],
        held_out_fraction=plain["data"]["held_out_fraction"],
        held_out_runs=plain["data"].get("held_out_runs", False),
        textures_dir=plain["data"]["textures_dir"],
    )
    data.setup("fit")
    looks = strangeness(detector, data.normal_pixels, batch_size=8)
    yield "held_out_strangeness", looks[data.training_images :].numpy()
    none = torch.zeros(1, 1, *detector.input_size, dtype=torch.bool)
    for name, images in (("training", data.training_pixels), ("held_out", data.held_out_pixels)):
        parts = (images[first : first + 8] for first in range(0, len(images), 8))
        yield from _score(name, detector, ((part, none.expand(len(part), -1, -1, -1)) for part in parts))
    pairs = (data.on_after_batch_transfer(batch, 0) for batch in data.val_dataloader())
    twins = ((batch.images[batch.labels == 1], batch.masks[batch.labels == 1]) for batch in pairs)
    yield from _score("twins", detector, twins)
    tests = list(data.test_dataloader())
    yield from _score("test", detector, ((batch.images, batch.masks) for batch in tests))
    yield "test_labels", torch.cat([batch.labels for batch in tests]).numpy()
    yield "level_power", np.array(detector.baseline_power if detector.score_map in detector.normal_baselines else 0.0)


def _score(name: str, detector: Any, batches: Any) -> Iterator[tuple[str, np.ndarray]]:
    import torch

    from dmdd.metrics.pixel_threshold import count_values

    parts: dict[str, list[Any]] = {"scores": [], "levels": [], "counts": []}
    if name in ("twins", "test"):
        parts |= {"maps": [], "masks": []}
    names = tuple({detector.score_map, detector.anomaly_map})
    with torch.no_grad():
        for images, masks in batches:
            raw = detector.raw_maps(images, only=names)
            own = raw[detector.score_map]
            parts["scores"].append(detector.image_score(detector.score_map, own).double())
            parts["levels"].append((detector.smooth(own) if detector.score_smoothed else own).mean((1, 2, 3)).double())
            maps = detector.smooth(raw[detector.anomaly_map])
            parts["counts"].append(count_values(maps, masks))
            if "maps" in parts:
                parts["maps"].append(maps[:, 0].half())
                parts["masks"].append(torch.from_numpy(np.packbits(masks[:, 0].numpy(), axis=-1)))
    for part, values in parts.items():
        yield f"{name}_{part}", torch.cat(values).numpy()


def shift(looked: Looked, calibration: Mapping[str, Any]) -> float:
    """Say how many spreads the good test images lie above the held-out ones, by their medians."""
    from dmdd.core.logits import logit

    good = looked["test_scores"][looked["test_labels"] == 0]
    return float((np.median(logit(good)) - logit(calibration["typical_score"])) / calibration["spread"])


def find_runs(places: Sequence[Path]) -> list[Path]:
    """List the finished runs in folders."""
    return sorted(
        {file.parent for place in places for file in place.rglob("result.json") if "test" in file.read_text()}
    )


def rows_of(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield what a run's model decides, by each rule."""
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    head = {"run": f"{result['category']} seed {result['seed']}"}
    if not options.again:
        yield head | {"rule": "the run's"} | decide(*read_raw(folder), result["calibration"])
        return
    looked = look(folder, options.cache)
    for rule, calibration in calibrate_again(looked, rate=options.rate).items():
        cut, best = contours(looked["test_counts"], calibration["pixel_threshold"])
        found = decide(looked["test_labels"], looked["test_scores"], calibration) | {"cut": cut, "best_iou": best}
        if rule == "now":
            both, either = overlaps(looked, "test", calibration["pixel_threshold"], SPOT_AREA_PX)
            found["iou"] = float(both.sum() / max(1, either.sum()))
        yield head | {"rule": rule} | found | ({"shift": shift(looked, calibration)} if rule == "now" else {})


def show_spots(folder: Path, options: argparse.Namespace) -> None:
    """Print the mean IoU of found twins and the IoU of the test set by the radius of what is taken off."""
    looked = look(folder, options.cache)
    now = calibrate_again(looked, rate=options.rate)["now"]
    found = looked["twins_scores"] >= now["image_threshold"]
    cells = [json.loads((folder / "result.json").read_text(encoding="utf-8"))["category"]]
    for radius in SPOT_RADII_PX:
        area = math.pi * radius**2
        both, either = overlaps(looked, "twins", now["pixel_threshold"], area)
        twins = (both / np.maximum(either, 1))[found if found.any() else ~found].mean()
        both, either = overlaps(looked, "test", now["pixel_threshold"], area)
        cells.append(f"{100 * twins:.1f} / {100 * both.sum() / max(1, either.sum()):.1f}")
    print("|", " | ".join(cells), "|", flush=True)


HEADS = ("run", "rule", "held out", "found", "best", "good rejected", "90 % interval", "other lots", "kept", "shift")


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--again", action="store_true", help="calibrate anew, by the former rules and by today's")
    parser.add_argument("--spots", action="store_true", help="masks by the area taken off, with --again")
    parser.add_argument("--cache", type=Path, help="folder of scores, maps and counts, with --again")
    parser.add_argument("--rate", type=float, default=0.01, help="wanted false-alarm rate, with --again")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    rows = []
    if options.spots:
        heads = ["set", *(f"{radius} px" for radius in SPOT_RADII_PX)]
        print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
        for folder in find_runs(options.runs):
            show_spots(folder, options)
        return
    heads = (*HEADS, "cut", "IoU", "best IoU") if options.again else HEADS[:-1]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in (row for folder in find_runs(options.runs) for row in rows_of(folder, options)):
        rows.append(row)
        shares = [f"{100 * row[name]:.1f} %" for name in ("found", "best", "rejected")]
        interval = f"{100 * row['low']:.1f} to {100 * row['high']:.1f} %" if row["high"] < 1 else ""
        lots = f"to {100 * row['elsewhere']:.0f} %" if row["elsewhere"] < 1 else ""
        kept = ("yes" if row["kept"] else "other lots" if row["kept_elsewhere"] else "no") if interval else ""
        cells = [row["run"], row["rule"], str(row["held_out"]), *shares, interval, lots, kept]
        if options.again:
            cells += [
                f"{row['shift']:.1f}" if "shift" in row else "",
                *(f"{100 * row[k]:.1f}" if k in row else "" for k in ("cut", "iou", "best_iou")),
            ]
        print("|", " | ".join(cells), "|", flush=True)
    if options.output:
        options.output.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
