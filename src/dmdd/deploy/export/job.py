"""One export from beginning to end: write into a folder aside, compare, move into place."""

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dmdd.config.schema import ExportSettings
from dmdd.core import hardware
from dmdd.core.errors import UserError
from dmdd.core.failures import report_write_errors
from dmdd.core.files import write_atomically
from dmdd.deploy.export.comparison import compare
from dmdd.deploy.export.graph import DetectorGraph, Tiling
from dmdd.deploy.export.metadata import describe
from dmdd.deploy.export.onnx import add_metadata, halve_weights, load_onnx, quantize, write_onnx
from dmdd.deploy.export.openvino import load_openvino, write_openvino
from dmdd.deploy.export.program import load_program, trace, write_program
from dmdd.deploy.export.runtime import Run, reference
from dmdd.deploy.export.sources import Source, choose_source, normal_images
from dmdd.experiment.category import read_category
from dmdd.models.detector import Detector
from dmdd.models.tiling import check_tiling

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}


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
        file_format: A key of ``SUFFIXES``.
        precision: ``float32``, ``float16`` or ``int8``.
        tile: Cut images into tiles.
        tile_px: Height and width of a tile in pixels, None for the detector's input size.
        overlap: Share of a tile that at least lies in the next one.
        calibration_images: How many normal images int8 is calibrated on.
        tolerance: What float32 may differ by.
    """

    model: Path
    file: Path
    file_format: str
    precision: str
    tile: bool
    tile_px: int | tuple[int, ...] | None
    overlap: float
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
        if settings.format == "torch" and settings.precision != "float32":
            raise UserError(f"precision={settings.precision} needs format=onnx or format=openvino")
        if settings.precision == "int8" and settings.category is None:
            raise UserError("precision=int8 is calibrated on normal images: give category= (and dataset=, data_dir=)")
        suffix, model = SUFFIXES[settings.format], Path(settings.model)
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
        tiling = Tiling(*check_tiling(detector, self.tile_px, self.overlap)) if self.tile else None
        metadata = describe(detector, self.model, file_format=self.file_format, precision=self.precision, tiling=tiling)
        with _aside(self.file) as folder:
            written = folder / self.file.name
            exported = self._write(DetectorGraph(detector, tiling=tiling), written, metadata, source)
            threshold = metadata["image_threshold"]
            report = {
                "file": self.file.name,
                "format": self.file_format,
                "precision": self.precision,
                "compared_on": source.description,
                **compare(
                    reference(detector, tiling),
                    exported,
                    source,
                    input_size=detector.input_size,
                    tolerance=self.tolerance,
                    threshold=threshold,
                ),
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

    def _write(self, graph: DetectorGraph, file: Path, metadata: dict[str, Any], source: Source) -> Run:
        program = trace(graph)
        if self.file_format == "torch":
            write_program(program, file, metadata)
            return load_program(file, graph.outputs)
        onnx_file = file.with_suffix(".onnx")
        write_onnx(program, onnx_file, graph.outputs)
        if self.precision == "int8":
            if source.category is None:
                raise ValueError("int8 without images to calibrate on")  # from_settings has asked for a category
            quantize(onnx_file, normal_images(source.category, self.calibration_images), file.parent)
        if self.file_format == "onnx":
            if self.precision == "float16":
                halve_weights(onnx_file)
            add_metadata(onnx_file, metadata)
            return load_onnx(onnx_file)
        write_openvino(onnx_file, file, metadata, half=self.precision == "float16")
        onnx_file.unlink()
        return load_openvino(file)


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
