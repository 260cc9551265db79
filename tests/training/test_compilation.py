"""``compile=true``: whole steps are compiled, compute what they did, and leave no trace in what is saved."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
from lightning import LightningModule, seed_everything
from test_stages import data, pytestmark, quiet_trainer

from dmdd.core.errors import UserError
from dmdd.core.failures import report_errors
from dmdd.models.segmentation import SegmentationNetwork
from dmdd.models.student import Student
from dmdd.models.teacher import Teacher
from dmdd.models.whitening import ResidualWhitening
from dmdd.train import main
from dmdd.training import compilation
from dmdd.training.distillation import DistillationModule
from dmdd.training.segmentation import SegmentationModule

__all__ = ["data", "pytestmark"]
Graphs = list[torch.fx.GraphModule]


@pytest.fixture
def graphs(monkeypatch) -> Iterator[Graphs]:
    """Count the graphs that a step is compiled to, which run as they were traced."""
    found: Graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        found.append(graph)
        return graph.forward

    monkeypatch.setattr(compilation, "BACKEND", backend)
    yield found
    torch.compiler.reset()


def fit_both(data: Any, graphs: Graphs, *, compiled: bool) -> tuple[list[dict[str, torch.Tensor]], list[int]]:
    """Train both stages; gives the weights of each, and how many graphs there were after it."""
    seed_everything(0, verbose=False)
    teacher = Teacher(backbone="resnet10t")
    student = Student(channels=teacher.channels, widths=(4, 6, 8))
    segmentation = SegmentationNetwork(channels=teacher.channels, width=4)
    stages: list[LightningModule] = [
        DistillationModule(teacher=teacher, student=student, steps=3, compiled=compiled),
        SegmentationModule(
            teacher=teacher,
            student=student,
            segmentation=segmentation,
            whitening=ResidualWhitening(teacher.channels),
            steps=3,
            compiled=compiled,
        ),
    ]
    counts = []
    for stage in stages:
        quiet_trainer(3).fit(stage, datamodule=data)
        counts.append(len(graphs))
    return [deepcopy(stage.state_dict()) for stage in stages], counts


def test_both_stages_are_whole_graphs_that_compute_the_same(data, graphs):
    """A graph break would raise, and make two graphs of one; so would shapes that differ between steps."""
    expected, none = fit_both(data, graphs, compiled=False)
    found, counts = fit_both(data, graphs, compiled=True)
    assert none == [0, 0]
    assert counts == [2, 3]  # the teacher, whose features may be remembered; student and losses; all of stage 2
    for one, other in zip(expected, found, strict=True):
        assert one.keys() == other.keys()  # no _orig_mod
        assert all(torch.equal(one[name], other[name]) for name in one)


def break_the_graph(values: torch.Tensor) -> torch.Tensor:
    return values + 1 if values.sum() > 0 else values


def compiler_missing(graph: Any, inputs: Any) -> Any:
    raise RuntimeError("No working C++ compiler found. Further advice")


@pytest.mark.parametrize(
    ("function", "backend", "message"),
    [
        (torch.sin, compiler_missing, r"BackendCompilerFailed: .*compiler_missing' raised:.*No working C\+\+ compiler"),
        (break_the_graph, "eager", r"Unsupported: Data-dependent branching"),
    ],
)
def test_what_cannot_be_compiled_is_told_in_one_line(monkeypatch, function, backend, message):
    monkeypatch.setattr(compilation, "BACKEND", backend)
    run = compilation.compile_function(function, torch.device("cpu"))
    line = rf"^stage: torch.compile failed \({message}.*\); give compile=false$"  # . is no line's end
    with pytest.raises(UserError, match=line), report_errors("stage", sizes={}):
        run(torch.ones(2))


def test_the_setting_reaches_both_stages(demo_root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compilation, "BACKEND", compiler_missing)
    asked = ["dataset=demo", "category=plate", f"data_dir={demo_root}", "recipe=smoke", "teacher=resnet18"]
    asked += ["teacher.random_weights=true", "image_size=[64,64]", "trainer.accelerator=cpu", "evaluation.pictures=0"]
    assert main([*asked, "compile=true", f"run_dir={tmp_path / 'run'}"]) == 2
    assert "error: distillation: torch.compile failed (BackendCompilerFailed: " in capsys.readouterr().err
