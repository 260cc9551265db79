"""How training and prediction grow with the number of images: memory, time to the first step, waiting for images.

    python benchmarks/scale.py --train 5000,20000,100000 --predict 10000,100000,1000000 --output scale.json

The images are cheap: 64 drawn ones, whose files stand under many names (hard links).

`train` runs the real command on one CPU thread, twice for each count: the first run decodes the images into the cache
on disk where they are too many for memory, the second finds them there. Networks are as small as `recipe=smoke` has
them, so that what is measured is the data. Waiting is the time that reading images takes, as a share of the loop's;
with a larger network the share is smaller. A run ends after the steps of stage 1; with at most `--whole` images the
second one goes on to its end, since calibration and the look for odd images put every image through the networks.

`predict` lists files, records a made-up score for each and takes the folder up again, in place of a network.

Seconds of the processor stand beside the seconds of the clock, which a machine that others use stretches. Memory is the
largest resident set of the process (`VmHWM`); pages of the system's cache do not count.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

DISTINCT = 64
PER_FOLDER = 1000
STEPS = 49  # six blocks of eight steps whose images are read together, after the first step


def draw_images(folder: Path, size: int) -> list[Path]:
    """Draw the images that all files are links to."""
    import numpy as np
    from PIL import Image

    generator, files = np.random.default_rng(0), []
    folder.mkdir(parents=True)
    for number in range(DISTINCT):
        small = generator.integers(60, 190, (16, 16, 3)).astype(np.uint8)
        image = Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC)
        files.append(folder / f"{number:03}.jpg")
        image.save(files[-1], quality=85)
    return files


def link_images(sources: list[Path], folder: Path, count: int) -> None:
    """Give images `count` names, a thousand in a folder."""
    for number in range(count):
        if number % PER_FOLDER == 0:
            place = folder / f"{number // PER_FOLDER:04}"
            place.mkdir(parents=True, exist_ok=True)
        os.link(sources[number % DISTINCT], place / f"{number:07}.jpg")


def peak_mb() -> float:
    """Give the largest resident set of this process so far, in MB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return round(int(status.split("VmHWM:")[1].split()[0]) / 1024, 1)


class Enough(Exception):
    """The steps to be measured are done."""


def train(data: Path, run: Path, started: float, *, whole: bool) -> dict[str, Any]:
    """Train for some steps, in this process, and note what it takes."""
    from dmdd.data.datasets import PlannedDataset
    from dmdd.train import main
    from dmdd.training.distillation import DistillationModule

    seen: dict[str, Any] = {"reading_s": 0.0, "steps": []}
    get, step = PlannedDataset.__getitems__, DistillationModule.on_train_batch_end

    def timed(self: Any, places: Any) -> Any:
        began = time.perf_counter()
        batch = get(self, places)
        seen["reading_s"] += time.perf_counter() - began
        return batch

    def noted(self: Any, *arguments: Any) -> None:
        if not seen["steps"]:
            seen["first_step_s"], seen["reading_s"] = round(time.time() - started, 1), 0.0
            seen["first_step_cpu_s"] = round(time.process_time(), 1)
        seen["steps"].append(time.perf_counter())
        step(self, *arguments)
        if len(seen["steps"]) == STEPS and not whole:
            raise Enough

    PlannedDataset.__getitems__ = timed  # type: ignore[method-assign]
    DistillationModule.on_train_batch_end = noted  # type: ignore[method-assign]
    code: int | None = None
    with contextlib.suppress(Enough):
        code = main(
            [
                *("dataset=folder", "category=part", f"data_dir={data}", f"hydra.run.dir={run}", "recipe=smoke"),
                *("dataset.layout.bad=null", "dataset.layout.test_good=held", "image_size=[256,256]", "batch_size=8"),
                *("teacher=resnet18", "teacher.random_weights=true", "trainer.accelerator=cpu", "augmentation=none"),
                *(f"distillation.steps={STEPS}", "segmentation_training.steps=2", "data.held_out_fraction=0.001"),
                *("evaluation.resamples=0", "evaluation.pictures=0", "callbacks.progress.every_n_steps=1000"),
            ]
        )
    looped = seen["steps"][-1] - seen["steps"][0]
    return {
        "exit_code": code,
        "first_step_s": seen["first_step_s"],
        "first_step_cpu_s": seen["first_step_cpu_s"],
        "whole_run_s": round(time.time() - started, 1) if whole else None,
        "step_ms": round(1000 * looped / (len(seen["steps"]) - 1), 1),
        "waiting_percent": round(100 * seen["reading_s"] / looped, 2),
        "peak_mb": peak_mb(),
    }


def predict(images: Path, output: Path) -> dict[str, Any]:
    """List, record and take up again, without a network."""
    from dmdd.inference.folder.inputs import Listing
    from dmdd.inference.folder.ledger import Ledger, Record

    def record(item: Any) -> Record:
        score = (hash(item.name) % 1000) / 1000
        label = "anomalous" if score > 0.9 else "normal"
        times = {"time_ms": 30.0, "error": None, "scored_at": "2026-01-01T00:00:00.000+00:00"}
        about = {"image_threshold": 0.9, "width": 256, "height": 256, "bytes": item.bytes, "mtime_ns": item.mtime_ns}
        return Record(file=item.name, score=score, label=label, **about, **times)  # type: ignore[arg-type]

    def listed() -> Any:
        return Listing([str(images)], base=images, recursive=True, skip=output)

    took = {}
    began = time.perf_counter()
    count = sum(1 for _ in listed())
    took["list_s"] = time.perf_counter() - began
    began = time.perf_counter()
    with Ledger(output) as ledger:
        for item in listed():
            ledger.append(record(item))
    took["record_s"] = time.perf_counter() - began
    recorded_mb = peak_mb()
    began = time.perf_counter()
    with Ledger(output) as ledger:
        held = sum(ledger.holds(item) for item in listed())
        counts = ledger.counts()
    took["resume_s"] = time.perf_counter() - began
    if not count == held == sum(counts.values()):
        raise SystemExit(f"{count} listed, {held} held, {counts}")
    rounded = {name: round(seconds, 2) for name, seconds in took.items()}
    return {"images": count, **rounded, "peak_mb": recorded_mb, "peak_mb_resumed": peak_mb()}


def in_process(part: str, *arguments: str) -> dict[str, Any]:
    """Measure in a process of its own, whose memory begins empty."""
    command = [sys.executable, __file__, "--part", part, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def run_train(count: int, place: Path, sources: list[Path], *, whole: bool) -> list[dict[str, Any]]:
    """Train twice on so many images."""
    folder = place / f"train{count}"
    link_images(sources, folder / "part" / "good", count)
    link_images(sources[:8], folder / "part" / "held", 8)
    rows = []
    for number in ("first", "second"):
        run = place / f"run{count}{number}"
        ends = whole and number == "second"
        measured = in_process("train", str(folder), str(run), str(time.time()), *(["whole"] if ends else []))
        rows.append({"images": count, "run": number, **measured})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def run_predict(count: int, place: Path, sources: list[Path]) -> dict[str, Any]:
    """Simulate a prediction of so many images."""
    link_images(sources, place / f"predict{count}", count)
    (place / f"output{count}").mkdir()
    row = in_process("predict", str(place / f"predict{count}"), str(place / f"output{count}"))
    print(json.dumps(row), flush=True)
    return row


def main() -> int:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--train", default="5000,20000,100000", help="counts of images to train on")
    parser.add_argument("--whole", type=int, default=5000, help="so many images at most are trained on to the end")
    parser.add_argument("--predict", default="10000,100000,1000000", help="counts of images to predict")
    parser.add_argument("--size", type=int, default=256, help="side of the images in px")
    parser.add_argument("--folder", type=Path, help="where images and cache go while this runs; 23 GB for 100,000")
    parser.add_argument("--output", type=Path, help="JSON file")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        part, *given = options.part
        if part == "train":
            print(json.dumps(train(Path(given[0]), Path(given[1]), float(given[2]), whole="whole" in given)))
        else:
            print(json.dumps(predict(Path(given[0]), Path(given[1]))))
        return 0
    result: dict[str, Any] = {"cpus": os.cpu_count(), "train": [], "predict": []}
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        place = Path(temporary)
        os.environ |= {"DMDD_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}
        sources = draw_images(place / "drawn", options.size)
        for count in (int(text) for text in options.train.split(",") if text):
            result["train"] += run_train(count, place, sources, whole=count <= options.whole)
        for count in (int(text) for text in options.predict.split(",") if text):
            result["predict"].append(run_predict(count, place, sources))
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
