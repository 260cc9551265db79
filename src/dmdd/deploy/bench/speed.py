"""Latency and throughput of an engine."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from dmdd.deploy.bench.engines import STAGES, Engine

WARM_UP = 3


def measure(engine: Engine, images: np.ndarray, *, runs: int, batches: Sequence[int]) -> dict[str, Any]:
    """Measure one engine.

    Args:
        engine: The detector in a runtime.
        images: ``(B, H, W, 3)`` uint8, at least as many as the largest batch.
        runs: Timed runs for each latency.
        batches: Sizes for the throughput.

    Returns:
        Plain JSON values: ``load_ms``; ``latency_ms`` with ``p50`` and ``p99`` at batch 1 of ``whole`` and of each
        stage; ``images_per_s`` by batch size, from the best of three runs.
    """
    first = images[:1]
    pixels = engine.stages["preprocess"](first)
    raw = engine.stages["network"](pixels)[0]
    calls: dict[str, tuple[Callable[[Any], Any], Any]] = {
        "whole": (engine.whole, first),
        **{name: (engine.stages[name], given) for name, given in zip(STAGES, (first, pixels, raw), strict=True)},
    }
    # One after the other, not in turns: the threads of a runtime wait busily for a while after each run, and would take
    # the cores from whatever comes next.
    times = {name: time_runs(partial(call, given), runs) for name, (call, given) in calls.items()}
    return {
        "load_ms": round(engine.load_ms, 1),
        "latency_ms": {name: _percentiles(values) for name, values in times.items()},
        "images_per_s": {str(size): _throughput(engine, images[:size]) for size in batches},
    }


def time_runs(run: Callable[[], Any], runs: int) -> list[float]:
    """Time a function.

    Args:
        run: What to time.
        runs: How often, after ``WARM_UP`` runs that do not count.

    Returns:
        Times in ms.
    """
    times = []
    for _ in range(WARM_UP + runs):
        started = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - started))
    return times[WARM_UP:]


def _percentiles(values: list[float]) -> dict[str, float]:
    return {f"p{share}": round(float(np.percentile(values, share)), 2) for share in (50, 99)}


def _throughput(engine: Engine, images: np.ndarray) -> float:
    return round(1000 * len(images) / min(time_runs(partial(engine.whole, images), 3)), 2)


def print_speed(report: dict[str, Any]) -> None:
    """Print the table.

    Args:
        report: As ``dmdd.bench`` writes it.
    """
    batches = list(next(iter(report["engines"].values()))["images_per_s"])
    height, width = report["image_size"]
    table = Table(title=f"ms for one image of {height} x {width}, median (whole: and 99th percentile)")
    table.add_column("engine", no_wrap=True)
    for title in ("load", *(stage.replace("process", "") for stage in STAGES), "whole", "p99"):
        table.add_column(title, justify="right")
    for size in batches:
        table.add_column(f"img/s x{size}", justify="right")
    for name, row in report["engines"].items():
        latency = row["latency_ms"]
        figures = [latency[stage]["p50"] for stage in (*STAGES, "whole")] + [latency["whole"]["p99"]]
        rates = [f"{row['images_per_s'][size]:.1f}" for size in batches]
        table.add_row(name, f"{row['load_ms']:.0f}", *(f"{figure:.1f}" for figure in figures), *rates)
    console = Console()
    console.print(table)
    versions = ", ".join(f"{name} {report['versions'][name]}" for name in ("torch", "onnxruntime", "openvino"))
    console.print(f"{report['threads']} threads on {report['device']}; {versions}", soft_wrap=True)
