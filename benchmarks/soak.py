"""Run for long and see that nothing grows: memory, file handles, threads.

    python benchmarks/soak.py --output soak.json

Three parts, each in a process of its own, all on networks with random weights that are as small as they can be, since
what may leak is what lies around them:

- `train`: 3,000 steps through the real run (both stages, states saved, losses logged), 64 px, batches of 2;
- `predict`: 10,000 images of eight sizes through the `Predictor`, one call for 20 images;
- `serve`: the server as a process of its own, 20 rounds of 50 requests at once; each answer must equal the one the same
  image had when it was sent alone.

The slope is that of the resident memory (of the server in `serve`) by least squares over what follows the first
third, in which caches fill, in MB per 1,000 steps, images or requests; in `train` it is taken of each stage. A part
fails above its bound (`BOUNDS`), where file handles or threads have grown, and where an answer is lost or differs: exit
code 1 then.
"""

import argparse
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

BOUNDS = {"train": 5.0, "predict": 2.0, "serve": 10.0}
"""MB per 1,000: at a million steps or images a leak of this size would fill a machine, what is below is noise."""

GROWN = 3  # file handles or threads more at the end than after the first third, which the runtime may open at any time
BACKBONE = "ghostnet_050"
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6
SIZES = [(60, 40), (64, 96), (100, 100), (33, 47), (200, 120), (64, 64), (90, 160), (128, 128)]


class Watch:
    """Notes memory, file handles and threads of a process."""

    def __init__(self, pid: int) -> None:
        self.folder, self.rows = Path(f"/proc/{pid}"), []
        self.began = self.ended = time.monotonic()

    def note(self, done: int) -> None:
        memory = int((self.folder / "statm").read_text().split()[1]) * PAGE_MB
        handles, threads = (sum(1 for _ in (self.folder / name).iterdir()) for name in ("fd", "task"))
        self.rows.append((done, memory, handles, threads))
        self.ended = time.monotonic()

    def report(self, part: str) -> dict[str, Any]:
        done, memory, handles, threads = np.array(self.rows).T
        late = slice(len(done) // 3, None)
        slope = float(np.polyfit(done[late], memory[late], 1)[0] * 1000)
        grown = {n: int(v[-1] - v[late][0]) for n, v in (("handles", handles), ("threads", threads))}
        return {
            "done": int(done[-1]),
            "samples": len(done),
            "seconds": round(self.ended - self.began, 1),
            "memory_mb": {
                "begin": round(memory[0], 1),
                "third": round(memory[late][0], 1),
                "end": round(memory[-1], 1),
            },
            "slope_mb_per_1000": round(slope, 3),
            "bound_mb_per_1000": BOUNDS[part],
            "handles": [int(handles[0]), int(handles[-1])],
            "threads": [int(threads[0]), int(threads[-1])],
            "passed": slope <= BOUNDS[part] and max(grown.values()) <= GROWN,
        }


def save_model(folder: Path) -> Path:
    """Save a tiny detector with random weights."""
    import torch

    from dmdd.models.detector import Detector
    from dmdd.models.segmentation import SegmentationNetwork
    from dmdd.models.student import Student
    from dmdd.models.teacher import Teacher

    torch.manual_seed(0)
    teacher = Teacher(backbone=BACKBONE)
    Detector(
        teacher=teacher,
        student=Student(channels=teacher.channels, widths=(4, 4, 4)),
        segmentation=SegmentationNetwork(channels=teacher.channels, width=4),
        input_size=(64, 64),
    ).save(folder)
    return folder


def soak_train(folder: Path, steps: int) -> dict[str, Any]:
    """Train through ``dmdd.train``, both stages half of the steps each."""
    from dmdd.data.demo.generate import generate_demo
    from dmdd.train import main
    from dmdd.training.distillation import DistillationModule
    from dmdd.training.segmentation import SegmentationModule

    generate_demo(folder, size=96, train=12, test_good=4, per_defect=2)
    half = steps // 2
    watches = {}

    def counted(stage: str, step: Callable[..., Any]) -> Callable[..., Any]:
        done = 0

        @functools.wraps(step)
        def counting(*arguments: Any) -> Any:
            nonlocal done
            watch = watches.setdefault(stage, Watch(os.getpid()))
            done += 1
            if done % max(1, half // 50) == 0:
                watch.note(done)
            return step(*arguments)

        return counting

    for stage, module in (("distillation", DistillationModule), ("segmentation", SegmentationModule)):
        module.training_step = counted(stage, module.training_step)  # type: ignore[method-assign]
    code = main(
        [
            *("dataset=demo", "category=plate", f"data_dir={folder}", f"hydra.run.dir={folder}/run", "recipe=smoke"),
            *("teacher=resnet18", f"teacher.backbone={BACKBONE}", "teacher.random_weights=true", "image_size=[64,64]"),
            *("batch_size=2", f"distillation.steps={half}", f"segmentation_training.steps={steps - half}"),
            *("trainer.accelerator=cpu", "evaluation.resamples=0", "save_state_every_n_steps=100"),
            *("evaluation.pictures=0", "callbacks.progress.every_n_steps=500"),
        ]
    )
    stages = {stage: watch.report("train") for stage, watch in watches.items()}
    whole = code == 0 and (folder / "run/result.json").is_file() and len(stages) == 2
    return stages | {"passed": whole and all(stage["passed"] for stage in stages.values())}


def soak_predict(folder: Path, images: int) -> dict[str, Any]:
    """Inspect images of several sizes, again and again."""
    import dmdd

    predictor = dmdd.load(save_model(folder / "model"), device="cpu")
    generator = np.random.default_rng(0)
    batch = [generator.integers(0, 256, (*SIZES[i % len(SIZES)], 3), np.uint8) for i in range(20)]
    first = [(found.score, found.map) for found in predictor(batch)]
    watch = Watch(os.getpid())
    for done in range(0, images, len(batch)):
        found = predictor(batch)
        if done % max(len(batch), images // 100 // len(batch) * len(batch)) == 0:
            watch.note(done)
    watch.note(images)
    report = watch.report("predict")
    same = [
        one.score == score and np.array_equal(one.map, heat) for one, (score, heat) in zip(found, first, strict=True)
    ]
    report["passed"] &= all(same)
    return report | {"answers_differing": same.count(False)}


@contextlib.contextmanager
def running(folder: Path) -> Iterator[tuple[int, str]]:
    """Start ``dmdd.serve`` and give its process and address."""
    command = [sys.executable, "-m", "dmdd.serve", f"model={save_model(folder / 'model')}", "port=0", "device=cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("page"):
                yield process.pid, line.split()[-1]
                break
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def soak_serve(folder: Path, rounds: int, at_once: int = 50) -> dict[str, Any]:
    """Ask the server many times at once and compare with what it says when asked alone."""
    import io

    import httpx
    from PIL import Image

    generator, files = np.random.default_rng(0), []
    for place in range(at_once):
        file = io.BytesIO()
        pixels = generator.integers(0, 256, (*SIZES[place % len(SIZES)], 3), np.uint8)
        Image.fromarray(pixels).save(file, "PNG")
        files.append(file.getvalue())

    def ask(client: httpx.Client, content: bytes) -> dict[str, Any]:
        answer = client.post("/predict", content=content, headers={"Content-Type": "image/png"})
        return {"status": answer.status_code} | {k: v for k, v in answer.json().items() if not k.endswith("_ms")}

    lost = different = 0
    limits = httpx.Limits(max_connections=at_once)
    with running(folder) as (pid, address), httpx.Client(base_url=address, timeout=120, limits=limits) as client:
        alone = [ask(client, content) for content in files]
        watch = Watch(pid)
        with ThreadPoolExecutor(at_once) as pool:
            for number in range(rounds):
                watch.note(number * at_once)
                answers = list(pool.map(functools.partial(ask, client), files))
                lost += sum(answer["status"] != 200 for answer in answers)
                different += sum(one != other for one, other in zip(answers, alone, strict=True))
        watch.note(rounds * at_once)
    report = watch.report("serve")
    report["passed"] &= lost == different == 0 and all(answer["status"] == 200 for answer in alone)
    return report | {"at_once": at_once, "answers_lost": lost, "answers_differing": different}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=20, help="of 50 requests at once")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    parser.add_argument("--part", choices=tuple(BOUNDS), help="only this one, in this process")
    arguments = parser.parse_args()
    if arguments.part is not None:
        import torch

        torch.set_num_threads(1)
        soak = {"train": soak_train, "predict": soak_predict, "serve": soak_serve}[arguments.part]
        count = {"train": arguments.steps, "predict": arguments.images, "serve": arguments.rounds}[arguments.part]
        with tempfile.TemporaryDirectory() as folder:
            report = soak(Path(folder), count)
        arguments.output.write_text(json.dumps(report))
        return 0 if report["passed"] else 1
    reports: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in BOUNDS:
            file = Path(folder) / f"{part}.json"
            counts = ["--steps", arguments.steps, "--images", arguments.images, "--rounds", arguments.rounds]
            command = [sys.executable, __file__, "--part", part, "--output", file, *counts]
            subprocess.run(list(map(str, command)), check=False, stdout=subprocess.DEVNULL)
            reports[part] = json.loads(file.read_text()) if file.exists() else {"passed": False}
            print(part, json.dumps(reports[part]), flush=True)
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(reports, indent=2) + "\n")
    return 0 if all(report["passed"] for report in reports.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
