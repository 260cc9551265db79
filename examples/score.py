"""Score one image with an exported detector: python score.py detector.onnx part.png (or detector.xml)."""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image


def load(file: Path):
    """Give the detector as a function from the graph's input to its map and score."""
    if file.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        return lambda images: session.run(["map", "score"], {"images": images})
    import openvino

    # f32: processors with bfloat16 units would compute in bfloat16.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    model = openvino.Core().compile_model(str(file), "CPU", settings)

    def run(images):
        found = model(images)
        return found["map"], found["score"]

    return run


def main() -> None:
    """Score the image that the command names."""
    file = Path(sys.argv[1])
    card = json.loads(file.with_name(file.name + ".json").read_text())
    with Image.open(sys.argv[2]) as opened:
        image = np.asarray(opened.convert("RGB"))
    images = image[None]
    if card["layout"] == "nchw":
        images = images.transpose(0, 3, 1, 2).astype(np.float32) / 255
    (map_,), (score,) = load(file)(images)
    print(f"score {score:.6f}")
    print("anomalous" if score >= card["image_threshold"] else "normal")
    print(f"pixels at or above the threshold: {int((map_ >= card['pixel_threshold']).sum())}")


if __name__ == "__main__":
    main()
