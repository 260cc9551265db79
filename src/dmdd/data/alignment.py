"""Bring images of one part into the place of a reference image, before anything else looks at them."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dmdd.core.errors import UserError
from dmdd.core.files import whole_file
from dmdd.data.images import read_image, read_mask, write_mask
from dmdd.data.listing import LAYOUT_FOLDERS, Category, Sample, name_key

WORK_PX = 320
"""Longest side at which images are compared: enough for half a pixel of 320, and quick."""

COARSE_PX = 96
"""Longest side at which turns are tried."""

TURN_DEGREES = 20.0
"""Largest turn that is looked for; a part that lies anywhere is not for aligning but for `augmentation=rotate_flip`."""

STEP_DEGREES = 4.0
"""Between two turns tried; the refinement finds the rest."""

LEAST_CORRELATION = 0.6
"""Of the aligned image and the reference. Below it they show different things, or the part was not found."""

MOST_STRETCH = 1.25
"""Largest factor, or one over the smallest, by which any direction may be stretched beside the images' sizes."""

LEAST_SEEN = 0.6
"""Share of the reference's frame that the image must cover."""

STOP = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 1e-5)
BLUR = 5  # kernel in px of WORK_PX; noise has no say in the place


class Alignment:
    """Move, turn and scale images so that the part lies where it lies in a reference image.

    A grid of turns with phase correlation gives the start; the enhanced correlation coefficient refines it to an
    affine transform. Compared are grey values, so light may change but not invert.

    Args:
        reference: An image file of a good part, or such an image, ``(H, W, 3)`` uint8.

    Raises:
        UserError: The reference cannot be read, or nothing can be told in it.

    Source: ours, from phase correlation (Kuglin and Hines, 1975) and ECC (Evangelidis and Psarakis, TPAMI 2008) as
    OpenCV has them.
    """

    def __init__(self, reference: Path | str | np.ndarray) -> None:
        pixels = reference if isinstance(reference, np.ndarray) else read_image(Path(reference))
        self.told = "the reference" if isinstance(reference, np.ndarray) else str(reference)
        self.pixels, self.size = pixels, (pixels.shape[0], pixels.shape[1])
        self.grey, self.scale = _grey(pixels, WORK_PX)
        self.coarse, _ = _grey(pixels, COARSE_PX)
        if self.grey.std() < 1:
            raise UserError(f"align={self.told}: the image is of one grey value; give one of a part")

    def find(self, image: np.ndarray, *, name: str = "the image") -> np.ndarray:
        """Find where the reference's pixels lie in an image.

        Args:
            image: ``(H, W, 3)`` uint8, of any size.
            name: Of the image, for messages.

        Returns:
            ``(2, 3)`` float64: the affine transform from pixels of the reference to pixels of the image.

        Raises:
            UserError: It cannot be aligned.
        """
        grey, scale = _grey(image, WORK_PX)
        warp = self._start(_grey(image, COARSE_PX)[0], grey.shape)
        try:
            whole = np.ones(grey.shape, np.uint8)
            correlation, warp = cv2.findTransformECC(self.grey, grey, warp, cv2.MOTION_AFFINE, STOP, whole, BLUR)
        except cv2.error:  # it did not converge
            correlation = 0.0
        if correlation < LEAST_CORRELATION:
            raise UserError(
                f"{name} cannot be aligned to {self.told}: their correlation is {max(correlation, 0):.2f}, "
                f"at least {LEAST_CORRELATION} is needed"
            )
        # From work pixels to pixels, both with centres at half: x' = (A x + b) with shifts of half a pixel.
        full = warp.astype(np.float64)
        full[:, :2] *= self.scale / scale
        half = np.full(2, 0.5)
        full[:, 2] = (warp[:, 2] + half) / scale - half - full[:, :2] @ (half - self.scale * half) / self.scale
        sizes = np.sqrt(np.prod(image.shape[:2]) / np.prod(self.size))
        stretches = np.linalg.svd(full[:, :2], compute_uv=False) / sizes
        if stretches.max() > MOST_STRETCH or stretches.min() < 1 / MOST_STRETCH:
            raise UserError(
                f"{name} cannot be aligned to {self.told}: it would have to be stretched by "
                f"{stretches.min():.2f} to {stretches.max():.2f}"
            )
        seen = cv2.warpAffine(np.ones(image.shape[:2], np.uint8), full, self.size[::-1], flags=_FLAGS).mean()
        if seen < LEAST_SEEN:
            raise UserError(
                f"{name} cannot be aligned to {self.told}: it shows {100 * seen:.0f} % of that view, "
                f"at least {100 * LEAST_SEEN:.0f} % is needed"
            )
        return full

    def apply(self, image: np.ndarray, transform: np.ndarray) -> np.ndarray:
        """Give an image, or a mask, in the reference's frame.

        Args:
            image: ``(H, W, 3)`` uint8, or a mask ``(H, W)`` bool.
            transform: What :meth:`find` gave for the image.

        Returns:
            The same kind at the reference's size. What the image does not show is as in the reference, since a mirrored
            border would put parts of parts there that no normal image has; of a mask it is False.
        """
        if image.dtype == bool:
            return cv2.warpAffine(image.astype(np.uint8), transform, self.size[::-1], flags=_FLAGS) > 0
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        whole = self.pixels.copy()
        return cv2.warpAffine(image, transform, self.size[::-1], whole, flags, borderMode=cv2.BORDER_TRANSPARENT)

    def __call__(self, image: Tensor, *, name: str = "the image") -> Tensor:
        """Align a tensor ``(3, H, W)`` uint8 or float in [0, 1]; gives uint8 at the reference's size."""
        pixels = image if image.dtype == torch.uint8 else (image.float() * 255).round().to(torch.uint8)
        array = np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())
        return torch.from_numpy(self.apply(array, self.find(array, name=name))).permute(2, 0, 1)

    def _start(self, coarse: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Try turns; gives ``(2, 3)`` float32 from work pixels of the reference to those of the image."""
        height, width = self.coarse.shape
        image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_AREA)
        window = cv2.createHanningWindow((width, height), cv2.CV_32F)
        centre = ((width - 1) / 2, (height - 1) / 2)
        best, found = -1.0, np.zeros((2, 3))
        for degrees in np.arange(-TURN_DEGREES, TURN_DEGREES + 1, STEP_DEGREES):
            turn = cv2.getRotationMatrix2D(centre, float(degrees), 1.0)
            turned = cv2.warpAffine(self.coarse, turn, (width, height), borderMode=cv2.BORDER_REFLECT_101)
            shift, _ = cv2.phaseCorrelate(turned, image, window)
            moved = np.array(turn, np.float64)
            moved[:, 2] += np.array(shift)
            # warpAffine takes the inverse of the way from the reference to the image as "where each pixel comes from".
            placed = cv2.warpAffine(image, moved, (width, height), flags=_FLAGS, borderMode=cv2.BORDER_REFLECT_101)
            correlation = float(np.corrcoef(placed.ravel(), self.coarse.ravel())[0, 1])
            if correlation > best:
                best, found = correlation, moved
        stretch = np.diag([shape[1] / width, shape[0] / height])
        back = np.diag([width / self.grey.shape[1], height / self.grey.shape[0]])
        return np.hstack([stretch @ found[:, :2] @ back, stretch @ found[:, 2:]]).astype(np.float32)


def write_aligned(category: Category, alignment: Alignment, output: Path) -> list[str]:
    """Write the images and masks of a category in the reference's frame, in the shape of MVTec AD.

    Args:
        category: What is read; its files stay as they are.
        alignment: To the reference.
        output: Gets a folder of the category's name.

    Returns:
        A line for each image that could not be aligned and was left out.

    Raises:
        UserError: The category's folder is there already, a file cannot be read, or no training image can be aligned.
    """
    root = output / category.name
    if root.exists():
        raise UserError(f"output={output}: {root} is there already; give another folder")
    left_out = []
    written = 0
    for sample, image, mask in _destinations(category, root):
        pixels = read_image(sample.path)
        try:
            transform = alignment.find(pixels, name=str(sample.path))
        except UserError as error:
            left_out.append(str(error))
            continue
        image.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(image) as place:
            Image.fromarray(alignment.apply(pixels, transform)).save(place, format="PNG")
        if sample.mask_path is not None:
            mask.parent.mkdir(parents=True, exist_ok=True)
            marked = read_mask(sample.mask_path, size=(pixels.shape[0], pixels.shape[1]))
            write_mask(mask, alignment.apply(marked, transform))
        written += sample in category.train
    if not written:
        raise UserError(f"no training image can be aligned: {left_out[0]}")
    return left_out


def _destinations(category: Category, root: Path) -> Iterator[tuple[Sample, Path, Path]]:
    """Give each sample with the files that its aligned image and mask go to."""
    for part, samples in (("train", category.train), ("test", category.test)):
        for sample in samples:
            parts = name_key(sample.path, below=category.root).split("/")
            name = "-".join(part for part in parts if part not in LAYOUT_FOLDERS | {sample.defect})
            masks = root / "ground_truth" / sample.defect
            yield sample, root / part / sample.defect / f"{name}.png", masks / f"{name}_mask.png"


_FLAGS = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP


def _grey(image: np.ndarray, longest: int) -> tuple[np.ndarray, float]:
    """Give grey values ``(h, w)`` float32 with a longest side, and the factor to it."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    scale = min(1.0, longest / max(grey.shape))
    if scale == 1:
        return grey, 1.0
    height, width = (max(1, round(side * scale)) for side in grey.shape)
    return cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA), scale
