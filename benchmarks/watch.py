"""A camera's folder at a steady rate, with kills and restarts in between: is an image lost, and how long does one wait?

    python benchmarks/watch.py --model runs/.../model --rate 20 --seconds 600 --kills 5

Writes images of noise into a folder, each by a rename, as a camera's software should; ``dmdd.predict watch=true``
follows the folder and is killed (SIGKILL) and started again at even intervals. Prints p50 and p99 from the rename to
the line in scores.jsonl, and what is lost or scored twice.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
from PIL import Image

WAIT_S = 300  # for the last images, after the camera has stopped


def start(model: Path, folder: Path, output: Path, settings: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "dmdd.predict", f"model={model}", f"input={folder}", f"output={output}"]
    return subprocess.Popen([*command, "watch=true", *settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def read_lines(output: Path) -> list[dict]:
    file = output / "scores.jsonl"
    lines = file.read_bytes().split(b"\n")[:-1] if file.is_file() else []
    return [json.loads(line) for line in lines]


def feed(
    folder: Path,
    content: bytes,
    *,
    rate: float,
    seconds: float,
    process: subprocess.Popen[bytes],
    restart: Callable[[], subprocess.Popen[bytes]],
    kills: int,
) -> tuple[dict[str, float], subprocess.Popen[bytes]]:
    """Write images at a rate; gives the time of each rename by name, and the process that runs then."""
    written: dict[str, float] = {}
    began, killed = time.time(), 0
    while (now := time.time()) < began + seconds:
        if killed < kills and now - began > seconds * (killed + 1) / (kills + 1):
            process.kill()
            process.wait()
            process, killed = restart(), killed + 1
        name = f"{len(written):06d}.png"
        partial = folder / f".{name}.partial"
        partial.write_bytes(content)
        partial.rename(folder / name)
        written[name] = time.time()
        time.sleep(max(0.0, began + len(written) / rate - time.time()))
    return written, process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=20, help="images a second")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), help="height and width of the images")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    parser.add_argument("settings", nargs="*", help="more settings of dmdd.predict, such as device=cpu")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        figures = measure(given, Path(place))
    print(json.dumps(figures, indent=2))
    if given.output is not None:
        given.output.write_text(json.dumps(figures, indent=2) + "\n")
    sys.exit(0 if figures["lost"] == 0 else 1)


def measure(given: argparse.Namespace, place: Path) -> dict[str, float]:
    folder, output = place / "camera", place / "scores"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (*given.size, 3), np.uint8)
    Image.fromarray(noise).save(place / "image.png")
    content = (place / "image.png").read_bytes()

    def restart() -> subprocess.Popen[bytes]:
        starts.append(time.time())
        return start(given.model, folder, output, given.settings)

    starts: list[float] = []
    process = restart()
    while not (output / "scores.jsonl").is_file() and process.poll() is None:
        time.sleep(0.1)
    written, process = feed(
        folder, content, rate=given.rate, seconds=given.seconds, process=process, restart=restart, kills=given.kills
    )
    ended = time.time()
    while len({line["file"] for line in read_lines(output)}) < len(written) and time.time() < ended + WAIT_S:
        time.sleep(0.5)
    process.terminate()
    process.wait()
    lines = read_lines(output)
    scored = {line["file"]: datetime.fromisoformat(line["scored_at"]).timestamp() for line in lines}
    waits = np.array([scored[name] - at for name, at in written.items() if name in scored])
    return {
        "written": len(written),
        "lost": len(written) - len(scored),
        "scored_twice": sum(count - 1 for count in Counter(line["file"] for line in lines).values()),
        "bad": sum(line["error"] is not None for line in lines),
        "restarts": len(starts) - 1,
        "p50_ms": round(1000 * float(np.quantile(waits, 0.5)), 1),
        "p99_ms": round(1000 * float(np.quantile(waits, 0.99)), 1),
        "largest_ms": round(1000 * float(waits.max()), 1),
    }


if __name__ == "__main__":
    main()
