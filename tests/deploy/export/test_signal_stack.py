"""OpenVINO leaves Python's signal handling alone."""

import subprocess
import sys

from patience import PATIENCE_S

PROGRAM = """
import ctypes, gc, os, signal, sys
from pathlib import Path
import numpy as np
import openvino
from openvino import opset13 as operations
from dmdd.deploy.runtimes import load_openvino

def stack():
    found = (ctypes.c_size_t * 3)()
    ctypes.CDLL(None).sigaltstack(None, found)
    return found[0], found[2]

before, caught = stack(), []
assert before[0], "faulthandler has no stack"
signal.signal(signal.SIGUSR1, lambda number, frame: caught.append(number))
image = operations.parameter([1, 3, 8, 8], np.float32, name="image")
kernel = operations.constant(np.ones((2, 3, 3, 3), np.float32))
folded = operations.convolution(image, kernel, [1, 1], [0, 0], [0, 0], [1, 1])
folded.output(0).set_names({"raw"})
openvino.save_model(openvino.Model([folded], [image]), sys.argv[1])

runs = [load_openvino(Path(sys.argv[1]), threads=1) for _ in range(3)]
assert stack() == before, "changed by compiling"
while runs:  # in the order they came, where each would give back the freed stack of the one before it
    assert runs[0](np.ones((1, 3, 8, 8), np.float32))["raw"].shape == (1, 2, 6, 6)
    del runs[0]
    gc.collect()
    assert stack() == before, "changed by the end of a model"
    os.kill(os.getpid(), signal.SIGUSR1)
assert caught == [signal.SIGUSR1] * 3
"""


def test_signals_are_handled_after_openvino_has_come_and_gone(tmp_path):
    # In a process of its own with faulthandler, as pytest has it, since it would end with a segmentation fault.
    command = [sys.executable, "-X", "faulthandler", "-c", PROGRAM, str(tmp_path / "model.xml")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
