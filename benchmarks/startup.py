"""How long it takes until something happens: import, help, and the first training step.

    python benchmarks/startup.py --output startup.json

Each is a process of its own; the best of --repeats counts, since the first reads the files from the disk. The first
training step is that of `recipe=smoke` on the demo data set, drawn beforehand, from the start of the process to the end
of its first step.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FIRST_STEP = """
import sys
from dmdd.train import main

def note(*args, **kwargs):
    print("first step", flush=True)
    raise SystemExit(0)

from dmdd.training.distillation import DistillationModule
DistillationModule.on_train_batch_end = note
main(sys.argv[1:])
"""
TARGETS_S = {"import dmdd": 0.2, "dmdd.train --help": 1.0, "first training step": 15.0}


def seconds(command: list[str], *, until: str | None = None) -> float:
    """Time a process to its end, or to a line it prints."""
    environment = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"}
    started = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        lines = []
        for line in process.stdout or ():
            lines.append(line)
            if until is not None and until in line:
                return time.perf_counter() - started
        process.wait()
    if process.returncode or until is not None:
        raise SystemExit(f"{' '.join(command[:4])} ended with {process.returncode}:\n{''.join(lines[-20:])}")
    return time.perf_counter() - started


def measure(repeats: int) -> dict[str, float]:
    python = sys.executable
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "data"
        seconds([python, "-m", "dmdd.data", "demo", "--output", str(data)])
        smoke = ["dataset=demo", "category=plate", f"data_dir={data}", "teacher=efficientnet_lite0", "recipe=smoke"]

        def first_step(number: int) -> float:
            folder = f"hydra.run.dir={temporary}/run{number}"
            return seconds([python, "-c", FIRST_STEP, *smoke, folder], until="first step")

        return {
            "import dmdd": min(seconds([python, "-c", "import dmdd"]) for _ in range(repeats)),
            "dmdd.train --help": min(seconds([python, "-m", "dmdd.train", "--help"]) for _ in range(repeats)),
            "first training step": min(first_step(number) for number in range(repeats)),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    found = measure(options.repeats)
    print("| | s | aim, s |\n|---|---|---|")
    for name, value in found.items():
        print(f"| {name} | {value:.2f} | {TARGETS_S[name]:.1f} |")
    if options.output:
        options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
