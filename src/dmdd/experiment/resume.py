"""Which run folder a command goes on in: ``resume=true`` finds the run that was started with the same settings."""

import hashlib
import json
from pathlib import Path
from typing import Any

from dmdd.config.check import plain_of
from dmdd.config.schema import FORMER_NAMES, TrainSettings
from dmdd.core.errors import UserError
from dmdd.core.files import read_yaml

IGNORED = (
    "overrides",
    "name",
    "run_dir",
    "resume",
    "save_state_every_s",
    "save_state_every_n_steps",
    "compile",
    "objective",
    "logger",
    "launcher",
)
"""Settings that do not change what is computed."""

WATCHING = (
    "dmdd.training.progress.StageProgress",  # its name in run folders of version 0.1
    "dmdd.training.callbacks.progress.StageProgress",
    *(
        f"lightning.pytorch.callbacks.{name}"
        for name in (
            "DeviceStatsMonitor",
            "LearningRateMonitor",
            "RichProgressBar",
            "ThroughputMonitor",
            "TQDMProgressBar",
        )
    ),
)
"""Callbacks that only look on; any other may change the weights."""

IGNORED_OF = {
    "trainer": ("devices", "strategy", "log_every_n_steps"),
    "data": ("num_workers", "evaluation_batch_size", "memory_gb", "cache_dir"),
    "evaluation": ("exact",),
}
"""Likewise of single groups: the same seed gives the same pairs and, batch norm being synchronised, the same training
on any number of devices; and who runs out of memory or workers in the last phase must be able to set less. Exact
metrics equal the others within their certified bounds."""

STATE_DIR = "state"


FORMER = {"segmentation.inputs": "products", "data.held_out_runs": False}
"""What runs of versions that had no such setting did."""


def find_run(settings: TrainSettings) -> Path | None:
    """Find the run that this command began earlier: first in its own folder, then beside it.

    Args:
        settings: Of the command.

    Returns:
        The folder of the finished run with the same settings, else of the newest unfinished one, or None.

    Raises:
        UserError: The command's own folder holds a run with other settings.
    """
    own = Path(settings.run_dir)
    wanted = _decisive(plain_of(settings))
    if (own / "config.yaml").is_file():
        differing = differences(wanted, read_settings(own))
        if differing:
            raise UserError(f"{own} holds a run with other settings ({differing}); give another name= or resume=false")
        return own
    seed = f"seed: {wanted.get('seed')}"
    same = [
        file.parent
        for file in own.parent.glob("*/config.yaml")
        if _has_line(file, seed) and not differences(wanted, read_settings(file.parent))
    ]
    finished = [folder for folder in same if is_finished(folder)]
    return max(finished or same, key=lambda folder: (folder / "config.yaml").stat().st_mtime, default=None)


def _has_line(file: Path, line: str) -> bool:
    """Look for a line, which takes a thousandth of the time of reading all settings: most runs differ in the seed."""
    try:
        return line.encode() in file.read_bytes().splitlines()
    except OSError:
        return False


def is_finished(folder: Path) -> bool:
    """Tell whether a run folder holds a whole result, which is what a run writes last."""
    try:
        json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def read_settings(folder: Path) -> dict[str, Any]:
    """Give the settings of the run in a folder; empty if it holds none that can be read."""
    try:
        plain: Any = read_yaml(folder / "config.yaml")
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(plain, dict):
        return {}
    return FORMER | {FORMER_NAMES.get(name, name): value for name, value in _decisive(plain).items()}


def differences(wanted: dict[str, Any], found: dict[str, Any]) -> str:
    """Name up to three settings in which two runs differ; empty if they agree."""
    names = [name for name in sorted(wanted.keys() | found.keys()) if wanted.get(name) != found.get(name)]
    shown = [f"{name}={found.get(name)} there, {wanted.get(name)} here" for name in names[:3]]
    return "; ".join(shown + [f"and {len(names) - 3} more"] * (len(names) > 3))


OF_THE_PLACE = ("seed", "data_dir", "data.textures_dir", "dataset.layout.root", "upload_model", "evaluation.pictures")
"""Settings in which runs of one configuration may differ, beside those that a resumed run may change."""


def configuration_digest(plain: dict[str, Any]) -> str:
    """Name a configuration by a hash: the same for runs that differ only in seed, machine, outputs and speed.

    Args:
        plain: Configuration of a run, as plain values.

    Returns:
        Eight hexadecimal digits.
    """
    kept = {name: value for name, value in _decisive(plain).items() if name not in OF_THE_PLACE}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:8]


def without_onlookers(plain: dict[str, Any]) -> dict[str, Any]:
    """Leave out of a configuration the callbacks that change nothing.

    Args:
        plain: Configuration of a run, as plain values.

    Returns:
        A copy in which ``callbacks`` holds only those that may change the weights, and is not there without any.
    """
    entries = plain.get("callbacks")
    callbacks = entries if isinstance(entries, dict) else {}
    acting = {
        name: entry
        for name, entry in callbacks.items()
        if entry is not None and not (isinstance(entry, dict) and entry.get("_target_") in WATCHING)
    }
    kept = {name: value for name, value in plain.items() if name != "callbacks"}
    return kept | ({"callbacks": acting} if acting else {})


def _decisive(plain: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in without_onlookers(plain).items() if name not in IGNORED}
    for group, ignored in IGNORED_OF.items():
        if isinstance(kept.get(group), dict):
            if kept[group].get("sync_batchnorm") is False:  # each device's own statistics: the number of them counts
                ignored = tuple(name for name in ignored if name != "devices")
            kept[group] = {name: value for name, value in kept[group].items() if name not in ignored}
    return _flat(kept, "")


def _flat(value: Any, prefix: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {key: v for name, part in value.items() for key, v in _flat(part, f"{prefix}.{name}".lstrip(".")).items()}
