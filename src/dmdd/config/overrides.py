"""The grammar of every command line, NAME=VALUE with any letters in the value, rewritten for Hydra's parser."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, is_dataclass
from pathlib import Path
from typing import Any, get_args

from dmdd.config.check import dotted_names, find_field, rule_of
from dmdd.config.names import current_name, suggest, unknown, unknown_option
from dmdd.config.schema import Settings
from dmdd.core.errors import UserError

SWEEPING = {"-m", "--multirun"}
HYDRA_FLAGS = {"--hydra-help", "--version", "-c", "--cfg", "--resolve", "-p", "--package"}
HYDRA_FLAGS |= {"-r", "--run", "-sc", "--shell-completion", "-i", "--info"}
"""Hydra's flags; not those that read a configuration from elsewhere, of which --experimental-rerun reads a pickle."""

TAKING_A_VALUE = {"-c", "--cfg", "-p", "--package", "-sc", "--shell-completion", "-i", "--info"}

FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
"""Settings of Hydra that are texts, as far as a user gives them."""

UNCLEAR = ("null", "true", "false", "nan", "inf")
"""Words that an override takes for something else than a text."""

SWEEPS = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag|str|int|float|bool|json_str|extend_list)\(")
"""Hydra's functions, by which a sweep may give several values."""


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part a command line.

    Args:
        arguments: After the command. ``--seed=1`` counts as ``seed=1``, which is how ``wandb agent`` passes settings.

    Returns:
        Flags with their values, and overrides.

    Raises:
        UserError: An argument is neither.
    """
    flags: list[str] = []
    overrides: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        name, equals, _ = argument.partition("=")
        is_flag = argument in SWEEPING | {"-h", "--help"} or name in HYDRA_FLAGS
        if is_flag or (before in TAKING_A_VALUE and not equals):
            flags.append(argument)
        elif argument.startswith("~") or (equals and name and not re.match("-[^-]", name)):
            overrides.append(argument.removeprefix("--"))
        elif argument.startswith("--") and argument[2:].isidentifier():
            raise UserError(f"'{argument}' is not a setting; write NAME=VALUE, as in {argument[2:]}=1")
        elif argument.startswith("-"):
            raise UserError(f"'{argument}' is not a setting; write NAME=VALUE, --help lists the names")
        else:
            raise UserError(f"'{argument}' is not a setting; write NAME=VALUE, as in category={argument.lstrip('=')}")
    return flags, overrides


def prepare(
    schema: type[Settings], overrides: Sequence[str], *, groups: Mapping[str, Sequence[str]], sweeping: bool = False
) -> list[str]:
    """Rewrite overrides so that Hydra takes them as they are meant.

    Settings that are texts are quoted, and so is what Hydra's parser does not take. No user needs to know whether a
    file of ``conf/`` mentions a setting: ``+`` and ``++`` are left out or put where Hydra wants them.

    Args:
        schema: The command's settings.
        overrides: As a user writes them.
        groups: Options by group, as in "dataset" and "experiments/ablation".
        sweeping: Commas part the values of a sweep.

    Returns:
        As many overrides.

    Raises:
        UserError: A setting, a group or an option is unknown, or a setting has several values outside a sweep.
    """
    return [_prepare_one(schema, text, groups, sweeping) for text in overrides]


def _prepare_one(schema: type[Settings], text: str, groups: Mapping[str, Sequence[str]], sweeping: bool) -> str:
    prefix, name, _, value = split_override(text)
    name = current_name(schema, name)
    if name.startswith("hydra/") or (name.startswith("hydra.") and name not in FOLDERS):
        if not sweeping:
            raise UserError(f"{name}={value} counts only in a sweep: add -m")
        return text
    # A group and a setting may share a name: trainer={} is no choice of a file.
    if name in groups and value[:1] not in ("{", "[") and prefix != "~":
        return _choose_option(name, value, groups[name], sweeping)
    if name in groups:
        return text
    if name == "run_dir" and find_field(schema, name):
        if sweeping:
            raise UserError(f"run_dir={value}: each run of a sweep has its own; hydra.sweep.dir=FOLDER moves them all")
        name = "hydra.run.dir"
    if name in FOLDERS:
        return f"{name}={quote_values(expand_home(value), sweeping)}"
    if "/" in name or name == "experiments":
        raise _unknown_group(name, groups)
    found = find_field(schema, name)
    if found is None or rule_of(found[0]).is_internal or not re.fullmatch(r"\w+(\.[\w-]+)*", name):
        raise unknown(name, list(dotted_names(schema)), value)
    if prefix == "~":
        return text
    entry, kind, rest = found
    value = expand_home(value) if rule_of(entry).is_path else value
    if not (value == "null" and rule_of(entry).missing):  # null says that it is missing, and no name
        value = _prepare_value(schema, name, value, Any if rest else kind, sweeping)
    # What a file of conf/ mentions is overridden, all else is added.
    mentioned = not rest and not is_dataclass(kind) and entry.default is MISSING
    return f"{'' if mentioned else '++'}{name}={value}"


def _prepare_value(schema: type[Settings], name: str, value: str, kind: Any, sweeping: bool) -> str:
    """Quote a value where Hydra's parser would not take it as it is meant."""
    understood = parses(f"{name}={value}")
    is_list = value.startswith("[") and tuple[str, ...] in get_args(kind) and understood
    if is_text(kind) and not is_list:
        return value if value == "null" and type(None) in get_args(kind) else quote_values(value, sweeping)
    if not understood:
        return quoted(value)
    if not sweeping and _has_several(f"{name}={value}"):
        hint = "several values need -m" if find_field(schema, "overrides") else "give one value"
        raise UserError(f"{name}={value}: {hint}; a list is written {name}=[{value}]")
    return value


def split_override(text: str) -> tuple[str, str, str, str]:
    """Part an override into prefix (``+``, ``++``, ``~`` or none), name, equals sign and value."""
    prefix = re.match(r"\+{0,2}|~", text)
    marks = "~" if text.startswith("~") else prefix[0] if prefix else ""
    name, equals, value = text[len(marks) :].partition("=")
    return marks, name, equals, value


def _choose_option(group: str, value: str, options: Sequence[str], sweeping: bool) -> str:
    several = value.split(",") if sweeping and not SWEEPS.match(value) else [value]
    for option in several:
        bare = option.strip("'\" ")
        if bare not in options and bare != "null" and not (sweeping and SWEEPS.match(value)) and "${" not in bare:
            raise unknown_option(group, bare, options)
    # The groups of conf/ have a default, which is replaced.
    return f"{'+' if group.startswith('experiments/') else ''}{group}={value}"


def _has_several(override: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(override).is_sweep_override()


def _unknown_group(name: str, groups: Mapping[str, Sequence[str]]) -> UserError:
    near = suggest(name, list(groups))
    return UserError(
        f"unknown group {name}; " + (f"did you mean {near}?" if near else f"there are {', '.join(groups)}")
    )


def is_text(kind: Any) -> bool:
    """Whether a setting of this type holds a text, or a list of texts."""
    members = set(get_args(kind)) - {type(None)} if get_args(kind) else {kind}
    return members in ({str}, {str, tuple[str, ...]})


def expand_home(value: str) -> str:
    """Replace a leading ``~``, which shells leave alone after an equals sign."""
    return os.path.expanduser(value) if value.startswith("~") else value


def quote_values(value: str, sweeping: bool) -> str:
    """Quote a text, so that Hydra takes every letter of it as it is.

    Args:
        value: As on the command line; what is quoted already stays.
        sweeping: Commas part values, which are quoted one by one; Hydra's functions stay.

    Returns:
        A value for an override.
    """
    if sweeping and not SWEEPS.match(value):
        return ",".join(_quote_once(part) for part in re.findall(r"""(?:'[^']*'|"[^"]*"|[^,])+""", value) or [""])
    return value if sweeping else _quote_once(value)


def _quote_once(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" and parses(f"name={value}"):
        return value
    return quoted_if_needed(value)


def quoted_if_needed(text: str) -> str:
    """Quote a text where Hydra's parser would take it for something else, as it does with ``2024_01`` and ``null``.

    Args:
        text: Any.

    Returns:
        A value for an override.
    """
    plain = re.fullmatch(r"([A-Za-z_]|\.{0,2}/)[\w./-]*", text, re.ASCII) and text.lower() not in UNCLEAR
    return text if plain else quoted(text)


def quoted(name: str) -> str:
    """Quote a name for an override: Hydra takes a backslash for itself but where it stands before a quotation mark.

    Args:
        name: Any text, such as a folder's name.

    Returns:
        The same in quotation marks.
    """
    return "'" + re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), name) + "'"


def parses(override: str) -> bool:
    """Whether Hydra's parser takes an override."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(override)
    except (HydraException, ValueError, TypeError, AttributeError, RecursionError):
        return False
    return True


def list_options(*roots: Path) -> dict[str, list[str]]:
    """List the groups of configuration files and what each offers.

    Args:
        roots: Folders that hold them; may be missing.

    Returns:
        Options by group, as in "dataset", sorted; without those of Hydra's own groups.
    """
    found: dict[str, set[str]] = {}
    for root in roots:
        for file in root.glob("*/**/*.yaml"):
            found.setdefault(file.parent.relative_to(root).as_posix(), set()).add(file.stem)
    return {group: sorted(found[group]) for group in sorted(found) if not group.startswith("hydra")}
