"""What ``--help`` prints: every setting with its value, what it does and what it takes, without importing torch."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from dmdd.config.check import describe_number, rule_of
from dmdd.config.check import shown as shown_value
from dmdd.config.compose import composing, config_dir, home
from dmdd.config.schema import Rule, Settings, Target

COLUMN = 48

PURPOSE = {
    "train": "Train a detector on the normal images of one category, measure it once, write a run folder.",
    "evaluate": "Measure a saved model on a test set. On its training run's data it gives that run's figures.",
    "predict": "Score images with a trained model. The same command again continues where it stopped.",
    "calibrate": "Set the thresholds of a model from photographs of the line, without training.",
    "export": "Write a trained detector as one graph and compare the file with the detector.",
    "serve": "Open a page to drop images on, and POST /predict for machines.",
    "bench": "Measure latency and throughput of PyTorch, ONNX Runtime and OpenVINO; about two minutes on two cores.",
}
EXAMPLES = {
    "train": (
        ("category=screw", "MVTec AD in data/mvtec_ad, on a GPU"),
        ("category=screw teacher=efficientnet_lite0 recipe=cpu", "no GPU"),
        ("dataset=folder data_dir=parts category=bracket", "your images: parts/bracket/good and bad"),
        ("dataset=mvtec_layout data_dir=castings category=lid", "your data set in the shape of MVTec AD"),
        ("category=screw resume=true", "continue after a stop"),
        ("-m category=screw,cable seed=0,1,2", "a sweep: six runs"),
        ("-m category=all_each +experiments/ablation=ngm_only", "an experiment of experiments/, every category"),
    ),
    "evaluate": (
        ("model=runs/mvtec_ad/screw/one/model category=screw", ""),
        ("model=runs/.../model dataset=folder data_dir=parts category=bracket", "on other images"),
    ),
    "predict": (
        ("model=runs/.../model input=parts output=scores", ""),
        ("model=runs/.../model input='parts/*.png' output=scores maps=png16", "a pattern; maps as pictures"),
        ("model=runs/.../model input=incoming output=scores watch=true", "follow a folder"),
    ),
    "calibrate": (
        ("model=runs/.../model good=photographs/good", ""),
        ("model=runs/.../model good=photographs/good bad=photographs/bad rate=0.05 dry_run=true", "look first"),
        ("model=runs/.../export/detector.onnx good=photographs/good", "an exported file: its JSON is changed"),
    ),
    "export": (
        ("model=runs/.../model format=onnx category=screw", ""),
        ("model=runs/.../model format=openvino precision=int8 category=screw", ""),
    ),
    "serve": (("model=runs/.../model", ""), ("model=runs/.../model host=0.0.0.0 port=8080", "for other machines")),
    "bench": (("model=runs/.../model", ""), ("model=runs/.../model engines=[onnx,openvino] threads=4", "")),
}
EXIT_CODES = {
    "train": "0 done, 1 internal error, 2 bad input (one line on stderr), 130 Ctrl-C, 143 SIGTERM",
    "evaluate": "0 done, 1 internal error, 2 bad input (one line on stderr), 130 Ctrl-C, 143 SIGTERM",
    "predict": "0 done, 1 internal error, 2 bad input, 3 done but some images were bad, 130 Ctrl-C, 143 SIGTERM",
    "calibrate": "0 done, 1 internal error, 2 bad input, or a rate that so few photographs cannot promise",
    "export": "0 done, 1 the file differs too much or internal error, 2 bad input",
    "serve": "0 after SIGINT or SIGTERM, 1 internal error, 2 bad input",
    "bench": "0 done, 1 internal error, 2 bad input",
}


def help_text(schema: type[Settings]) -> str:
    """Write what a command does, its settings with their values, examples and exit codes.

    Args:
        schema: The command's settings.

    Returns:
        Lines of text.
    """
    command = schema.COMMAND
    sections = [
        f"usage: dmdd {command} NAME=VALUE ...   (the same as python -m dmdd.{command})\n\n{PURPOSE[command]}",
        "examples\n" + "\n".join(_examples(command)),
        "settings and their values\n" + "\n".join(_settings(schema, _values(schema), "")),
        *_groups(schema),
        "exit codes\n  " + EXIT_CODES[command],
    ]
    return "\n\n".join(sections) + "\n"


def _examples(command: str) -> Iterator[str]:
    for arguments, comment in EXAMPLES[command]:
        yield f"  dmdd {command} {arguments}" + (f"   # {comment}" if comment else "")


def _values(schema: type[Settings]) -> Mapping[str, Any]:
    from hydra import compose
    from omegaconf import OmegaConf

    hidden = [f"run_dir={text}" for text in ("runs/DATASET/CATEGORY/NAME",)] if _has_run(schema) else []
    named = ["name=DATE_TIME"] if _has_run(schema) else []
    with composing(schema, [*hidden, *named]) as prepared:
        config = compose(schema.COMMAND, prepared)
        if _has_run(schema):
            config.run_dir = "runs/DATASET/CATEGORY/NAME"
        plain: Any = OmegaConf.to_container(config, resolve=True)
    return plain


def _has_run(schema: type[Settings]) -> bool:
    return "run_dir" in {entry.name for entry in fields(schema)}  # type: ignore[arg-type]


def _settings(schema: Any, values: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """One line a setting; parts with a target come as groups."""
    hints, later = get_type_hints(schema), []
    for entry in fields(schema):
        kind, rule = hints[entry.name], rule_of(entry)
        if rule.is_internal or _is_target(kind):
            continue
        if is_dataclass(kind):
            later.append((entry.name, kind, rule))
            continue
        value = values.get(entry.name, entry.default)
        takes = _takes(kind, rule)
        yield _line(f"{prefix}{entry.name}={_written(value)}", rule.help + (f"; {takes}" if takes else ""))
    for name, kind, rule in later:
        if name != "dataset":  # a group of its own
            yield f"\n  {prefix}{name}: {rule.help}"
            yield from _settings(kind, values.get(name, {}), f"{prefix}{name}.")


def _line(left: str, comment: str) -> str:
    left = f"  {left}"
    return f"{left:<{COLUMN}} # {comment}" if comment else left


def _written(value: object) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return shown_value(value)


def _is_target(kind: Any) -> bool:
    members = get_args(kind) if get_origin(kind) is not Mapping else (kind,)
    return kind == Target or Target in members or get_origin(kind) is Mapping


def _takes(kind: Any, rule: Rule) -> str:
    members = get_args(kind) if get_origin(kind) not in (None, Literal, tuple) else (kind,)
    for member in members:
        if get_origin(member) is Literal:
            return " or ".join([*map(str, get_args(member)), *(["PACKAGE.FUNCTION"] if rule.is_open else [])])
    numbers = [member for member in members if member in (int, float)]
    inner = get_args(kind)[0] if get_origin(kind) is tuple else None
    has_range = any(limit is not None for limit in (rule.least, rule.most, rule.above, rule.below))
    if numbers and (has_range or rule.unit):
        return describe_number(rule, whole=numbers == [int])
    return rule.unit if inner in (int, float) else ""


def _groups(schema: type[Settings]) -> Iterator[str]:
    """One section a group of ``conf/``: its options, and the settings of the one that is the default."""
    chosen = _defaults(schema.COMMAND)
    for group, option in chosen.items():
        folder = config_dir() / group
        if group == "launcher":
            continue
        if group == "recipe":
            yield "recipe=" + option + ": size and effort; what each costs\n" + "\n".join(_recipes(folder, option))
            continue
        options = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        title = f"{group}={option}: {_purpose(schema, group)}; one of {options}"
        yield title + "".join(f"\n{line}" for line in _file_settings(folder / f"{option}.yaml", group))
    if schema.COMMAND == "train":
        names = sorted(f"{file.parent.name}={file.stem}" for file in home().glob("experiments/*/*.yaml"))
        yield "experiments (+experiments/FOLDER=NAME), each with its question and cost in its file\n  " + ", ".join(
            names
        )


def _purpose(schema: type[Settings], group: str) -> str:
    return next(rule_of(entry).help for entry in fields(schema) if entry.name == group)  # type: ignore[arg-type]


def _defaults(command: str) -> dict[str, str]:
    from omegaconf import OmegaConf

    plain: Any = OmegaConf.to_container(OmegaConf.load(config_dir() / f"{command}.yaml"))
    entries = [entry for entry in plain.get("defaults", []) if isinstance(entry, dict)]
    return {name: option for entry in entries for name, option in entry.items() if not name.startswith("override ")}


def _recipes(folder: Path, default: str) -> Iterator[str]:
    for file in sorted(folder.glob("*.yaml")):
        lines = file.read_text(encoding="utf-8").splitlines()
        header = [line.lstrip("# ") for line in lines if line.startswith("#") and "@package" not in line]
        yield _line(f"recipe={file.stem}" + (" (default)" if file.stem == default else ""), header[0])


def _file_settings(file: Path, prefix: str) -> Iterator[str]:
    """Read names, values and comments of a file of ``conf/`` as it is written."""
    from omegaconf import OmegaConf

    comments = dict(re.findall(r"^ *([a-z_]\w*):.*? #\s*(.+)$", file.read_text(encoding="utf-8"), re.MULTILINE))
    plain: Any = OmegaConf.to_container(OmegaConf.load(file))
    for name, value in _leaves(plain, prefix):
        if not name.rpartition(".")[2].startswith("_") and "${" not in str(value):
            yield _line(f"{name}={_written(value)}", comments.get(name.rpartition(".")[2], ""))


def _leaves(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if name == "defaults":
            continue
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}", value
