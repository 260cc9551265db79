"""A run that is killed goes on as if nothing had happened: in every phase, by every signal, to the same bits."""

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from dmdd.config.check import plain_of
from dmdd.config.compose import moved
from dmdd.config.schema import TrainSettings
from dmdd.core.errors import Interrupted, UserError
from dmdd.experiment import launch, locking, resume
from dmdd.experiment.leaving import no_empty_folder
from dmdd.training.callbacks import interruption
from dmdd.training.callbacks.interruption import StateSaver
from dmdd.training.segmentation import SegmentationModule
from patience import PATIENCE_S
from processes import Command

STEPS = {"distillation": 9, "segmentation": 6}
ARGUMENTS = [
    "dataset=demo",
    "category=plate",
    "teacher=resnet18",
    "teacher.random_weights=true",
    "recipe=smoke",
    "image_size=[64,64]",
    "evaluation.pictures=0",
    "evaluation.resamples=0",
    "evaluation.study_maps=false",
    "callbacks.progress.every_n_steps=1",
    "trainer.log_every_n_steps=1",
    "save_state_every_n_steps=2",
    *(f"{name}.steps={steps}".replace("segmentation.", "segmentation_training.") for name, steps in STEPS.items()),
]


def start(*arguments: str, cwd: Path, stop: tuple[str, int] | None = None) -> Command:
    return Command("train", [*ARGUMENTS, *arguments], cwd=cwd, variables={}, stop=stop)


def finish(process: Command, *told: str) -> str:
    printed, errors = process.communicate(timeout=PATIENCE_S)
    assert all(line in printed.splitlines() for line in told), printed
    assert process.returncode == 0, errors
    return errors


def stopped_at(line: str, number: int, *arguments: str, cwd: Path) -> tuple[int, str]:
    """Run until a line of progress begins so and a signal comes; gives the exit code and what was printed."""
    process = start(*arguments, cwd=cwd, stop=(line, number))
    _, printed = process.communicate(timeout=PATIENCE_S)
    return process.returncode, printed


def stop_at(process: Command | subprocess.Popen, line: str, number: int) -> tuple[int, str]:
    """Send a signal when a line of progress begins so; gives the exit code and what was printed."""
    guard = threading.Timer(PATIENCE_S, process.kill)
    guard.start()
    printed = ""
    for printed_line in process.stderr:
        printed += printed_line
        if printed_line.startswith(line):
            process.send_signal(number)
            break
    printed += process.stderr.read()
    code = process.wait(timeout=PATIENCE_S)
    guard.cancel()
    process.stdout.close()
    process.stderr.close()
    return code, printed


def outcome(folder: Path) -> dict:
    result = json.loads((folder / "result.json").read_text())
    weights = hashlib.sha256((folder / "model/weights.safetensors").read_bytes()).hexdigest()
    kept = {name: result[name] for name in ("test", "synthetic_validation", "calibration", "images")}
    return kept | {"weights": weights, "log": (folder / "metrics.csv").read_text()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, demo_root) -> dict:
    """What an uninterrupted run comes to."""
    cwd = tmp_path_factory.mktemp("whole")
    finish(start(f"data_dir={demo_root}", "name=whole", cwd=cwd))
    folder = cwd / "runs/demo/plate/whole"
    assert not (folder / "state").exists()
    return outcome(folder)


def test_killed_in_every_phase_it_comes_to_the_same_bits(tmp_path, demo_root, whole):
    arguments = [f"data_dir={demo_root}", "resume=true"]
    chance = random.Random(7)
    for stage, steps in STEPS.items():
        line = f"{stage} {chance.randrange(2, steps)}/{steps}"
        code, printed = stopped_at(line, signal.SIGKILL, *arguments, cwd=tmp_path)
        assert code == -signal.SIGKILL, printed
    code, printed = stopped_at("calibration", signal.SIGKILL, *arguments, cwd=tmp_path)
    assert code == -signal.SIGKILL, printed
    assert "distillation" not in printed  # that stage was done and is loaded
    folders = list((tmp_path / "runs/demo/plate").iterdir())
    assert len(folders) == 1  # found by its settings, though each command had a time of its own
    assert not (folders[0] / "result.json").exists()
    told = (f"resuming {folders[0]}", "distillation was done", "segmentation was done")
    finish(start(*arguments, cwd=tmp_path), *told)
    assert outcome(folders[0]) == whole
    assert json.loads((folders[0] / "result.json").read_text())["resumed"] is True
    # Finished: the same command does nothing more.
    before = (folders[0] / "result.json").stat().st_mtime_ns
    assert finish(start(*arguments, cwd=tmp_path)) == ""
    assert (folders[0] / "result.json").stat().st_mtime_ns == before
    assert list((tmp_path / "runs/demo/plate").iterdir()) == folders


def test_a_run_whose_images_have_changed_is_not_gone_on_with(tmp_path, demo_root):
    shutil.copytree(demo_root / "demo/plate", tmp_path / "data/demo/plate")
    good = tmp_path / "data/demo/plate/train/good"
    arguments = [f"data_dir={tmp_path / 'data'}", "resume=true"]
    code, printed = stopped_at("segmentation 3/", signal.SIGTERM, *arguments, cwd=tmp_path)
    assert code == 128 + signal.SIGTERM, printed
    added = good / "000 new.png"
    shutil.copy(sorted(good.iterdir())[3], added)
    refused = start(*arguments, cwd=tmp_path)
    _, errors = refused.communicate(timeout=PATIENCE_S)
    assert refused.returncode == 2
    assert "error: the training images are not those that the saved state" in errors
    added.unlink()
    finish(start(*arguments, cwd=tmp_path))
    shutil.copy(sorted(good.iterdir())[3], added)
    assert finish(start(*arguments, cwd=tmp_path)).startswith("warning: the images are no longer those of ")


@pytest.mark.parametrize(("number", "devices"), [(signal.SIGTERM, 1), (signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_a_signal_saves_the_state_and_says_how_to_go_on(tmp_path, demo_root, whole, number, devices):
    if (os.cpu_count() or 1) < devices:
        pytest.skip("one CPU core")
    # Not a step at which the state is saved anyway; several devices ask each other every tenth step.
    stage = "segmentation" if number == signal.SIGINT else "distillation"
    more = ["distillation.steps=4000"] if devices == 2 else []  # never reached, however late the signal comes
    arguments = [f"data_dir={demo_root}", "save_state_every_n_steps=1000", "name=one", *more]
    given = [*arguments, f"trainer.devices={devices}", "trainer.accelerator=cpu"]
    if devices == 1:
        code, printed = stopped_at(f"{stage} 3/", number, *given, cwd=tmp_path)
    else:  # the process that is told trains nothing itself
        code, printed = stop_at(start(*given, cwd=tmp_path), f"{stage} 3/", number)
    assert code == 128 + (number if devices == 1 else signal.SIGTERM), printed
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "with resume=true the same command goes on" in errors[0]
    assert "Traceback" not in printed
    folder = tmp_path / "runs/demo/plate/one"
    saved = torch.load(folder / f"state/{stage}.ckpt", weights_only=True)
    assert saved["global_step"] == 3 or (devices == 2 and saved["global_step"] % 10 == 0)
    if devices == 1:
        goes_on = f"{stage} goes on after step {saved['global_step']} of {STEPS[stage]}"
        finish(start(*arguments, "trainer.accelerator=cpu", "resume=true", cwd=tmp_path), f"resuming {folder}", goes_on)
        assert outcome(folder) == whole


def test_a_folder_in_use_or_of_another_run_is_refused(tmp_path, demo_root, monkeypatch, capsys):
    from dmdd.train import main

    monkeypatch.chdir(tmp_path)
    arguments = [*ARGUMENTS, f"data_dir={demo_root}", "name=one"]
    folder = tmp_path / "runs/demo/plate/one"
    with locking.locked(folder):
        assert main(arguments) == 2
    assert re_error(capsys) == f"error: {folder} is in use by another run; wait for it or give another name="
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("seed: 1\nname: one\n")
    assert main([*arguments, "resume=true"]) == 2
    assert "holds a run with other settings" in re_error(capsys)


def re_error(capsys) -> str:
    return next(line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"), locking.locked(tmp_path / "file/run"):
        pass


def save_settings(settings: TrainSettings, folder: Path) -> None:
    OmegaConf.save(OmegaConf.create(plain_of(settings)), folder / "config.yaml")


def test_a_run_of_version_0_1_is_found_by_its_settings(tmp_path):
    """Its file was written from Hydra's own configuration, before there was a schema."""
    (tmp_path / "old").mkdir()
    shutil.copy(Path(__file__).parents[1] / "fixtures/config_0_1.yaml", tmp_path / "old/config.yaml")
    smoke = ["dataset=demo", "category=plate", "data_dir=data", "teacher=resnet18", "teacher.random_weights=true"]
    smoke += ["recipe=smoke", "trainer.precision=32-true", "evaluation.pictures=4", f"run_dir={tmp_path}/new"]
    # The maps and the split that were the default then.
    former = [*smoke, "+experiments/ablation=fused_map", "augmentation=none", "data.held_out_runs=false"]
    file = tmp_path / "old/config.yaml"
    assert resume.find_run(TrainSettings.compose(*former)) is None  # it was jittered, by other draws than today's
    old = OmegaConf.load(file)
    old.augmentation = {"_target_": "dmdd.data.augmentation.build_augmentation", "transforms": []}  # none, then
    OmegaConf.save(old, file)
    assert resume.find_run(TrainSettings.compose(*former)) == tmp_path / "old"
    assert resume.find_run(TrainSettings.compose(*former, "seed=1")) is None
    assert resume.find_run(TrainSettings.compose(*smoke)) is None


def test_a_run_that_goes_on_elsewhere_logs_there(tmp_path):
    settings = TrainSettings.compose("recipe=smoke", category="x", run_dir=tmp_path / "new")
    there = moved(replace(settings, seed=3), tmp_path / "old", "a=b")
    assert (there.run_dir, there.name, there.seed) == (str(tmp_path / "old"), "a=b", 3)
    assert there.logger["csv"]["save_dir"] == str(tmp_path / "old")
    assert replace(there, run_dir=settings.run_dir, name=settings.name, logger=settings.logger, seed=0) == settings


def test_runs_are_told_apart_by_what_they_compute(tmp_path):
    composed = TrainSettings.compose("category=x", run_dir=tmp_path / "new")

    def config(**changes):
        return replace(composed, trainer=composed.trainer | changes.pop("trainer", {}), **changes)

    for name, seed, finished in (("a", 0, False), ("b", 1, True), ("c", 0, True), ("d", 0, False)):
        (tmp_path / name).mkdir()
        save_settings(config(seed=seed, name=name), tmp_path / name)
        (tmp_path / name / "result.json").write_text("{}" if finished else "{")
    assert resume.find_run(config()) == tmp_path / "c"
    assert resume.find_run(config(trainer={"devices": 4})) == tmp_path / "c"
    assert resume.find_run(config(trainer={"precision": "q"})) is None
    assert resume.find_run(config(seed=2)) is None
    (tmp_path / "c/result.json").unlink()
    os.utime(tmp_path / "a/config.yaml", (2e9, 2e9))
    assert resume.find_run(config()) == tmp_path / "a"
    with pytest.raises(UserError, match="other settings \\(seed=0 there, 5 here\\)"):
        resume.find_run(config(seed=5, run_dir=str(tmp_path / "a")))


@pytest.mark.parametrize(
    ("added", "same"),
    [
        ({}, True),
        ({"callbacks": {"progress": {"_target_": "dmdd.training.callbacks.progress.StageProgress"}}}, True),
        ({"callbacks": {"rate": {"_target_": "lightning.pytorch.callbacks.LearningRateMonitor"}, "none": None}}, True),
        ({"callbacks": {"average": {"_target_": "lightning.pytorch.callbacks.EMAWeightAveraging"}}}, False),
        ({"trainer": {"devices": 2, "sync_batchnorm": "auto"}}, True),
        ({"trainer": {"devices": 2, "sync_batchnorm": False}}, False),
    ],
)
def test_what_may_change_the_weights_makes_another_run(tmp_path, added, same):
    composed = TrainSettings.compose("category=x", run_dir=tmp_path / "new", callbacks={"progress": None})
    trainer = composed.trainer | {"sync_batchnorm": added.get("trainer", {}).get("sync_batchnorm")}
    before = replace(composed, trainer=trainer)
    (tmp_path / "run").mkdir()
    save_settings(before, tmp_path / "run")
    changes = {"trainer": trainer | added.get("trainer", {})}
    found = resume.find_run(replace(before, **(added | changes)))
    assert found == (tmp_path / "run" if same else None)


class Spy:
    """A trainer that fails to write."""

    is_global_zero, max_steps, world_size, loggers = True, 10, 1, ()

    def __init__(self, error: Exception) -> None:
        self.error = error

    def save_checkpoint(self, file: Path) -> None:
        file.write_text("half")
        raise self.error


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("file write failed")])
def test_a_full_disk_keeps_the_state_saved_before(tmp_path, error):
    file = tmp_path / "stage.ckpt"
    torch.save({"global_step": 3, "state_dict": {}, "seconds": 1.0}, file)
    saver = StateSaver(file, every_n_steps=1)
    with pytest.raises(UserError, match=r"could not be written.*saved before is kept.*resume=true"):
        saver.save(Spy(error))
    assert saver.read()["global_step"] == 3
    assert [p.name for p in tmp_path.iterdir()] == ["stage.ckpt"]
    file.unlink()
    with pytest.raises(UserError, match="nothing was saved yet"):
        saver.save(Spy(error))


MIDDLE = SimpleNamespace(global_step=3, max_steps=7)


class Told:
    """What a saver asks a trainer about at the end of a stage's last step."""

    global_step = max_steps = 7
    should_stop, world_size, loggers, is_global_zero = False, 1, (), True

    def save_checkpoint(self, file):
        torch.save({"global_step": self.global_step, "state_dict": {}, "seconds": 1.0}, file)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_signal_in_the_last_step_of_a_stage_is_heard(tmp_path, when):
    saver, trainer = StateSaver(tmp_path / "stage.ckpt", every_n_steps=100), Told()
    saver.signal = signal.SIGTERM if when == "before" else None
    saver.on_train_batch_end(trainer, None, None, None, 0)
    saver.signal = signal.SIGTERM
    with pytest.raises(Interrupted, match="stopped after step 7 of 7 of a stage"):
        saver.check_stopped(trainer)
    assert saver.read()["global_step"] == 7


def test_a_stage_that_nobody_stopped_is_followed_by_the_next(tmp_path):
    saver, trainer = StateSaver(tmp_path / "stage.ckpt", every_n_steps=100), Told()
    saver.on_train_batch_end(trainer, None, None, None, 0)
    saver.check_stopped(trainer)
    assert not trainer.should_stop


def test_a_state_is_saved_each_so_many_seconds(tmp_path, monkeypatch):
    now, saved = [100.0], []
    monkeypatch.setattr(interruption.time, "monotonic", lambda: now[0])
    saver, trainer = StateSaver(tmp_path / "stage.ckpt", every_s=60), Told()
    monkeypatch.setattr(saver, "save", lambda trainer: saved.append((trainer.global_step, now[0])))
    trainer.max_steps = 8
    saver.on_train_start(trainer, None)
    for trainer.global_step, took in enumerate((50, 5, 10, 59, 1, 30, 30, 1), start=1):
        now[0] += took
        saver.on_train_batch_end(trainer, None, None, None, 0)
    assert saved == [(3, 165.0), (5, 225.0), (7, 285.0), (8, 286.0)]


def test_several_devices_agree_on_the_time_every_tenth_step(tmp_path, monkeypatch):
    """Their clocks differ; one that saved alone would wait for the others for ever."""
    saved, asked = [], []

    def reduce_boolean_decision(decision, all):
        asked.append((trainer.global_step, decision))
        return (
            trainer.global_step == 20 and len(asked) == 2
        )  # another device's time is over, and it was not told to stop

    saver, trainer = StateSaver(tmp_path / "stage.ckpt", every_s=3600), Told()
    monkeypatch.setattr(saver, "save", lambda trainer: saved.append(trainer.global_step))
    trainer.world_size, trainer.max_steps = 2, 100
    trainer.strategy = SimpleNamespace(reduce_boolean_decision=reduce_boolean_decision)
    saver.on_train_start(trainer, None)
    for trainer.global_step in range(1, 31):
        saver.on_train_batch_end(trainer, None, None, None, 0)
    assert asked == [(10, False), (20, False), (20, False), (30, False)]
    assert saved == [20]
    assert not trainer.should_stop


@pytest.mark.parametrize(("every_s", "every_n_steps"), [(0, None), (True, None), ("a", None), (60, 0)])
def test_saving_never_is_refused(every_s, every_n_steps):
    name = "save_state_every_s" if every_n_steps is None else "save_state_every_n_steps"
    with pytest.raises(UserError, match=f"^{name}=.*: give a positive"):
        StateSaver(Path("never written"), every_s=every_s, every_n_steps=every_n_steps)


def test_a_state_holds_what_is_trained_and_at_the_end_its_weights_alone(tmp_path):
    module = torch.nn.ModuleDict({name: torch.nn.Linear(1, 1) for name in ("teacher", "student", "segmentation")})
    module.frozen = SegmentationModule.frozen
    saver = StateSaver(tmp_path / "s.ckpt")
    for trainer, optimizer in ((MIDDLE, ["moments"]), (Told(), [])):
        state = {"state_dict": module.state_dict(), "optimizer_states": ["moments"]}
        saver.on_save_checkpoint(trainer, module, state)
        assert list(state["state_dict"]) == ["segmentation.weight", "segmentation.bias"]
        assert state["optimizer_states"] == optimizer
    saver.restore(module, state)
    earlier = {n: v for n, v in module.state_dict().items() if not n.startswith("teacher.")}  # as version 0.1 saved it
    saver.restore(module, state | {"state_dict": earlier})


class Sneaky:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def test_a_state_that_is_damaged_or_holds_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "stage.ckpt"
    saver = StateSaver(file, every_n_steps=1)
    assert saver.read() is None
    file.write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(UserError, match="cannot be read"):
        saver.read()
    torch.save({"global_step": 1, "state_dict": {}, "seconds": 0.0, "more": Sneaky()}, file)
    with pytest.raises(UserError, match="cannot be read"):
        saver.read()
    assert not (tmp_path / "ran").exists()


def test_the_state_of_other_networks_is_refused(tmp_path):
    module = torch.nn.Linear(2, 2)
    saver = StateSaver(tmp_path / "s.ckpt", every_n_steps=1)
    with pytest.raises(UserError, match="is of other networks"):
        saver.restore(module, {"state_dict": {"weight": torch.zeros(3, 2), "bias": torch.zeros(2)}})
    saver.restore(module, {"state_dict": {"weight": torch.ones(2, 2), "bias": torch.zeros(2)}})
    assert module(torch.ones(1, 2)).tolist() == [[2, 2]]


def test_the_state_of_other_images_or_another_teacher_is_refused(tmp_path):
    module = torch.nn.Linear(2, 2)
    state = {"state_dict": module.state_dict()}
    before = {"training images": "a", "teacher weights": "b"}
    StateSaver(tmp_path / "s.ckpt", every_n_steps=1, made_from=before).on_save_checkpoint(MIDDLE, module, state)
    StateSaver(tmp_path / "s.ckpt", every_n_steps=1, made_from=before).restore(module, state)
    for name in before:
        saver = StateSaver(tmp_path / "s.ckpt", every_n_steps=1, made_from=before | {name: "c"})
        with pytest.raises(UserError, match=f"the {name} are not those that the saved state .* learnt from"):
            saver.restore(module, state)


def test_a_stage_that_went_on_in_another_precision_has_both(tmp_path):
    state = {"state_dict": {}, "global_step": 1}
    first = StateSaver(tmp_path / "s.ckpt", every_n_steps=1, precision="bf16-mixed")
    first._started = 0.0
    first.on_save_checkpoint(MIDDLE, torch.nn.Linear(1, 1), state)
    torch.save(state, tmp_path / "s.ckpt")
    second = StateSaver(tmp_path / "s.ckpt", every_n_steps=1, precision="32-true")
    second.read()
    assert second.precisions == ["bf16-mixed"]  # a finished stage trains no more
    second._started = 0.0
    assert second.precisions == ["bf16-mixed", "32-true"]


def test_a_worker_claims_one_gpu_and_waits_for_one(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    for expected in ("5", "GPU-7"):
        monkeypatch.setattr(locking, "_claimed", None)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7")
        held = locking.claim_gpu() or locking._claimed
        assert os.environ["CUDA_VISIBLE_DEVICES"] == expected
        monkeypatch.setattr(locking, f"_held_{expected.replace('-', '_')}", held, raising=False)
    monkeypatch.setattr(locking, "_claimed", None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7")
    with pytest.raises(UserError, match=r"no GPU of 5, GPU-7 became free in 0 s; start fewer members"):
        locking.claim_gpu(wait_s=0)
    locking.claim_gpu(runs_per_gpu=2, wait_s=0)  # a second place on the first
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(locking, "_claimed", None)
    locking.claim_gpu(wait_s=0)  # none to claim
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")  # which hides them from its jobs
    monkeypatch.setenv("DMDD_SWEEP_GPUS", "8,9")
    locking.claim_gpu(wait_s=0)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "8"
    monkeypatch.setattr(locking, "_claimed", None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("DMDD_SWEEP_GPUS", "all")
    monkeypatch.setattr(locking, "_gpu_names", lambda: ["0", "1"])
    locking.claim_gpu(wait_s=0)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    monkeypatch.setattr(locking, "_claimed", None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("DMDD_SWEEP_GPUS", "")  # hidden from the sweep itself
    locking.claim_gpu(wait_s=0)
    assert locking._claimed is None
    with pytest.raises(UserError, match=r"launcher.runs_per_gpu"):
        locking.claim_gpu(runs_per_gpu=0, wait_s=0)


def test_a_sweep_that_is_told_to_stop_at_once_leaves_no_folder_and_trains_no_other_member(tmp_path, demo_root):
    # Not from the warm server: torch is being imported when the signal comes.
    command = [sys.executable, "-m", "dmdd.train", *ARGUMENTS, f"data_dir={demo_root}", "-m", "seed=0,1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, **pipes)
    code, printed = stop_at(process, "sweep: 1 of 2", signal.SIGTERM)
    assert code == 128 + signal.SIGTERM, printed
    assert "Traceback" not in printed
    assert "sweep: 2 of 2" not in printed
    assert not list((tmp_path / "runs").rglob("*seed*"))


def leave_by(error: BaseException, folder: Path) -> None:
    with no_empty_folder(folder):
        raise error


def test_what_ends_before_the_work_begins_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs/demo/plate/one"
    for error, code in ((KeyboardInterrupt(), None), (UserError("no such"), None), (SystemExit(143), 143)):
        folder.mkdir(parents=True)
        with pytest.raises((KeyboardInterrupt, UserError)) as left:
            leave_by(error, folder)
        assert not (tmp_path / "runs").exists()
        assert getattr(left.value, "exit_code", None) == code
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("{}")
    with pytest.raises(Interrupted, match="stopped; with resume=true the same command goes on"):
        leave_by(SystemExit(143), folder)
    assert folder.is_dir()


def sleep_long() -> None:
    threading.Event().wait(PATIENCE_S)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_signal_while_the_processes_start_is_remembered(monkeypatch, number, when):
    start_them = launch.start_processes

    def starting(*arguments: object, **keywords: object) -> object:
        if when == "before":  # no process is there that could be told
            os.kill(os.getpid(), number)
        context = start_them(*arguments, **keywords)
        if when == "after":  # they import torch and have no handler yet
            os.kill(os.getpid(), number)
        return context

    monkeypatch.setattr(launch, "start_processes", starting)
    with pytest.raises(Interrupted, match="stopped; with resume=true the same command goes on") as stopped:
        launch.launch(sleep_long, devices=2)
    assert stopped.value.exit_code == 128 + number


def test_a_signal_in_the_last_moment_stops_what_would_come_next(monkeypatch):
    class Finished:
        processes: tuple[()] = ()

        def join(self) -> bool:
            os.kill(os.getpid(), signal.SIGTERM)
            return True

    monkeypatch.setattr(launch, "start_processes", lambda *arguments, **keywords: Finished())
    with pytest.raises(Interrupted, match="stopped when the run was done") as stopped:
        launch.launch(sleep_long, devices=2)
    assert stopped.value.exit_code == 143
