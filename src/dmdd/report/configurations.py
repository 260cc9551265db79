"""Which runs differ only by their seed, and what to call those that differ by more."""

import os
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import Any

from dmdd.config.schema import FORMER_NAMES
from dmdd.experiment import resume
from dmdd.report.collect import Run

# Settings that say where, how fast or with how many pictures a run goes, not what is learnt or measured: those that may
# differ when a run is resumed, and more. A name ends at its dot, so "logger" covers "logger.csv". The teacher's weights
# are compared by their checksum instead.
IGNORED = (
    *resume.IGNORED,
    *(f"{group}.{name}" for group, names in resume.IGNORED_OF.items() for name in names),
    *("seed", "data_dir", "category", "dataset.name", "hydra", "upload_model"),
    *("trainer.accelerator", "trainer.default_root_dir", "data.textures_dir"),
    *("evaluation.pictures", "evaluation.resamples", "evaluation.study_maps", "teacher.weights", "teacher.package"),
    *("dataset.layout.root", "dataset.layout.category", "dataset.layout.dataset", "dataset.layout._target_"),
)
Settings = dict[str, str]
_ABSENT = "absent"


def configuration_names(runs: Sequence[Run]) -> list[str]:
    """Name each run's configuration by what differs between the configurations that are there.

    Args:
        runs: Any runs.

    Returns:
        One name a run; equal where the runs differ only by seed, category or machine; empty if there is one only.
    """
    settings = _settings_that_count(runs)
    groups: dict[tuple[tuple[str, str], ...], list[int]] = defaultdict(list)
    for index, values in enumerate(settings):
        groups[tuple(sorted(values.items()))].append(index)
    if len(groups) < 2:
        return [""] * len(runs)
    commands = [_shared([_own_overrides(runs[index]) for index in indices]) for indices in groups.values()]
    names = _differences(commands)
    _part_equal_names(names, [dict(key) for key in groups])
    named = {index: name for name, indices in zip(names, groups.values(), strict=True) for index in indices}
    return [named[index] for index in range(len(runs))]


def _settings_that_count(runs: Sequence[Run]) -> list[Settings]:
    """Flatten every configuration; options of a layout count where they differ between runs on the same data set."""
    settings = [_settings(run) for run in runs]
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    of_dataset: dict[str, set[str]] = defaultdict(set)
    for run, own in zip(runs, settings, strict=True):
        of_dataset[run.dataset] |= {name for name in own if name.startswith("dataset.")}
    for run, own in zip(runs, settings, strict=True):
        for name in of_dataset[run.dataset]:
            values[run.dataset, name].add(own.get(name, _ABSENT))
    return [
        {n: v for n, v in own.items() if not n.startswith("dataset.") or len(values[run.dataset, n]) > 1}
        for run, own in zip(runs, settings, strict=True)
    ]


def _settings(run: Run) -> Settings:
    if run.config is None:
        return {"config.yaml": _ABSENT} | _own_overrides(run)
    several = run.pooled or (run.category if run.result["test"].get("categories") else None)
    data_dir = str(run.config.get("data_dir", ""))
    flat: Settings = {}
    _flatten(resume.without_onlookers(run.config), "", flat)
    own = {
        name: value for name, value in flat.items() if not is_ignored(name) and not _is_machine_path(value, data_dir)
    }
    if flat.get("trainer.sync_batchnorm") == "False":
        own["trainer.devices"] = flat.get("trainer.devices", _ABSENT)
    if flat.get("teacher.random_weights") != "True":  # random ones follow the seed
        own["teacher.sha256"] = str(run.result.get("teacher", {}).get("sha256"))
    if several is not None:  # one model for all of them is another thing than one for each
        own["one_model_for"] = several
    return own


@cache  # a thousand runs have the same names, and each is compared with all that are ignored
def is_ignored(name: str) -> bool:
    """Whether a setting, by its dotted name, makes no other configuration."""
    return any(name == ignored or name.startswith(ignored + ".") for ignored in IGNORED)


def _flatten(node: Any, name: str, into: Settings) -> None:
    if isinstance(node, dict):
        for key, value in node.items():
            _flatten(value, f"{name}.{key}" if name else str(key), into)
    else:
        into[FORMER_NAMES.get(name, name)] = str(node)


def _is_machine_path(value: str, data_dir: str) -> bool:
    return os.path.isabs(value) or bool(data_dir and value.startswith(data_dir + "/"))


def _own_overrides(run: Run) -> Settings:
    # "dataset" chooses the data set and is a column of its own; "dataset.layout.bad" is a setting.
    return {
        name: value
        for name, value in run.overrides.items()
        if name != "dataset" and not is_ignored(name) and not name.startswith("callbacks.progress.")
    }


def _shared(overrides: list[Settings]) -> Settings:
    first, *others = overrides
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}


def _differences(all_settings: list[Settings]) -> list[str]:
    names = dict.fromkeys(name for settings in all_settings for name in settings)
    differing = [name for name in names if len({settings.get(name) for settings in all_settings}) > 1]
    # A space ends a part, so the values keep none.
    parts = [["".join(f"{name}={own[name]}".split()) for name in differing if name in own] for own in all_settings]
    return [" ".join(part) or "default" for part in parts]


def _part_equal_names(names: list[str], settings: list[Settings]) -> None:
    """Tell apart, in place, configurations that came from the same command: the code's own values have changed."""
    for name in [name for name in set(names) if names.count(name) > 1]:
        indices = [index for index, other in enumerate(names) if other == name]
        keys = dict.fromkeys(key for index in indices for key in settings[index])
        filled = [{key: settings[index].get(key, _ABSENT) for key in keys} for index in indices]
        for number, (index, difference) in enumerate(zip(indices, _differences(filled), strict=True), start=1):
            # A whole group of settings may differ; a name is too short for it.
            short = difference if difference.count(" ") < 3 else f"#{number}, see config.yaml"
            names[index] = f"{name} ({short})"
