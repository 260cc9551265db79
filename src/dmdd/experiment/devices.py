"""Checks of a trainer's settings against the machine, before anything starts."""

import os
from collections.abc import Mapping
from typing import Any

import torch

from dmdd.core.errors import UserError

STEP_COUNTERS = (
    *("accumulate_grad_batches", "fast_dev_run", "limit_train_batches", "max_epochs", "max_steps", "max_time"),
    *("min_epochs", "min_steps", "overfit_batches"),
)
"""Arguments of a trainer that change how many batches a stage sees; a stage here is its steps, one batch each."""

BATCH_LIMITS = ("limit_test_batches", "limit_val_batches", "limit_predict_batches")
"""Arguments of a trainer that leave images out of what is measured."""

SET_BY_US = {
    "barebones": "leave it out",
    "callbacks": "use callbacks.NAME=",
    "check_val_every_n_epoch": "leave it out, the validation comes once, after training",
    "default_root_dir": "use hydra.run.dir=",
    "enable_checkpointing": "use save_state_every_s=",
    "enable_model_summary": "leave it out",
    "logger": "use logger=",
    "num_sanity_val_steps": "leave it out",
    "reload_dataloaders_every_n_epochs": "leave it out, a stage is one epoch",
    "use_distributed_sampler": "leave it out, each device gets images of its own",
    "val_check_interval": "leave it out, the validation comes once, after training",
}
"""Arguments of a trainer that a run sets itself, so that another value would do nothing, and what to use instead."""


def check_trainer(trainer: Mapping[str, Any]) -> None:
    """Refuse arguments that would end a stage early, measure a part of the images only, or do nothing.

    Args:
        trainer: The arguments of ``lightning.Trainer``.

    Raises:
        UserError: One of ``STEP_COUNTERS``, ``BATCH_LIMITS`` or ``SET_BY_US`` is among them, or more than one machine
            is asked for.
    """
    for name in BATCH_LIMITS:
        value = trainer.get(name)
        # Lightning takes 1 as one batch and 1.0 as all of them.
        if not (value is None or (isinstance(value, float) and value == 1)):
            raise UserError(
                f"trainer.{name}={value}: a result is measured on all images that are listed; leave it out, "
                "and for a quick try give category= a folder with fewer images"
            )
    for name, instead in SET_BY_US.items():
        if name in trainer:
            raise UserError(f"trainer.{name}={trainer[name]} would do nothing, dmdd sets it itself; {instead}")
    for name in STEP_COUNTERS:
        value = trainer.get(name)
        # Not `in (None, False)`: zero equals False, and means no steps at all.
        if not (value is None or value is False or (name == "accumulate_grad_batches" and value == 1)):
            raise UserError(
                f"trainer.{name}={value}: a stage has as many batches as distillation.steps or "
                "segmentation_training.steps say; set these, or batch_size"
            )
    if trainer.get("num_nodes") not in (None, 1):
        raise UserError(f"trainer.num_nodes={trainer['num_nodes']}: a run uses the devices of one machine")


def check_devices(devices: object, accelerator: str, batch_size: int) -> int:
    """Check the number of devices against the machine and the batch size.

    Args:
        devices: ``trainer.devices``.
        accelerator: ``gpu`` or ``cpu``.
        batch_size: Global batch size.

    Returns:
        Number of devices.

    Raises:
        UserError: Not a positive number, more than there are, or the batch cannot be shared evenly.
    """
    there = torch.cuda.device_count() if accelerator == "gpu" else os.cpu_count() or 1
    unit = "GPU" if accelerator == "gpu" else "CPU core"
    if there == 0:
        raise UserError("trainer.accelerator=gpu: no CUDA GPU is visible; use trainer.accelerator=cpu")
    if not isinstance(devices, int) or isinstance(devices, bool) or devices < 1:
        raise UserError(f"trainer.devices={devices}: give a number from 1 to {there}")
    if devices > there:
        raise UserError(
            f"trainer.devices={devices}, but this machine has {there} {unit}{'s' if there > 1 else ''}; "
            f"use trainer.devices={there} or fewer"
        )
    if batch_size % devices:
        raise UserError(f"batch_size={batch_size} cannot be shared evenly by trainer.devices={devices}")
    return devices
