"""File names drawn at random, of any length that a disk takes: each is scored, or one bad image of its own."""

import json
import os

import numpy as np
import pytest
from fuzz_kit import count, rounds

from dmdd.predict import main
from tiny import save_image, save_tiny_model

pytestmark = pytest.mark.filterwarnings("ignore")

SIGNS = [*"abcXYZ019 .-_#%&+=,;@~^!()[]{}'\"$`<>|*?:\\", "ü", "e\u0301", "漢", "😀", "\u202e", "\n", "\t"]
LONGEST = 255


def draw_name(generator: np.random.Generator) -> str:
    """A name of 1 to 251 bytes before its ending, often about as long as a disk takes."""
    wanted = int(generator.integers(235, 252) if generator.random() < 0.6 else generator.integers(1, 60))
    name = ""
    while len(os.fsencode(name)) < wanted:
        more = name + SIGNS[generator.integers(0, len(SIGNS))]
        if len(os.fsencode(more)) > wanted:
            break
        name = more
    return f"x{name}"[: len(name)] + ".png" if name.startswith((".", "~")) else f"{name}.png"


def test_a_name_is_scored_or_one_bad_image(tmp_path, generator, capsys):
    model = save_tiny_model(tmp_path / "model")
    for number in range(rounds(1, 25)):
        source, out = tmp_path / f"in {number}", tmp_path / f"out {number}"
        names = {draw_name(generator) for _ in range(12)} - {".png"}
        for place, name in enumerate(sorted(names)):
            save_image(source / name, seed=place, height=6, width=5)
        code = main([f"model={model}", f"input={source}", f"output={out}", "device=cpu", "masks=true", "overlays=true"])
        lines = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
        assert sorted(line["file"] for line in lines) == sorted(names)
        for line in lines:
            fits = len(os.fsencode(line["file"])) + len(".png") <= LONGEST
            assert (line["error"] is None) == fits, line
            assert line["score"] is not None
            assert (out / "masks" / f"{line['file']}.png").is_file() if fits else True
            count("file names", "scored" if fits else "bad image")
        assert code == (3 if any(line["error"] for line in lines) else 0)
        assert capsys.readouterr().err.count("bad image: ") == sum(line["error"] is not None for line in lines)
        assert not list(out.rglob("*.partial"))
