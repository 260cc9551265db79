"""The graph as a ``torch.export`` program: what the other formats are made from, and a format of its own."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import Dim, ExportedProgram

from dmdd.deploy.export.fixed import FixedGraph
from dmdd.deploy.export.graph import DetectorGraph
from dmdd.deploy.runtimes import Run

METADATA_FILE = "dmdd.json"


def trace(graph: DetectorGraph | FixedGraph) -> ExportedProgram:
    """Trace the graph, for any number, height and width of images where it is not of a fixed size.

    Args:
        graph: In evaluation mode.

    Returns:
        The program; its example batch is not of equal sides, so that no side is taken for the other.
    """
    if isinstance(graph, FixedGraph):
        with torch.no_grad():
            return torch.export.export(graph, (graph.example,))
    # Longer and wider than a tile: a size of one would be taken for a constant.
    height, width = graph.tiling.tile_px if graph.tiling is not None else (300, 280)
    images = torch.zeros(2, 2 * height + 2, 2 * width + 4, 3, dtype=torch.uint8)
    shapes = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.STATIC}
    with torch.no_grad():
        return torch.export.export(graph, (images,), dynamic_shapes=(shapes,))


def write_program(program: ExportedProgram, file: Path, metadata: dict[str, Any]) -> None:
    """Write a ``.pt2`` archive.

    Args:
        program: As traced.
        file: Ends in ``.pt2``.
        metadata: Plain JSON values, kept inside as ``dmdd.json``.
    """
    torch.export.save(program, file, extra_files={METADATA_FILE: json.dumps(metadata)})


def load_program(file: Path, outputs: tuple[str, ...]) -> Run:
    """Load a ``.pt2`` archive.

    Args:
        file: As :func:`write_program` wrote it.
        outputs: Names of the program's outputs.

    Returns:
        The program as a function of images.
    """
    # Unchecked: tracing guards against a single tile, for which the graph is right all the same.
    module = torch.export.load(file).module(check_guards=False)

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        with torch.no_grad():
            values = module(torch.from_numpy(np.require(images, requirements="W")))
        return {name: value.numpy() for name, value in zip(outputs, values, strict=True)}

    return run
