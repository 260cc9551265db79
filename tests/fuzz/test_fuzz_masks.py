"""Masks drawn at random: good ones are not doubted, and what people do wrong with them is told with its numbers."""

import io
from pathlib import Path

import numpy as np
from fuzz_kit import count, rounds
from PIL import Image

from dmdd.data.listing import Sample
from dmdd.data.plausibility import doubts_of_content, inspect

SIDE = 64
MISTAKES = ("inverted", "ground", "whole", "photograph", "JPEG saved as PNG")


def draw(generator: np.random.Generator) -> np.ndarray:
    """A defect as a share of each pixel, in [0, 1]: ellipses of 4 to 16 px, hard or soft edges, at most 45 % marked."""
    rows, columns = np.mgrid[: 4 * SIDE, : 4 * SIDE] / 4
    while True:
        inside = np.zeros(rows.shape, bool)
        for _ in range(int(generator.integers(1, 5))):
            (row, column), (height, width) = generator.uniform(0, SIDE, 2), generator.uniform(4, 16, 2)
            inside |= ((rows - row) / height) ** 2 + ((columns - column) / width) ** 2 < 1
        share = inside.reshape(SIDE, 4, SIDE, 4).mean((1, 3))
        share = share if generator.random() < 0.5 else (share > 0.5).astype(float)
        if (share > 0.5).sum() > 50 and (share > 0).mean() < 0.45:
            return share


def save(file: Path, share: np.ndarray, generator: np.random.Generator) -> None:
    """As drawing programs do: 0 and 255, 0 and another value, or 16 bits."""
    match generator.integers(0, 4):
        case 0:
            pixels = (share > 0.5) * generator.integers(1, 256)
        case 1:
            Image.fromarray(np.round(share * 65535).astype(np.uint16)).save(file)
            return
        case _:
            pixels = np.round(share * 255)
    Image.fromarray(pixels.astype(np.uint8)).save(file)


def spoil(mistake: str, share: np.ndarray, generator: np.random.Generator) -> Image.Image:
    hard = (share > 0.5) * np.uint8(generator.integers(40, 256))
    if mistake == "inverted":
        return Image.fromarray((share <= 0.5) * np.uint8(generator.integers(1, 256)))
    if mistake == "ground":
        return Image.fromarray(np.where(share > 0.5, np.uint8(255), np.uint8(generator.integers(1, 200))))
    if mistake == "whole":
        return Image.fromarray(np.full((SIDE, SIDE), generator.integers(1, 256), np.uint8))
    if mistake == "photograph":
        middle, spread = generator.uniform(10, 200), generator.uniform(5, 40)
        return Image.fromarray(generator.normal(middle, spread, (SIDE, SIDE)).clip(0, 255).astype(np.uint8))
    file = io.BytesIO()
    Image.fromarray(hard).save(file, "JPEG", quality=int(generator.integers(30, 90)))
    return Image.open(file).convert("L")


def doubted(image: Path, mask: Path) -> list[str]:
    return doubts_of_content([inspect(Sample(image, 1, "dent", mask))])


def test_masks_as_they_should_be_and_as_they_should_not(tmp_path, generator):
    image, mask = tmp_path / "a.png", tmp_path / "a_mask.png"
    Image.fromarray(generator.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(image)
    for number in range(rounds(25, 500)):
        share = draw(generator)
        save(mask, share, generator)
        assert doubted(image, mask) == [], number
        count("masks, plausible", "not doubted")
        mistake = MISTAKES[number % len(MISTAKES)]
        spoilt = spoil(mistake, share, generator)
        spoilt.save(mask)
        told = doubted(image, mask)
        marked = int((np.asarray(spoilt) > 0).sum())
        # Residue beside a large defect does little; where it doubles what counts as defect it must be told.
        if mistake != "JPEG saved as PNG" or marked >= 2 * (share > 0.5).sum():
            assert len(told) == 1, (number, mistake)
            assert str(mask) in told[0]
        count(f"masks, {mistake}", "told" if told else "not told")
