"""What depends on the machine."""

import platform
import subprocess
import sys

import pytest
import torch

from dmdd.core import hardware
from dmdd.core.errors import UserError
from dmdd.experiment.devices import check_trainer

FAULTS = """
import resource, torch
from dmdd.core.hardware import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.empty(2**26, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
before = faults()
assert keep_freed_memory()
print(before, min(faults() for _ in range(6)))  # until the heap has grown to hold all of it
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_memory_is_kept():
    ended = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    before, after = map(int, ended.stdout.split())
    assert before > 5 * 2**26 / 2**21  # at least one for each huge page
    assert after < before / 2


@pytest.mark.parametrize(
    "trainer",
    [
        {"max_steps": 5},
        {"fast_dev_run": True},
        {"max_epochs": 1},
        {"max_epochs": 0},
        {"num_nodes": 2},
        {"min_steps": 3},
        {"limit_test_batches": 0},
        {"limit_test_batches": 1},  # one batch; all of them are 1.0
        {"limit_val_batches": 0.5},
        {"limit_predict_batches": 3},
        {"default_root_dir": "/tmp"},
        {"num_sanity_val_steps": 2},
        {"use_distributed_sampler": True},
        {"barebones": True},
    ],
)
def test_what_ends_a_stage_early_measures_a_part_or_does_nothing_is_refused(trainer):
    with pytest.raises(UserError, match=f"trainer.{next(iter(trainer))}="):
        check_trainer(trainer)


def test_what_changes_no_step_is_taken():
    check_trainer({"accumulate_grad_batches": 1, "fast_dev_run": False, "num_nodes": 1, "max_steps": None})
    check_trainer({"limit_test_batches": 1.0, "limit_val_batches": None, "profiler": "simple"})


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"avx512f", "avx512_bf16"}, "bf16-mixed"),
        ({"amx_bf16"}, "bf16-mixed"),
        ({"avx2", "avx512f", "avx512_vnni"}, "32-true"),
        (set(), "32-true"),
    ],
)
def test_auto_is_bfloat16_where_the_processor_has_it(monkeypatch, flags, expected):
    monkeypatch.setattr(hardware, "_cpu_flags", lambda: flags)
    assert hardware.resolve_precision("auto", "cpu") == expected
    assert hardware.resolve_precision("32-true", "cpu") == "32-true"


@pytest.mark.parametrize(
    ("given", "accelerator", "expected"),
    [
        (32, "cpu", "32-true"),
        ("64", "cpu", "64-true"),
        ("bf16", "gpu", "bf16-mixed"),
        ("16-mixed", "gpu", "16-mixed"),
        ("16-mixed", "cpu", "bf16-mixed"),
    ],
)
def test_a_precision_is_recorded_as_what_is_computed(given, accelerator, expected):
    assert hardware.resolve_precision(given, accelerator) == expected


@pytest.mark.parametrize("given", ["16-true", "bf16-true", "transformer-engine", None, "fp32"])
def test_weights_of_half_precision_are_refused(given):
    with pytest.raises(UserError, match=f"evaluation.precision={given}: choose one of 32-true, 16-mixed, bf16-mixed"):
        hardware.resolve_precision(given, "cpu", setting="evaluation.precision")


@pytest.mark.parametrize(("bfloat16", "expected"), [(True, "bf16-mixed"), (False, "16-mixed")])
def test_auto_is_half_precision_on_gpus_before_ampere(monkeypatch, bfloat16, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bfloat16)
    assert hardware.resolve_precision("auto", "gpu") == expected


@pytest.mark.parametrize("accelerator", ["mps", "tpu", "hpu", "xpu"])
def test_devices_that_were_never_tried_are_refused(accelerator):
    with pytest.raises(
        UserError, match=rf"^trainer.accelerator={accelerator}: choose one of gpu \(CUDA or ROCm\), cpu"
    ):
        hardware.resolve_accelerator(accelerator)
    assert hardware.resolve_accelerator("cuda") == "gpu"
