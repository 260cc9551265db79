"""What can go wrong in the middle of a run: one line says what, and nothing that was good is lost."""

import ast
import errno
import json
import math
import multiprocessing
import re
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Trainer
from PIL import Image

from dmdd.core import failures, files
from dmdd.core.errors import UserError
from dmdd.data.__main__ import main as data_main
from dmdd.experiment import outputs
from dmdd.experiment.experiment import Experiment
from dmdd.pairs.window import as_float
from dmdd.train import main
from dmdd.training import distillation, segmentation
from dmdd.training.callbacks.divergence import LossGuard
from processes import run_command
from reference.wandb_log import read_records
from tiny import save_tiny_model

BATCH = 4
STEPS = {"distillation": 6, "segmentation": 4}


@pytest.fixture
def arguments(tmp_path, demo_root, monkeypatch) -> list[str]:
    """A run of seconds in a working folder of its own; its run folder is ``runs/demo/plate/one`` there."""
    monkeypatch.chdir(tmp_path)
    return [
        "dataset=demo",
        "category=plate",
        f"data_dir={demo_root}",
        "teacher=resnet18",
        "teacher.random_weights=true",
        "recipe=smoke",
        "image_size=[64,64]",
        "name=one",
        "trainer.accelerator=cpu",
        "evaluation.pictures=0",
        "evaluation.resamples=0",
        "evaluation.study_maps=false",
        "save_state_every_n_steps=2",
    ]


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "runs/demo/plate/one"


def one_error(capsys) -> str:
    """The only line of stderr that is no progress and no warning, without its beginning."""
    said = capsys.readouterr().err.splitlines()
    lines = [line for line in said if "steps/s" not in line and not line.startswith("warning: ")]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


def finite(state: dict) -> bool:
    return all(bool(v.isfinite().all()) for v in state["state_dict"].values() if v.is_floating_point())


class Poison:
    """A loss function that gives another value from its n-th call on, and remembers the pairs it was given."""

    def __init__(self, monkeypatch, module, name: str, *, call: int, value: float, gradient_only: bool = False) -> None:
        self.calls, self.call, self.value, self.gradient_only = 0, call, value, gradient_only
        self.real = getattr(module, name)
        monkeypatch.setattr(module, name, self)

    def __call__(self, *arguments, **settings):
        self.calls += 1
        loss = self.real(*arguments, **settings)
        if self.calls < self.call:
            return loss
        if self.gradient_only:
            loss.register_hook(lambda gradient: gradient * self.value)
            return loss
        return loss * self.value


@pytest.mark.parametrize(
    ("stage", "module", "name", "step", "saved", "value"),
    [
        ("distillation", distillation, "normality_guidance_loss", 3, 2, math.inf),
        ("distillation", distillation, "normality_guidance_loss", 6, 4, math.nan),  # the last: its state says finished
        ("segmentation", segmentation, "segmentation_loss", 1, None, math.nan),
    ],
)
def test_a_loss_that_is_no_number_ends_the_run_and_spoils_no_state(
    arguments, folder, monkeypatch, capsys, stage, module, name, step, saved, value
):
    Poison(monkeypatch, module, name, call=step, value=value)
    assert main(arguments) == 2
    error = one_error(capsys)
    assert error.startswith(f"{stage}: the loss is no finite number in step {step} of {STEPS[stage]}, on the pairs of")
    assert ("The state saved before is kept." if saved else "Nothing was saved yet.") in error
    file = folder / f"state/{stage}.ckpt"
    if saved:
        state = torch.load(file, weights_only=True)
        assert state["global_step"] == saved
        assert finite(state)
    else:
        assert not file.exists()
    assert not list(folder.rglob("*.partial"))
    assert not (folder / "result.json").exists()
    assert not (folder / "model").exists()


def test_weights_that_are_no_numbers_are_not_saved_though_the_loss_still_was_one(
    arguments, folder, monkeypatch, capsys
):
    Poison(monkeypatch, distillation, "normality_guidance_loss", call=4, value=math.nan, gradient_only=True)
    assert main(arguments) == 2
    assert one_error(capsys).startswith("distillation: the weights are no finite numbers after step 4 of 6")
    state = torch.load(folder / "state/distillation.ckpt", weights_only=True)
    assert state["global_step"] == 2
    assert finite(state)


class Devices:
    """Two devices in the middle of a fit, as far as the guard looks."""

    world_size, max_steps, log_every_n_steps, global_step = 2, 20, 5, 0


def test_several_devices_are_asked_where_losses_are_logged_and_the_first_bad_step_is_named(monkeypatch, tmp_path):
    asked = []
    # The other device has met one in step 3 of which this one knows nothing.
    monkeypatch.setattr(
        "torch.distributed.all_reduce", lambda note, op: asked.append(trainer.global_step) or note.clamp_(max=3)
    )
    guard = LossGuard("distillation", images_of_step=lambda step: [step, 9], file=tmp_path / "none")
    trainer, module = Devices(), torch.nn.Identity()
    module.device = torch.device("cpu")
    guard.on_train_start(trainer, module)

    def train() -> None:
        for trainer.global_step in range(1, 20):
            loss = torch.tensor(math.nan if trainer.global_step == 4 else 1.0)
            guard.on_train_batch_end(trainer, module, {"loss": loss}, None, 0)

    with pytest.raises(UserError, match="in step 3 of 20, on the pairs of training images 3, 9;"):
        train()
    assert asked == [5]


@pytest.mark.parametrize(
    ("stage", "step", "augmentation"),
    [("distillation", 3, "none"), ("segmentation", 2, "none"), ("segmentation", 2, "jitter")],
)
def test_the_pairs_of_the_bad_step_are_drawn_again(
    arguments, monkeypatch, capsys, tmp_path, demo_category, stage, step, augmentation
):
    arguments = [*arguments, f"augmentation={augmentation}"]
    module = {"distillation": distillation.DistillationModule, "segmentation": segmentation.SegmentationModule}[stage]
    seen, real = [], module.training_step

    def training_step(self, batch, batch_idx):
        seen.append(batch)
        return real(self, batch, batch_idx) * (math.nan if len(seen) == step else 1)

    monkeypatch.setattr(module, "training_step", training_step)
    assert main(arguments) == 2
    error, batch = one_error(capsys), seen[step - 1]
    assert f"on the pairs of training images {', '.join(map(str, batch.indices))};" in error
    command = ["preview", *arguments, f"stage={stage}", f"step={step}", f"columns={BATCH}", "output=pairs.png"]
    assert f"stage={stage} step={step} draws these pairs" in error
    assert data_main(command) == 0
    printed = capsys.readouterr().out.splitlines()
    with Image.open(tmp_path / "pairs.png") as picture:
        sheet = np.array(picture)
    assert sheet.shape == (3 * 64, BATCH * 64, 3)
    normal = as_float(batch.normal)
    for place in range(BATCH):
        tile = sheet[:, place * 64 : (place + 1) * 64]
        expected = torch.cat([part.permute(1, 2, 0) for part in (normal[place], batch.anomalous[place])])
        assert np.array_equal(tile[:128], (expected * 255).round().to(torch.uint8).numpy())
        assert np.array_equal(tile[128:, :, 0] == 255, batch.mask[place, 0].numpy() == 1)  # the part is grey
        file = Path(printed[place].removeprefix(f"pair {place}: "))
        with Image.open(file) as picture:
            difference = np.abs(np.array(picture.resize((64, 64))).mean() - tile[:64].mean())
        assert difference < 1 or augmentation == "jitter"  # that image, resized
        assert file in [sample.path for sample in demo_category.train]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["step=7"], "step=7: distillation has 6 steps"),
        (["step=5", "stage=segmentation"], "step=5: segmentation has 4 steps"),
        (["step=0"], "step=0: give a positive whole number"),
        (["step=1", "stage=three"], "stage=three: choose one of distillation, segmentation"),
    ],
)
def test_a_step_that_is_none(arguments, capsys, tmp_path, given, message):
    assert data_main(["preview", *arguments, *given]) == 2
    assert one_error(capsys) == message
    assert not list(tmp_path.iterdir())


def allocate(*arguments, **settings) -> torch.Tensor:
    return torch.empty(10**15)  # four petabytes: what torch really says on a processor


def raise_cuda(*arguments, **settings) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB.")


def raise_numpy(*arguments, **settings) -> None:
    np.empty(10**15)


@pytest.mark.parametrize(
    ("place", "name", "fault", "begin", "less"),
    [
        ("dmdd.data.datamodule", "open_images", raise_numpy, "decoding the training images", "image_size="),
        (
            "dmdd.training.distillation",
            "normality_guidance_loss",
            raise_cuda,
            "distillation",
            "batch_size= or image_size=",
        ),
        ("dmdd.training.segmentation", "segmentation_loss", allocate, "segmentation", "batch_size= or image_size="),
        (
            "dmdd.training.evaluation.EvaluationModule",
            "validation_step",
            raise_cuda,
            "calibration",
            "data.evaluation_batch_size= or image_size=",
        ),
        (
            "dmdd.training.evaluation.EvaluationModule",
            "test_step",
            raise_numpy,
            "the test",
            "data.evaluation_batch_size= or image_size=",
        ),
    ],
)
def test_too_little_memory_names_what_to_set(arguments, folder, monkeypatch, capsys, place, name, fault, begin, less):
    monkeypatch.setattr(f"{place}.{name}", fault)
    assert main(arguments) == 2
    error = one_error(capsys)
    assert error.startswith(f"{begin}: memory does not suffice for ")
    assert "image_size=[64,64]" in error
    assert error.endswith(f"; give a smaller {less}")
    assert f"batch_size={BATCH}" in error or "batch" not in less or "data.evaluation_batch_size=16" in error
    assert not (folder / "result.json").exists()
    assert (folder / "state/distillation.ckpt").exists() is (
        begin not in ("decoding the training images", "distillation")
    )


def test_evaluate_with_too_little_memory(tmp_path, demo_root, monkeypatch, capsys):
    from dmdd.evaluate import main as evaluate

    monkeypatch.chdir(tmp_path)
    model = save_tiny_model(tmp_path / "model")
    monkeypatch.setattr("dmdd.training.evaluation.EvaluationModule.test_step", raise_cuda)
    given = [f"model={model}", "dataset=demo", "category=plate", f"data_dir={demo_root}", "accelerator=cpu"]
    assert evaluate([*given, "batch_size=8"]) == 2
    assert one_error(capsys) == (
        "the test: memory does not suffice for batch_size=8 (CUDA out of memory); give a smaller batch_size="
    )
    assert not list(tmp_path.glob("runs/**/*.json"))


def test_other_errors_are_no_lack_of_memory():
    for error in (RuntimeError("size mismatch"), ValueError("out of memory"), OSError(28, "No space left on device")):
        assert not failures.is_out_of_memory(error)
        with pytest.raises(type(error)) as raised, failures.report_errors("x", sizes={}):
            raise error
        assert raised.value is error


@contextmanager
def full_disk(limit: int) -> Iterator[Callable[[], None]]:
    """Give what makes the operating system refuse every file of more bytes than the limit, until the block ends."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def before(monkeypatch, owner, name: str, act: Callable[[], object], *, call: int = 1) -> None:
    """Act before the n-th call of a method."""
    real, calls = getattr(owner, name), []

    def wrapped(*arguments, **settings):
        calls.append(None)
        if len(calls) == call:
            act()
        return real(*arguments, **settings)

    monkeypatch.setattr(owner, name, wrapped)


@pytest.mark.parametrize(
    ("owner", "name", "call", "limit", "what"),
    [
        (distillation.DistillationModule, "training_step", 3, 50_000, "the training state could not be written to"),
        (Experiment, "save_model", 1, 500_000, "File too large"),  # less than the weights take
        (Experiment, "write", 1, 100, "one cannot be written: File too large; when there is room"),
        (outputs, "write_result", 1, 100, "one cannot be written: File too large; when there is room"),
    ],
)
def test_a_disk_that_fills_up_costs_nothing_that_was_saved(
    arguments, folder, monkeypatch, capsys, owner, name, call, limit, what
):
    with full_disk(limit) as fill, monkeypatch.context() as patch:
        before(patch, owner, name, fill, call=call)
        assert main(arguments) == 2
    error = one_error(capsys)
    assert what in error
    assert "resume=true" in error
    assert not list(folder.rglob("*.partial"))
    assert not (folder / "result.json").exists()
    state = torch.load(folder / "state/distillation.ckpt", weights_only=True)
    assert state["global_step"] == (2 if owner is distillation.DistillationModule else 6)
    assert main([*arguments, "resume=true"]) == 0
    assert (folder / "result.json").is_file()
    assert not list(folder.rglob("*.partial"))


def test_a_run_folder_that_becomes_unwritable(arguments, folder, monkeypatch, capsys):
    def spoil() -> None:
        (folder / "model").write_text("a file where a folder is wanted")

    before(monkeypatch, Experiment, "save_model", spoil)
    assert main(arguments) == 2
    assert one_error(capsys).startswith(
        f"{folder / 'model'} cannot be written: File exists; when there is room, the same"
    )
    (folder / "model").unlink()
    assert main([*arguments, "resume=true"]) == 0


def test_a_run_folder_that_disappears(arguments, folder, monkeypatch, capsys):
    def spoil() -> None:
        shutil.rmtree(folder)
        folder.write_text("a file where a folder is wanted")

    before(monkeypatch, distillation.DistillationModule, "training_step", spoil, call=3)
    assert main(arguments) == 2
    error = one_error(capsys)
    assert error.startswith(f"the training state could not be written to {folder / 'state'} (")
    assert "nothing was saved yet" in error


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_run_folder_that_cannot_be_made(arguments, tmp_path, capsys, command):
    from dmdd.evaluate import main as evaluate

    (tmp_path / "file").write_text("")
    place = f"hydra.run.dir={tmp_path}/file/run"
    given = [a for a in arguments if a.startswith(("dataset", "category", "data_dir"))]
    code = main([*arguments, place]) if command == "train" else evaluate([*given, "model=x", place])
    assert code == 2
    assert re.match(rf"{tmp_path}/file/run cannot be written( to)?: Not a directory", one_error(capsys))


def test_an_atomic_write_keeps_the_old_file(tmp_path):
    files.write_atomically(tmp_path / "a.json", "old")
    with full_disk(1000) as fill:
        fill()
        with pytest.raises(OSError, match="File too large"):
            files.write_atomically(tmp_path / "a.json", "new" * 1000)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.json", "old")]


def test_what_is_no_matter_of_files_is_not_called_so(tmp_path):
    assert failures.describe_write_error(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")) is None
    with pytest.raises(TimeoutError), failures.report_write_errors(tmp_path):
        raise TimeoutError
    wanted = f"{tmp_path} cannot be written: Read-only file system; when there is room, the same"
    with pytest.raises(UserError, match=wanted), failures.report_write_errors(tmp_path):
        raise OSError(errno.EROFS, "Read-only file system")


@pytest.fixture
def own_data(tmp_path_factory, demo_root) -> Path:
    """A copy of the data, to be spoilt."""
    return shutil.copytree(demo_root, tmp_path_factory.mktemp("own") / "data")


def test_a_test_image_that_disappears_while_training_is_named(arguments, folder, monkeypatch, capsys, own_data):
    victim = min((own_data / "demo/plate/test/scratch").iterdir())
    content = victim.read_bytes()
    given = [*arguments, f"data_dir={own_data}"]
    with monkeypatch.context() as patch:
        before(patch, distillation.DistillationModule, "training_step", victim.unlink, call=3)
        assert main(given) == 2
    assert one_error(capsys) == f"no such image file: {victim}"
    assert (folder / "model/weights.safetensors").is_file()  # trained and calibrated, only not measured
    assert not (folder / "result.json").exists()
    victim.write_bytes(content)
    # Damaged this time, and met by a worker process.
    with monkeypatch.context() as patch:
        before(patch, Experiment, "test", lambda: victim.write_bytes(content[: len(content) // 2]))
        assert main([*given, "resume=true", "data.num_workers=1"]) == 2
    assert one_error(capsys).startswith(f"cannot read image {victim}: damaged or truncated")
    victim.write_bytes(content)
    assert main([*given, "resume=true", "data.evaluation_batch_size=3"]) == 0
    assert (folder / "result.json").is_file()


def test_training_images_that_change_while_training_change_nothing(arguments, folder, monkeypatch, own_data, demo_root):
    """They are decoded once, before the first step."""

    def spoil() -> None:
        for file in (own_data / "demo/plate/train/good").iterdir():
            file.write_bytes(b"")

    weights = []
    for data_dir in (demo_root, own_data):
        with monkeypatch.context() as patch:
            if data_dir == own_data:
                before(patch, distillation.DistillationModule, "training_step", spoil, call=2)
            assert main([*arguments, f"data_dir={data_dir}"]) == 0
        weights.append((folder / "model/weights.safetensors").read_bytes())
    assert weights[0] == weights[1]


def kill_workers(*arguments, **settings) -> None:
    workers = [child for child in multiprocessing.active_children() if "DataLoader" in child.name or child.daemon]
    assert workers
    for worker in workers:
        worker.kill()
    time.sleep(0.5)  # torch raises from its signal handler, here in whatever is being done


@pytest.mark.parametrize(
    ("owner", "name"), [(distillation.DistillationModule, "training_step"), (Trainer, "save_checkpoint")]
)
def test_a_worker_process_that_dies_is_one_line_and_the_run_goes_on_without_workers(
    arguments, folder, monkeypatch, capsys, owner, name
):
    with monkeypatch.context() as patch:
        # torch installs its handler once in a process; Lightning takes it away at the end of a fit.
        patch.setattr(torch.utils.data._utils.signal_handling, "_SIGCHLD_handler_set", False)
        before(patch, owner, name, kill_workers, call=3)
        assert main([*arguments, "data.num_workers=1", "distillation.steps=40", "save_state_every_n_steps=1"]) == 2
    error = one_error(capsys)
    assert error.startswith("distillation: DataLoader worker (pid")  # torch has two ways to notice it
    assert error.endswith("; data.num_workers=0 needs no workers")
    assert torch.load(folder / "state/distillation.ckpt", weights_only=True)["global_step"] in range(2, 12)
    assert main([*arguments, "distillation.steps=40", "resume=true"]) == 0


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        # Port 9 of this machine: nobody listens.
        ({"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40, "WANDB_INIT_TIMEOUT": "3"}, "refused"),
        ({"WANDB_API_KEY": "", "NETRC": "none"}, "No API key configured"),
    ],
)
def test_without_a_connection_the_dashboard_goes_offline_and_the_run_goes_on(
    arguments, folder, tmp_path, variables, reason
):
    online = {"WANDB_MODE": "online", "HOME": str(tmp_path)}  # whatever the tests run under
    done = run_command("train", *arguments, "logger=wandb", cwd=tmp_path, **online, **variables)
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: ") and "wandb" in line]
    assert len(warnings) == 1
    assert reason in warnings[0]
    assert warnings[0].endswith("this run is logged offline, wandb sync sends it later")
    assert "Traceback" not in done.stderr
    logs = list((folder / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(logs) == 1
    history = [r.history for r in read_records(logs[0]) if r.WhichOneof("record_type") == "history"]
    logged = {item.key or item.nested_key[0] for record in history for item in record.item}
    assert {"distillation/loss", "segmentation/loss"} <= logged
    assert (folder / "result.json").is_file()


def test_a_dashboard_that_fails_at_the_end_costs_no_result(arguments, folder, monkeypatch, capsys):
    def fail(*arguments: object) -> None:
        raise ConnectionError("the line is dead")

    monkeypatch.setattr("dmdd.experiment.loggers._to_tensorboard", fail)
    assert main([*arguments, "logger=tensorboard"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert "warning: TensorBoardLogger did not take the result: ConnectionError the line is dead" in said
    assert (folder / "result.json").is_file()


def test_a_clock_that_jumps_changes_no_duration(arguments, folder, monkeypatch, capsys):
    real, calls = time.time, []

    def jumping() -> float:
        calls.append(None)
        return real() + 86_400 * (-1) ** len(calls)  # a day ahead, a day back

    monkeypatch.setattr("time.time", jumping)
    began = time.monotonic()
    assert main([*arguments, "logger=tensorboard"]) == 0  # which stamps its events with that clock
    took = time.monotonic() - began
    assert calls
    seconds = json.loads((folder / "result.json").read_text())["wall_time_s"]
    assert set(seconds) == {"distillation", "segmentation", "evaluation", "total"}
    assert all(0 <= value <= took for value in seconds.values())
    for line in capsys.readouterr().err.splitlines():
        if "left " in line:
            minutes = int(line.partition("left ")[2].partition(":")[0])
            assert 0 <= minutes < 10, line


def test_no_duration_is_measured_with_the_clock_on_the_wall():
    """Wall time may be read for what people read, as dates are; ``time.time`` tempts to subtract."""
    sources = list(Path(failures.__file__).parents[1].rglob("*.py"))
    assert len(sources) > 100
    for file in sources:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            wall = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "time"
            assert not (wall and node.attr in ("time", "time_ns")), f"{file}:{node.lineno}"
            taken = isinstance(node, ast.ImportFrom) and node.module == "time"
            assert not taken or not {"time", "time_ns"} & {alias.name for alias in node.names}, file
