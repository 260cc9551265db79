"""Pairs per second and core, beside the per-image numpy recipe, and the memory of a batch.

Run: python benchmarks/pairs.py [--sizes 256 512] [--batch 32] [--repeats 5] [--device cpu|cuda] [--json FILE]
Time: about a minute on one core. Images are generated; nothing is downloaded. On a CPU the time is what one thread used
of its core, so that other work on the machine counts less; MB is what a call holds at most beyond its inputs.
`dtd` is the same recipe as the per-image one: textures given, one rotated Perlin mask, blend, foreground.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml

from dmdd.pairs import PairSynthesis, draw_plan

CONFIGS = Path(__file__).parents[1] / "conf" / "pairs"


def numpy_perlin(size: int, scales: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Make one field as DRAEM's `rand_perlin_2d_np` does: four gradient images, dot products, lerps."""
    delta = (scales[0] / size, scales[1] / size)
    repeat = (size // scales[0], size // scales[1])
    grid = np.mgrid[0 : scales[0] : delta[0], 0 : scales[1] : delta[1]].transpose(1, 2, 0) % 1
    angles = 2 * math.pi * rng.random((scales[0] + 1, scales[1] + 1))
    gradients = np.stack((np.cos(angles), np.sin(angles)), axis=-1)

    def dot(rows: slice, columns: slice, shift: tuple[int, int]) -> np.ndarray:
        tiled = np.repeat(np.repeat(gradients[rows, columns], repeat[0], axis=0), repeat[1], axis=1)
        return (np.stack((grid[..., 0] + shift[0], grid[..., 1] + shift[1]), axis=-1) * tiled).sum(axis=-1)

    head, tail = slice(0, -1), slice(1, None)
    fade = 6 * grid**5 - 15 * grid**4 + 10 * grid**3
    top = dot(head, head, (0, 0)) * (1 - fade[..., 0]) + dot(tail, head, (-1, 0)) * fade[..., 0]
    bottom = dot(head, tail, (0, -1)) * (1 - fade[..., 0]) + dot(tail, tail, (-1, -1)) * fade[..., 0]
    return math.sqrt(2) * (top * (1 - fade[..., 1]) + bottom * fade[..., 1])


def classic_pair(
    image: np.ndarray, texture: np.ndarray, foreground: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Make one pair per image with numpy and OpenCV: Perlin, rotation, texture resize, blend."""
    size = image.shape[0]
    scales = tuple(2 ** int(exponent) for exponent in rng.integers(0, 6, 2))
    field = numpy_perlin(size, (scales[0], scales[1]), rng)
    turn = cv2.getRotationMatrix2D((size / 2, size / 2), rng.uniform(-90, 90), 1.0)
    field = cv2.warpAffine(field, turn, (size, size))
    mask = ((field > 0.5) & foreground).astype(np.float32)[..., None]
    source = cv2.resize(texture, (size, size)).astype(np.float32) / 255
    blend = rng.uniform(0, 0.8)
    return image * (1 - mask) + mask * ((1 - blend) * source + blend * image), mask


def seconds_each(function: Callable[[], object], repeats: int, device: str) -> list[float]:
    """Time a function, after one call that is not counted: seconds of the core on a CPU, of the wall clock on a GPU."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    synchronise = torch.cuda.synchronize if device == "cuda" else lambda: None
    function()
    times = []
    for _ in range(repeats):
        synchronise()
        start = clock()
        function()
        synchronise()
        times.append(clock() - start)
    return times


def inputs(batch: int, size: int) -> dict[str, torch.Tensor]:
    """Generate normal images with a part on plain ground, its foreground, and textures: bytes, as in training."""
    generator = torch.Generator().manual_seed(0)
    images = torch.full((batch, 3, size, size), 0.7)
    part = slice(size // 5, 4 * size // 5)
    images[:, :, part, part] = 0.2 + 0.2 * torch.rand(
        batch, 3, part.stop - part.start, part.stop - part.start, generator=generator
    )
    foreground = torch.zeros(batch, 1, size, size, dtype=torch.bool)
    foreground[:, :, part, part] = True
    textures = torch.rand(batch, 3, size, size, generator=generator)
    images, textures = (
        (255 * t).round().to(torch.uint8).contiguous(memory_format=torch.channels_last) for t in (images, textures)
    )
    return {"images": images, "others": images.roll(1, 0), "foreground": foreground, "textures": textures}


def measure_ours(name: str, batch: int, size: int, repeats: int, device: str) -> dict[str, Any]:
    """Milliseconds per pair of one configuration, its plan included, and the memory that a call takes."""
    settings = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    settings.pop("_target_")
    synthesis = PairSynthesis(**settings)
    given = {key: value.to(device) for key, value in inputs(batch, size).items()}
    images = given.pop("images")
    steps = iter(range(10**6))

    def call() -> None:
        synthesis(images, draw_plan(0, next(steps), range(batch)), **given)

    times = seconds_each(call, repeats, device)
    return {"ms_per_pair": [1e3 * value / batch for value in times], "memory_mb": _memory_mb(call, device)}


def _memory_mb(call: Callable[[], object], device: str) -> float:
    """Most memory, MB, that one call held above what was there before it."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    with torch.profiler.profile(profile_memory=True) as profile:
        call()
    held = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most / 1e6


def measure_numpy(batch: int, size: int, repeats: int) -> dict[str, Any]:
    """Milliseconds per pair of the per-image recipe, its textures decoded beforehand at 640 px, DTD's size."""
    rng = np.random.default_rng(0)
    given = inputs(batch, size)
    images = given["images"].permute(0, 2, 3, 1).contiguous().numpy().astype(np.float32) / 255
    foreground = given["foreground"][:, 0].numpy()
    textures = rng.integers(0, 256, (4, 640, 640, 3), np.uint8)

    def call() -> None:
        for row in range(batch):
            classic_pair(images[row], textures[row % 4], foreground[row], rng)

    return {"ms_per_pair": [1e3 * value / batch for value in seconds_each(call, repeats, "cpu")]}


def main() -> None:
    """Print one line per size and recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    results: dict[str, Any] = {}
    print(
        f"torch {torch.__version__}, device {args.device}, one thread, load {os.getloadavg()[0]:.1f}, "
        f"batch {args.batch}"
    )
    print(f"{'px':>4} {'recipe':<18} {'ms/pair min':>12} {'median':>8} {'pairs/s':>8} {'faster':>7} {'MB':>6}")
    for size in args.sizes:
        baseline = measure_numpy(args.batch, size, args.repeats)
        rows = {"numpy per image": baseline}
        rows |= {
            path.stem: measure_ours(path.stem, args.batch, size, args.repeats, args.device)
            for path in sorted(CONFIGS.glob("*.yaml"))
        }
        for name, row in rows.items():
            fastest, median = min(row["ms_per_pair"]), float(np.median(row["ms_per_pair"]))
            faster = float(np.median(baseline["ms_per_pair"])) / median
            print(
                f"{size:>4} {name:<18} {fastest:>12.2f} {median:>8.2f} {1e3 / median:>8.0f} {faster:>6.1f}x "
                f"{row.get('memory_mb', 0):>6.0f}"
            )
        results[str(size)] = rows
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
