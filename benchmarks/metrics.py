"""Time and peak memory of the pixel metrics against a sort and against torchmetrics, on the same arrays.

    python benchmarks/metrics.py                    # 160 x 256^2 and 160 x 1024^2, one thread
    python benchmarks/metrics.py --stream 1e9       # the same, then a billion pixels made and forgotten in batches

Every figure comes from a process of its own. Peak memory is what the kernel saw above the inputs (Linux only: the high
water mark is reset once the inputs exist). Labelling the regions is part of every time that has an AUPRO in it.
"""

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import trapezoid  # numpy has one of that name from version 2 on
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAUROC

from dmdd.metrics import estimates, pixel_metrics

Arrays = tuple[NDArray[np.float32], NDArray[np.uint8]]
BATCH_PIXELS = 8 * 1024 * 1024


def one_image(side: int, seed: int) -> Arrays:
    """Imitate an anomaly map in [0, 1] and its mask: smooth, mostly low, half the images with one to four defects."""
    rng = np.random.default_rng(seed)
    scores = cv2.resize(rng.random((side // 8, side // 8), dtype=np.float32), (side, side)) ** 4
    mask = np.zeros((side, side), np.uint8)
    if seed % 2:
        for _ in range(int(rng.integers(1, 5))):
            centre = tuple(int(c) for c in rng.integers(side // 8, 7 * side // 8, 2))
            axes = tuple(int(a) for a in rng.integers(max(2, side // 64), side // 10, 2))
            cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
        scores = 0.75 * scores + 0.25 * cv2.GaussianBlur(mask.astype(np.float32), (0, 0), side / 64)
    return scores, mask


def images(count: int, side: int) -> Arrays:
    maps, masks = np.empty((count, side, side), np.float32), np.empty((count, side, side), np.uint8)
    for index in range(count):
        maps[index], masks[index] = one_image(side, index)
    return maps, masks


def only_shared(metrics: MetricCollection) -> MetricCollection:
    """Leave out those with counts of their own and `aupro_pooled_200`, which neither rival computes."""
    others = ("aupro_per_image_200", "aupro_pooled_200", "aupimo")
    shared = {name: metric for name, metric in metrics.items(copy_state=False) if name not in others}
    return MetricCollection(shared, compute_groups=[list(shared)])


def ours(maps: NDArray[np.float32], masks: NDArray[np.uint8], exact: bool = False) -> dict[str, float]:
    metrics = only_shared(pixel_metrics(exact=exact))
    step = max(1, BATCH_PIXELS // maps[0].size)
    for first in range(0, len(maps), step):
        metrics.update(torch.from_numpy(maps[first : first + step]), torch.from_numpy(masks[first : first + step]))
    return {name: float(value) for name, value in metrics.compute().items()}


def ours_exact(maps: NDArray[np.float32], masks: NDArray[np.uint8]) -> dict[str, float]:
    return ours(maps, masks, exact=True)


def ours_all(maps: NDArray[np.float32], masks: NDArray[np.uint8]) -> dict[str, float]:
    """Compute all the pixel metrics that a test reports."""
    metrics = pixel_metrics()
    for scores, mask in zip(torch.from_numpy(maps).split(8), torch.from_numpy(masks).split(8), strict=True):
        metrics.update(scores, mask)
    return {name: float(value) for name, value in metrics.compute().items()}


def interval_widths(maps: NDArray[np.float32], masks: NDArray[np.uint8]) -> dict[str, float]:
    """Measure the certified intervals."""
    metrics = only_shared(pixel_metrics())
    metrics.update(torch.from_numpy(maps), torch.from_numpy(masks))
    metrics.compute()
    return {name: estimate.upper - estimate.lower for name, estimate in estimates(metrics).items()}


def plain_interval_widths(maps: NDArray[np.float32], masks: NDArray[np.uint8]) -> dict[str, float]:
    """Measure them for a plain cut to the top 20 bits: what it cannot tell apart is made equal first."""
    return interval_widths((maps.view(np.int32) & ~0xFFF).view(np.float32), masks)


def with_sort(maps: NDArray[np.float32], masks: NDArray[np.uint8]) -> dict[str, float]:
    """Compute what everyone computes: one argsort of all pixels, cumulative sums, trapezoids."""
    share, n_regions = np.zeros(maps.shape, np.float32), 0
    for index, mask in enumerate(masks):
        found, labels = cv2.connectedComponents(mask, connectivity=8)
        if found > 1:
            sizes = np.bincount(labels.ravel())
            sizes[0] = 1
            share[index] = np.where(labels > 0, 1.0 / sizes[labels], 0.0)
            n_regions += found - 1
    order = np.argsort(maps.ravel())[::-1]
    scores, anomalous = maps.ravel()[order], masks.ravel()[order]
    last = np.append(scores[1:] != scores[:-1], True)
    tp = np.cumsum(anomalous, dtype=np.float64)[last]
    rank = np.flatnonzero(last) + 1.0
    overlap = np.cumsum(share.ravel()[order], dtype=np.float64)[last] / n_regions
    fp = rank - tp
    result = {
        "pixel_auroc": float(trapezoid(np.append(0, tp), np.append(0, fp)) / (tp[-1] * fp[-1])),
        "pixel_ap": float(np.sum(np.diff(tp, prepend=0) * tp / rank) / tp[-1]),
        "pixel_f1_max": float((2 * tp / (rank + tp[-1])).max()),
    }
    x, y = np.append(0, fp / fp[-1]), np.append(0, overlap)
    for name, limit in (("aupro_30", 0.3), ("aupro_5", 0.05)):
        inside = x < limit
        xs, ys = np.append(x[inside], limit), np.append(y[inside], np.interp(limit, x, y))
        result[name] = float(trapezoid(ys, xs) / limit)
    return result


def with_torchmetrics(maps: NDArray[np.float32], masks: NDArray[np.uint8]) -> dict[str, float]:
    """Compute the AUROC alone; maps here stay in [0, 1], where no sigmoid is applied."""
    metric = BinaryAUROC(validate_args=False)
    step = max(1, BATCH_PIXELS // maps[0].size)
    for first in range(0, len(maps), step):
        metric.update(
            torch.from_numpy(maps[first : first + step]), torch.from_numpy(masks[first : first + step]).long()
        )
    return {"pixel_auroc": float(metric.compute())}


METHODS: dict[str, Callable[..., dict[str, float]]] = {
    "ours": ours,
    "ours, all nine": ours_all,
    "ours, exact": ours_exact,
    "sort": with_sort,
    "torchmetrics": with_torchmetrics,
}


def resident_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def forget_peak() -> float:
    """Give freed memory back to the system, let the high water mark start anew; return what is resident, in MiB."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident_mib("VmRSS")


def measure(method: str, count: int, side: int) -> dict[str, Any]:
    maps, masks = images(count, side)
    warm = images(2, 64)
    METHODS[method](*warm)  # imports and first-call costs belong to nobody
    before = forget_peak()
    start = time.perf_counter()
    values = METHODS[method](maps, masks)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "mib": resident_mib("VmHWM") - before, "values": values}


def measure_stream(pixels: int, side: int = 1024) -> dict[str, Any]:
    """Time the metrics alone over `pixels` pixels; eight images are made once and scaled anew each time."""
    maps, masks = (torch.from_numpy(part) for part in images(8, side))
    ours(*images(2, 64))
    metrics = only_shared(pixel_metrics())
    seconds, batches = 0.0, max(1, pixels // maps.numel())
    scaled = maps.clone()
    before = forget_peak()
    for index in range(batches):
        torch.mul(maps, 0.5 + 0.5 * (index + 1) / batches, out=scaled)
        start = time.perf_counter()
        metrics.update(scaled, masks)
        seconds += time.perf_counter() - start
    start = time.perf_counter()
    values = {name: float(value) for name, value in metrics.compute().items()}
    seconds += time.perf_counter() - start
    return {
        "pixels": batches * maps.numel(),
        "seconds": seconds,
        "mib": resident_mib("VmHWM") - before,
        "values": values,
    }


def in_own_process(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, __file__, *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--stream", type=float, default=0, help="pixels to stream after the table")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "SIDE"), help=argparse.SUPPRESS)
    parser.add_argument("--one-stream", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    if args.one:
        print(json.dumps(measure(args.one[0], args.images, int(args.one[1]))))
        return
    if args.one_stream:
        print(json.dumps(measure_stream(args.one_stream)))
        return
    common = ["--images", str(args.images), "--threads", str(args.threads)]
    for side in args.sides:
        print(f"{args.images} x {side}^2, {args.threads} thread(s)")
        for method in METHODS:
            show(method, in_own_process("--one", method, str(side), *common))
    maps, masks = images(args.images, 256)
    print("widths of the certified intervals, 256^2")
    for label, measured in (("ours", interval_widths), ("plain 20 bits", plain_interval_widths)):
        print(f"  {label:16}", "  ".join(f"{name} {width:.1e}" for name, width in measured(maps, masks).items()))
    if args.stream:
        row = in_own_process("--one-stream", str(int(args.stream)), *common)
        print(f"streamed {row['pixels']:.3g} pixels")
        show("ours", row)


def show(label: str, row: dict[str, Any]) -> None:
    values = "  ".join(f"{name} {row['values'][name]:.9f}" for name in sorted(row["values"]))
    print(f"  {label:16} {row['seconds']:8.2f} s {row['mib']:7.0f} MiB  {values}", flush=True)


if __name__ == "__main__":
    main()
