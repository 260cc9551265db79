"""Counts what the tests here have tried, and says so at the end of `make fuzz`."""

import os

import fuzz_kit
import numpy as np
import pytest


@pytest.fixture
def generator(request) -> np.random.Generator:
    """The same numbers for the same test, another stream for each; DMDD_FUZZ_SEED gives others."""
    seed = int(os.environ.get("DMDD_FUZZ_SEED", "0"))
    return np.random.default_rng([seed, *request.node.nodeid.encode()])


def pytest_terminal_summary(terminalreporter):
    if not fuzz_kit.MULTIPLIER or not fuzz_kit.tried:
        return
    terminalreporter.section("what was tried")
    for kind in sorted({kind for kind, _ in fuzz_kit.tried}):
        outcomes = {outcome: number for (k, outcome), number in sorted(fuzz_kit.tried.items()) if k == kind}
        shown = ", ".join(f"{number} {outcome}" for outcome, number in outcomes.items())
        terminalreporter.line(f"{kind:<28} {sum(outcomes.values()):>7}  ({shown})")
    terminalreporter.line(f"{'all':<28} {sum(fuzz_kit.tried.values()):>7}")
