"""A sweep over lists, with the categories of a data set filled in and one account of what failed.

Lies in ``hydra_plugins`` because Hydra takes sweepers from there only.
"""

import fnmatch
import io
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

ALL_EACH = "all_each"
WILDCARDS = "*?["


class CategorySweeper(Sweeper):
    """Sweep over lists as Hydra does; ``category=all_each`` or a pattern becomes one member a category found.

    Found per member, so ``dataset=mvtec_ad,mpdd category=all_each`` trains each data set's own categories.

    Args:
        max_batch_size: How many members the launcher gets at once; None for all.
        params: Lists to sweep over by name, before those of the command line.
    """

    def __init__(self, max_batch_size: int | None = None, params: Mapping[str, str] | None = None) -> None:
        self.max_batch_size = max_batch_size
        self.params = dict(params or {})
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives a sweeper before its sweep.

        Args:
            hydra_context: With the loader of configurations.
            task_function: The job.
            config: Of the whole sweep.
        """
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run the sweep to its end, whatever its members meet.

        Args:
            arguments: Overrides.

        Returns:
            The members' returns, in order.

        Raises:
            UserError: Members failed, after all have run; or no category matches, before any has.
        """
        from dmdd.config.sweep import SweepFailed
        from dmdd.core.errors import UserError

        members = self._members(arguments)
        os.environ["DMDD_SWEEP_SIZE"] = str(len(members))
        os.environ["DMDD_SWEEP_GPUS"] = os.environ.get(
            "CUDA_VISIBLE_DEVICES", "all"
        )  # see dmdd.experiment.locking.claim_gpu
        size = self.max_batch_size or len(members)
        returns: list[JobReturn] = []
        assert self.launcher is not None
        for start in range(0, len(members), size):
            batch = members[start : start + size]
            self.validate_batch_is_legal(batch)
            returns += self.launcher.launch(batch, initial_job_idx=start)
        common = set(members[0]).intersection(*members) if len(members) > 1 else set()
        failed = [
            f"{' '.join(text for text in overrides if text not in common)}: {_reason(job)}"
            for overrides, job in zip(members, returns, strict=True)
            if job.status != JobStatus.COMPLETED
        ]
        print_table([str(job.return_value) for job in returns if job.status == JobStatus.COMPLETED])
        if failed:
            defects = any(not isinstance(_error(job), UserError) for job in returns if job.status == JobStatus.FAILED)
            raise SweepFailed(f"{len(failed)} of {len(members)} runs failed: {'; '.join(failed)}", defects=defects)
        return returns

    def _members(self, arguments: list[str]) -> list[list[str]]:
        """Spell out the members' overrides."""
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        given = [f"{name}={values}" for name, values in self.params.items()]
        plain = _combinations(parser.parse_overrides([*given, *arguments]))
        parsed = {text: parser.parse_override(text) for member in plain for text in member}
        known: dict[tuple[str, ...], list[str]] = {}
        return [part for member in plain for part in self._expand(member, parsed, known)]

    def _expand(
        self, member: Sequence[str], parsed: dict[str, Override], known: dict[tuple[str, ...], list[str]]
    ) -> list[list[str]]:
        from dmdd.config.overrides import quoted
        from dmdd.core.errors import UserError

        index = next((i for i, text in enumerate(member) if parsed[text].key_or_group == "category"), None)
        wanted = None if index is None else str(parsed[member[index]].value())
        if index is None or wanted is None or (wanted != ALL_EACH and not any(sign in wanted for sign in WILDCARDS)):
            return [list(member)]
        rest = (*member[:index], *member[index + 1 :])
        # Whatever can say where the categories lie: an added group, such as an experiment, may choose the data set.
        where = tuple(
            text
            for text in rest
            if parsed[text].is_add() or str(parsed[text].key_or_group).split(".")[0] in ("dataset", "data_dir")
        )
        if where not in known:
            known[where] = self._categories(list(rest))  # all of it: what is added may need a group that is chosen
        names = [name for name in known[where] if wanted == ALL_EACH or fnmatch.fnmatchcase(name, wanted)]
        if not names:
            raise UserError(f"no category matches {wanted!r}: there are {', '.join(known[where])}")
        return [[*member[:index], f"category={quoted(name)}", *member[index + 1 :]] for name in names]

    def _categories(self, overrides: list[str]) -> list[str]:
        from dmdd.data.layouts import category_names

        assert self.hydra_context is not None
        assert self.config is not None
        config = self.hydra_context.config_loader.load_sweep_config(self.config, [*overrides, "category=x"])
        return category_names({name: str(value) for name, value in config.dataset.layout.items()})


def _combinations(given: Sequence[Override]) -> list[list[str]]:
    """Give each member's overrides: every combination of the values that are swept over.

    Args:
        given: All overrides.

    Returns:
        Overrides by member.

    Raises:
        UserError: A range without steps is given, which only a search can draw from.
    """
    from dmdd.core.errors import UserError

    values: dict[str, list[str]] = {}
    for override in given:
        name = override.get_key_element()
        if not override.is_sweep_override():
            values[name] = [f"{name}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            values[name] = [f"{name}={value}" for value in override.sweep_string_iterator()]
        else:
            raise UserError(f"{override.input_line}: give values, as in {name}=1,2,3; hydra/sweeper=optuna searches")
    return [list(member) for member in itertools.product(*values.values())]


def _error(job: JobReturn) -> BaseException:
    """Give what a failed member met; Hydra raises it, and prints a line that says less than ours."""
    try:
        with redirect_stderr(io.StringIO()):
            job.return_value  # noqa: B018
    except Exception as error:
        return error
    return AssertionError("not failed")


def _reason(job: JobReturn) -> str:
    """Say on one line why a member failed; of a defect the kind and its last line, the traceback was printed."""
    from dmdd.core.errors import UserError

    error = _error(job)
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    return " ".join([f"{type(error).__name__}:", *str(error).strip().splitlines()[-1:]])


def print_table(folders: list[str]) -> None:
    """Print one table over the results of a sweep.

    Args:
        folders: Run folders; one without a result is left out.
    """
    from rich.console import Console

    from dmdd.report import summary_table

    results: list[dict[str, Any]] = []
    for folder in folders:
        try:
            results.append(json.loads((Path(folder) / "result.json").read_text(encoding="utf-8")))
        except (OSError, ValueError):
            continue
    if results:
        Console().print(summary_table(results))
