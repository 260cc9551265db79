"""The images an exported file is calibrated and compared on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dmdd.core.errors import UserError
from dmdd.data.images import read_image, read_pair
from dmdd.data.listing import Category, list_images

SYNTHETIC_SIZES = ((256, 256), (300, 500), (480, 640), (1024, 1024), (97, 61))


@dataclass(frozen=True)
class Example:
    """One image to compare on.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        label: 0 normal, 1 anomalous; None where it is not known.
        mask: ``(H, W)`` bool; None where masks are not known.
    """

    image: np.ndarray
    label: int | None = None
    mask: np.ndarray | None = None


@dataclass(frozen=True)
class Source:
    """Where the examples come from.

    Args:
        description: For the report.
        category: A labelled data set.
        files: Image files without labels.
    """

    description: str
    category: Category | None = None
    files: Sequence[Path] = ()

    def __iter__(self) -> Iterator[Example]:
        """Read one example after the other."""
        if self.category is not None:
            for sample in self.category.test:
                image, mask = read_pair(sample.path, sample.mask_path if self.category.has_masks else None)
                yield Example(image, sample.label, mask if self.category.has_masks else None)
        elif self.files:
            yield from (Example(read_image(file)) for file in self.files)
        else:
            yield from (Example(image) for image in synthetic_images())


def choose_source(category: Category | None, images: str | None) -> Source:
    """Choose what to compare on: a labelled data set, else a folder, else synthetic images.

    Args:
        category: The labelled data set, if one is given.
        images: A folder of images, if one is given.

    Returns:
        The source.

    Raises:
        UserError: The folder is missing or holds no images, or the data set has no test images.
    """
    if category is not None:
        if not category.test:
            raise UserError(
                f"{category.dataset} {category.name} has no test images; leave out category= or give another"
            )
        return Source(f"{category.dataset} {category.name}, test set", category=category)
    if images is None:
        return Source(
            f"synthetic images of {len(SYNTHETIC_SIZES)} sizes, seed 0; give category= or images= for real ones"
        )
    folder = Path(images)
    if not folder.is_dir():
        raise UserError(f"images={images}: no such folder")
    files = list_images(folder, nested=True)
    if not files:
        raise UserError(f"images={images}: no images in this folder")
    return Source(f"images of {folder}", files=files)


def synthetic_images() -> Iterator[np.ndarray]:
    """Draw smooth colour patterns with some noise, of the sizes in ``SYNTHETIC_SIZES``."""
    generator = np.random.default_rng(0)
    for height, width in SYNTHETIC_SIZES:
        y, x = np.mgrid[0:height, 0:width]
        waves = [np.sin(x * fx + y * fy) for fx, fy in generator.uniform(0.01, 0.1, (3, 2))]
        pixels = 128 + 80 * np.stack(waves, axis=2) + generator.normal(0, 10, (height, width, 3))
        yield pixels.clip(0, 255).astype(np.uint8)


def normal_images(category: Category, count: int) -> Iterator[np.ndarray]:
    """Read normal training images, evenly spread over the set.

    Args:
        category: A data set.
        count: At most how many.

    Returns:
        Images ``(H, W, 3)`` uint8 RGB.
    """
    places = np.unique(np.linspace(0, len(category.train) - 1, count).round().astype(int))
    return (read_image(category.train[place].path) for place in places)
