"""Predictions in processes of their own, to be killed: forked from a server that has imported what takes seconds."""

import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

KILL_SEED = 0

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["dmdd.predict", "dmdd.inference.folder.pipeline", "dmdd.inference.folder.watching", "timm", "hydra"]
)


def _run(arguments: list[str], log: Path) -> None:
    import torch

    from dmdd.predict import main

    torch.set_num_threads(1)
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(main(arguments))


def start(arguments: list[str], log: Path) -> BaseProcess:
    process = _context.Process(target=_run, args=(arguments, log))
    process.start()
    return process


def count_lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0
