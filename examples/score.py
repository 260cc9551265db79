"""Score one image with an exported detector: python score.py detector.onnx part.png (or detector.xml).

Of a model for several categories: python score.py detector.onnx part.png CATEGORY
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image


def load(file: Path):
    """Give the detector as a function from the graph's input to its outputs by name."""
    if file.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return lambda images: dict(zip(names, session.run(names, {"images": images}), strict=True))
    import openvino

    # f32: processors with bfloat16 units would compute in bfloat16.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    core = openvino.Core()
    graph = core.read_model(str(file))
    names = [output.any_name for output in graph.outputs]
    model = core.compile_model(graph, "CPU", settings)
    return lambda images: dict(zip(names, model(images).values(), strict=True))


def main() -> None:
    """Score the image that the command names."""
    file = Path(sys.argv[1])
    card = json.loads(file.with_name(file.name + ".json").read_text())
    with Image.open(sys.argv[2]) as opened:
        image = np.asarray(opened.convert("RGB"))
    images = image[None]
    if card["layout"] == "nchw":
        images = images.transpose(0, 3, 1, 2).astype(np.float32) / 255
    found = load(file)(images)
    score = found["score"][0]
    if len(sys.argv) > 3:  # thresholds of a category are of the score before calibration
        card = card["category_calibrations"][sys.argv[3]]
        score = found.get("raw_score", found["score"])[0]
    print(f"score {score:.6f}")
    print("anomalous" if score >= card["image_threshold"] else "normal")
    print(f"pixels at or above the threshold: {int((found['map'][0] >= card['pixel_threshold']).sum())}")


if __name__ == "__main__":
    main()
