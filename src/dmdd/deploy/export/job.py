"""One export from beginning to end: write into a folder aside, compare, move into place."""

import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from dmdd.config.schema import ExportSettings
from dmdd.core import hardware
from dmdd.core.doors import find_opened
from dmdd.core.errors import UserError
from dmdd.core.failures import report_write_errors
from dmdd.core.files import write_atomically
from dmdd.core.resize import resize_images, resize_masks
from dmdd.data.images import read_image
from dmdd.data.regions import choose_regions
from dmdd.deploy.export.comparison import compare
from dmdd.deploy.export.fixed import LAYOUTS, FixedGraph
from dmdd.deploy.export.graph import DetectorGraph
from dmdd.deploy.export.metadata import describe
from dmdd.deploy.export.onnx import add_metadata, halve_weights, quantize, write_onnx
from dmdd.deploy.export.openvino import write_openvino
from dmdd.deploy.export.operators import TENSORRT, check_tensorrt
from dmdd.deploy.export.program import load_program, trace, write_program
from dmdd.deploy.export.runtime import reference
from dmdd.deploy.export.sources import Example, Source, choose_source, normal_images
from dmdd.deploy.runtimes import Run, load_onnx, load_openvino
from dmdd.experiment.category import read_category
from dmdd.models.detector import Detector, Tiling
from dmdd.models.tiling import choose_tiling

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}

OwnWriter = Callable[[ExportedProgram, Path, tuple[str, ...], dict[str, Any]], Run]
"""A format of another package: writes the program to the file, and gives the file back as a function of images.

Called with the traced program, the file, the names of the program's outputs, and the metadata (plain JSON values)."""


class Exported(NamedTuple):
    """What an export came to.

    Args:
        files: The exported file, its weights where they are a file of their own, metadata and report.
        report: The comparison with the detector; ``failed`` says why there is no file, None if there is one.
    """

    files: list[Path]
    report: dict[str, Any]


def export_model(settings: ExportSettings) -> Exported:
    """Write a trained detector as one graph and compare it with the detector.

    Args:
        settings: From ``ExportSettings.compose(...)``.

    Returns:
        Files and comparison.

    Raises:
        UserError: The model, the data or a setting cannot be used.
    """
    job = Job.from_settings(settings)
    category = None if settings.category is None else read_category(settings.dataset, settings.category)
    source = choose_source(category, settings.images)
    detector = Detector.load(settings.model)
    with report_write_errors(job.file.parent, then="", own=False):
        return Exported(job.files, job.run(detector, source))


@dataclass(frozen=True)
class Job:
    """What to export and how.

    Args:
        model: The model folder.
        file: The exported file.
        file_format: A key of ``SUFFIXES``, or the dotted name of an :data:`OwnWriter`.
        precision: ``float32``, ``float16`` or ``int8``.
        tile: Cut images into tiles; None does as in training.
        tile_px: Height and width of a tile in pixels, None for those of training.
        overlap: Share of a tile that at least lies in the next one, None for that of training.
        fixed_size: Height and width of the one size of image that the graph takes; None for any.
        layout: ``nhwc`` or ``nchw``, of a fixed size.
        roi: The region of interest; None for the model's own.
        ignore: What does not count within it.
        calibration_images: How many normal images int8 is calibrated on.
        tolerance: What float32 may differ by.
    """

    model: Path
    file: Path
    file_format: str
    precision: str
    tile: bool | None
    tile_px: int | tuple[int, ...] | None
    overlap: float | None
    fixed_size: tuple[int, int] | None
    layout: str
    roi: str | None
    ignore: str | None
    calibration_images: int
    tolerance: float

    @classmethod
    def from_settings(cls, settings: ExportSettings) -> "Job":
        """Read the settings.

        Args:
            settings: Of the export.

        Returns:
            The job.

        Raises:
            UserError: A setting cannot be used.
        """
        if settings.format not in ("onnx", "openvino") and settings.precision != "float32":
            raise UserError(f"precision={settings.precision} needs format=onnx or format=openvino")
        if settings.precision == "int8" and settings.category is None:
            raise UserError("precision=int8 is calibrated on normal images: give category= (and dataset=, data_dir=)")
        if settings.fixed_size is None and settings.layout != LAYOUTS[0]:
            raise UserError(f"layout={settings.layout} counts only with fixed_size=[height,width]")
        model = Path(settings.model)
        if settings.format not in SUFFIXES:
            find_opened(settings.format)
        if settings.format not in SUFFIXES and settings.output is None:
            raise UserError(f"format={settings.format}: give the file to write, output=FILE")
        suffix = SUFFIXES.get(settings.format) or Path(settings.output or "").suffix
        file = model.parent / "export" / f"detector{suffix}" if settings.output is None else Path(settings.output)
        if file.suffix != suffix:
            raise UserError(f"output={file}: a file of format={settings.format} ends in {suffix}")
        return cls(
            model=model,
            file=file,
            file_format=settings.format,
            precision=settings.precision,
            tile=settings.tile,
            tile_px=settings.tile_px,
            overlap=settings.overlap,
            fixed_size=settings.fixed_size,
            layout=settings.layout,
            roi=settings.roi,
            ignore=settings.ignore,
            calibration_images=settings.calibration_images,
            tolerance=settings.tolerance,
        )

    @property
    def report_file(self) -> Path:
        """Where the comparison goes."""
        return self.file.with_name(self.file.name + ".report.json")

    @property
    def metadata_file(self) -> Path:
        """Where the metadata goes."""
        return self.file.with_name(self.file.name + ".json")

    @property
    def files(self) -> list[Path]:
        """All that a finished job leaves."""
        weights = [self.file.with_suffix(".bin")] if self.file_format == "openvino" else []
        return [self.file, *weights, self.metadata_file, self.report_file]

    def run(self, detector: Detector, source: Source) -> dict[str, Any]:
        """Export and compare.

        Args:
            detector: What is exported.
            source: What it is compared and, for int8, calibrated on.

        Returns:
            The report; ``failed`` is a sentence, or None, in which case the files are in their places.

        Raises:
            UserError: The detector or the source does not suit the settings.
        """
        tile = detector.tiling is not None if self.tile is None else self.tile
        tiling = choose_tiling(detector, tile_px=self.tile_px, overlap=self.overlap) if tile else None
        region = self._region(detector, source)
        graph = self._graph(detector, tiling, region)
        fixed = graph if isinstance(graph, FixedGraph) else None
        metadata = describe(
            detector,
            self.model,
            file_format=self.file_format,
            precision=self.precision,
            tiling=tiling,
            fixed=fixed,
            region=region,
        )
        with _aside(self.file) as folder:
            written = folder / self.file.name
            exported, doubts = self._write(graph, written, metadata, source)
            threshold = metadata["image_threshold"]
            report = {
                "file": self.file.name,
                "format": self.file_format,
                "precision": self.precision,
                "compared_on": source.description,
                **compare(
                    reference(detector, tiling, region),
                    exported,
                    source if fixed is None else resized_examples(source, fixed.size),
                    input_size=detector.input_size if fixed is None else fixed.size,
                    tolerance=self.tolerance,
                    threshold=threshold,
                ),
                **({} if doubts is None else {f"not_for_tensorrt_{TENSORRT}": doubts}),
                "failed": None,
                "megabytes": round(sum(part.stat().st_size for part in folder.iterdir()) / 1e6, 2),
                "device": hardware.describe_device("cpu"),
                "export": metadata,
            }
            decisive = report["decisive"]
            if self.precision == "float32" and not decisive <= self.tolerance:  # NaN fails too
                report["failed"] = f"map or score differ by {decisive:.2g}, more than tolerance={self.tolerance:g}"
            del exported  # some systems do not move a file that is open
            if report["failed"] is None:
                # The file itself last: where it is, the rest is.
                for part in sorted(folder.iterdir(), key=lambda part: part.name == self.file.name):
                    part.replace(self.file.with_name(part.name))
                write_atomically(self.metadata_file, json.dumps(metadata, indent=2) + "\n")
        write_atomically(self.report_file, json.dumps(_finite(report), indent=2, allow_nan=False) + "\n")
        return report

    def _region(self, detector: Detector, source: Source) -> Tensor | None:
        """Give the region of interest; its size is that of the fixed size, of the model's own, or of a normal image."""
        regions = choose_regions(detector.region, roi=self.roi, ignore=self.ignore)
        if not regions:
            return None
        size = self.fixed_size or (None if detector.region is None else tuple(detector.region.shape))
        if size is None and source.category is not None:
            size = read_image(source.category.train[0].path).shape[:2]
        if size is None:
            raise UserError("roi= needs the images' size: give fixed_size=[height,width], or category= and dataset=")
        if (found := regions.common((size[0], size[1]))) is None:
            raise UserError("roi=: regions by image cannot become part of a file; give one region for all images")
        return torch.from_numpy(found)

    def _graph(self, detector: Detector, tiling: Tiling | None, region: Tensor | None) -> DetectorGraph | FixedGraph:
        if self.fixed_size is None:
            return DetectorGraph(detector, tiling=tiling, region=region)
        return FixedGraph(detector, size=self.fixed_size, layout=self.layout, tiling=tiling, region=region)

    def _write(
        self, graph: DetectorGraph | FixedGraph, file: Path, metadata: dict[str, Any], source: Source
    ) -> tuple[Run, list[str] | None]:
        """Write the file; gives it as a function of images, and what TensorRT would not take where that is known."""
        program = trace(graph)
        if self.file_format not in SUFFIXES:
            write: OwnWriter = find_opened(self.file_format)
            return adapt(write(program, file, graph.outputs, metadata), graph), None
        if self.file_format == "torch":
            write_program(program, file, metadata)
            return adapt(load_program(file, graph.outputs), graph), None
        onnx_file = file.with_suffix(".onnx")
        write_onnx(program, onnx_file, graph.outputs)
        if self.precision == "int8":
            if source.category is None:
                raise ValueError("int8 without images to calibrate on")  # from_settings has asked for a category
            normal = normal_images(source.category, self.calibration_images)
            quantize(onnx_file, (as_input(image[None], graph) for image in normal), file.parent)
        doubts = check_tensorrt(onnx_file)
        if self.file_format == "onnx":
            if self.precision == "float16":
                halve_weights(onnx_file)
            add_metadata(onnx_file, metadata)
            return adapt(load_onnx(onnx_file), graph), doubts
        write_openvino(onnx_file, file, metadata, half=self.precision == "float16")
        onnx_file.unlink()
        return adapt(load_openvino(file), graph), None


def as_input(images: np.ndarray, graph: DetectorGraph | FixedGraph) -> np.ndarray:
    """Bring images to what a graph takes.

    Args:
        images: ``(B, H, W, 3)`` uint8.
        graph: Of any size, or of a fixed one, which then takes one image.

    Returns:
        The same for a graph of any size; else of the graph's size and layout.
    """
    if not isinstance(graph, FixedGraph):
        return images
    pixels = resize_images(torch.tensor(images).permute(0, 3, 1, 2), graph.size)
    if graph.layout == "nchw":
        return (pixels.float() / 255).numpy()
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())


def adapt(run: Run, graph: DetectorGraph | FixedGraph) -> Run:
    """Give a graph's runtime the form that the comparison asks for."""
    return run if not isinstance(graph, FixedGraph) else lambda images: run(as_input(images, graph))


def resized_examples(source: Source, size: tuple[int, int]) -> Iterator[Example]:
    """Give the images of a source at one size.

    Args:
        source: Images of any size.
        size: Height and width in pixels.

    Yields:
        The same examples, resized.
    """
    for example in source:
        image = resize_images(torch.tensor(example.image).permute(2, 0, 1)[None], size)[0].permute(1, 2, 0)
        mask = None if example.mask is None else resize_masks(torch.tensor(example.mask)[None, None], size)[0, 0]
        shown = np.ascontiguousarray(image.numpy())
        yield Example(shown, example.label, None if mask is None else mask.numpy())


@contextmanager
def _aside(file: Path) -> Iterator[Path]:
    """Make a folder beside a file that is written, and remove it, with the file's folder if that stays empty."""
    made = [parent for parent in [file.parent, *file.parent.parents] if not parent.exists()]
    folder = file.with_name(file.name + ".partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in made:
            if not any(parent.iterdir()):
                parent.rmdir()
        raise
    shutil.rmtree(folder)


def _finite(value: Any) -> Any:
    """Replace what JSON has no number for by None."""
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
