"""What was meant by a name that is no setting: other tools' names and slips of the pen."""

import difflib
from collections.abc import Sequence
from typing import Any

from dmdd.config.schema import FORMER_NAMES
from dmdd.core.errors import UserError, warn

HABITS = {
    "accelerator": "trainer.accelerator=cpu",
    "arch": "teacher.backbone=NAME",
    "augment": "augmentation=jitter",
    "backbone": "teacher.backbone=NAME",
    "bs": "batch_size=8",
    "checkpoint": "resume=true, which continues the run with the same settings",
    "ckpt_path": "resume=true, which continues the run with the same settings",
    "config": "recipe=NAME",
    "data.batch_size": "batch_size=8",
    "data.dir": "data_dir=FOLDER",
    "data_path": "data_dir=FOLDER",
    "debug": "recipe=smoke",
    "device": "trainer.accelerator=cpu",
    "devices": "trainer.devices=2",
    "epochs": "distillation.steps=1000",
    "experiments": "+experiments/FOLDER=NAME",
    "gpus": "trainer.devices=2",
    "image_dir": "data_dir=FOLDER",
    "img_size": "image_size=[256,256]",
    "iterations": "distillation.steps=1000",
    "learning_rate": "distillation.learning_rate=0.002 (and segmentation_training.learning_rate)",
    "lr": "distillation.learning_rate=0.002 (and segmentation_training.learning_rate)",
    "max_epochs": "distillation.steps=1000",
    "max_steps": "distillation.steps=1000",
    "model": "teacher=NAME and student=NAME",
    "num_workers": "data.num_workers=2",
    "optimizer.lr": "distillation.learning_rate=0.002 (and segmentation_training.learning_rate)",
    "output": "run_dir=FOLDER",
    "output_dir": "run_dir=FOLDER",
    "precision": "trainer.precision=bf16-mixed",
    "resume_from_checkpoint": "resume=true, which continues the run with the same settings",
    "root": "data_dir=FOLDER",
    "save_dir": "run_dir=FOLDER",
    "steps": "distillation.steps=1000 and segmentation_training.steps=300",
    "trainer.lr": "distillation.learning_rate=0.002 (and segmentation_training.learning_rate)",
    "train.lr": "distillation.learning_rate=0.002 (and segmentation_training.learning_rate)",
    "wandb": "logger=wandb",
    "weight_decay": "distillation.weight_decay=0.0001 (and segmentation_training.weight_decay)",
    "workers": "data.num_workers=2",
}
"""Names of Lightning, anomalib, timm and others, and what does the same here; counts where the command has it."""


def current_name(schema: type, name: str) -> str:
    """Give the name of a setting that may have been given by its former one, which a warning tells.

    Args:
        schema: The command's settings.
        name: Dotted name.

    Returns:
        The name that it has now.
    """
    new = FORMER_NAMES.get(name)
    if new is None or new.partition(".")[0] not in schema.__dataclass_fields__:  # type: ignore[attr-defined]
        return name
    warn([f"the setting {name} is now called {new}; the former name will stop working in the next version"])
    return new


def rename(schema: type, plain: dict[str, Any]) -> None:
    """Bring settings that a file gives by their former names under those of now, in place.

    Args:
        schema: The command's settings.
        plain: A configuration as plain values.
    """
    for former in FORMER_NAMES:
        group, _, last = former.rpartition(".")
        node = plain.get(group)
        if isinstance(node, dict) and last in node and (new := current_name(schema, former)) != former:
            node[new.rpartition(".")[2]] = node.pop(last)


def unknown(name: str, known: Sequence[str], value: object = "") -> UserError:
    """Say that there is no such setting, and which was probably meant.

    Args:
        name: What was given.
        known: Dotted names of the settings that there are.
        value: What it was set to.

    Returns:
        The error, to be raised.
    """
    if name == "experiment" and "distillation.steps" in known:
        folder, _, option = str(value).rpartition("/")
        return UserError(f"unknown setting experiment; write +experiments/{folder or 'FOLDER'}={option or 'NAME'}")
    habit = HABITS.get(name) or HABITS.get(name.rpartition(".")[2])
    slips = difflib.get_close_matches(name, known, n=1, cutoff=0.9)
    is_slip = (
        bool(slips) and name not in HABITS and not any(other.startswith(name.partition(".")[0]) for other in known)
    )
    if habit and not is_slip and _is_there(habit, known):
        return UserError(f"unknown setting {name}; use {habit}")
    close = suggest(name, known)
    return UserError(f"unknown setting {name}; " + (f"did you mean {close}?" if close else "--help lists them"))


def unknown_option(group: str, option: str, options: Sequence[str]) -> UserError:
    """Say that a group of configuration files has no such file.

    Args:
        group: As in "teacher".
        option: What was given.
        options: What there is.

    Returns:
        The error, to be raised.
    """
    close = suggest(option, options)
    hint = f"did you mean {group}={close}? " if close else ""
    return UserError(f"{group}={option}: there is no such option; {hint}there are {', '.join(options)}")


def _is_there(habit: str, known: Sequence[str]) -> bool:
    first = habit.partition("=")[0].lstrip("+").split(".")[0].split("/")[0]
    names = {name.split(".")[0] for name in known}
    return first in names or (first == "recipe" and "distillation" in names)


def suggest(name: str, known: Sequence[str]) -> str | None:
    """Find the name that was probably meant.

    Args:
        name: What was given.
        known: What there is.

    Returns:
        The closest by all its letters, or one that ends in the same word; None if nothing is near.
    """
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    if found:
        return found[0]
    last = name.rpartition(".")[2]
    ends = {other.rpartition(".")[2]: other for other in reversed(known)}
    near = difflib.get_close_matches(last, list(ends), n=1, cutoff=0.75)
    return ends[near[0]] if near else None
