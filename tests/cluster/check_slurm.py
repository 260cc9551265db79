"""Train on a real SLURM cluster of one node and disturb it: `make cluster`, or

    tests/cluster/slurm.sh up FOLDER
    SLURM_CONF=FOLDER/slurm.conf python tests/cluster/check_slurm.py WORK ["scontrol requeue" ...]

A sweep of four members through `launcher=submitit`: one is told that it will be preempted, one is put back into the
queue, one nears its time limit, the node of one goes down. Each must go on from where it was and finish. Another run
uses two tasks of one job, joined by gloo. Disturbances that are named are tried alone. Prints what was done and how
long it took; exit code 1 where a run is not whole.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEPS = 400  # minutes, which is how finely SLURM counts a time limit
PATIENCE_S = 1500

TRAIN = (
    *("dataset=demo", "category=plate", "recipe=smoke", "teacher=resnet18", "teacher.backbone=ghostnet_050"),
    *("teacher.random_weights=true", "image_size=[64,64]", "batch_size=2", "segmentation_training.steps=20"),
    *("trainer.accelerator=cpu", "evaluation.resamples=0", "evaluation.pictures=0", "launcher=submitit", "resume=true"),
    *("hydra.launcher.gpus_per_node=null", "hydra.launcher.mem_gb=null", "hydra.launcher.cpus_per_task=1"),
    *("hydra.launcher.timeout_min=60", "hydra.launcher.signal_delay_s=30"),
)


def slurm(*command: str) -> str:
    """Run a command of SLURM."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout.strip()


def start(work: Path, *settings: str) -> "subprocess.Popen[str]":
    """Start a sweep, whose own output goes to a file."""
    command = [sys.executable, "-m", "dmdd.train", "-m", *TRAIN, f"data_dir={work / 'data'}", *settings]
    command += [f"hydra.sweep.dir={work / 'runs'}"]
    with (work / "sweep.log").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True)


def wait_for(what: str, met: Callable[[], Any], sweep: "subprocess.Popen[str]") -> Any:
    """Wait until something is so, while the sweep lives."""
    end = time.monotonic() + PATIENCE_S
    while not (found := met()):
        if sweep.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"waited in vain for: {what}")
        time.sleep(0.5)
    return found


def job_of(member: int) -> str:
    """Give the number of the job that runs a member, empty where none does; a single member is no array."""
    rows = [row.split() for row in slurm("squeue", "-h", "-t", "R", "-r", "-o", "%F %K %i").splitlines()]
    return next((job for array, index, job in rows if index in (str(member), "N/A")), "")


def warn(job: str) -> None:
    """Tell a job that it will be preempted."""
    # No check: the command fails where the job has put itself into the queue before it is asked what came of it.
    subprocess.run(("scancel", "--signal=USR2", job), check=False, capture_output=True, timeout=600)


def requeue(job: str) -> None:
    """Put a job back into the queue."""
    slurm("scontrol", "requeue", job)


def shorten(job: str) -> None:
    """Let a job come near its time limit, and give the next attempt its whole time again."""
    slurm("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes_run(job) + 1}")
    end = time.monotonic() + PATIENCE_S
    while slurm("squeue", "-h", "-j", job, "-o", "%T") == "RUNNING" and time.monotonic() < end:
        time.sleep(0.5)
    # No check: it may have been done before.
    subprocess.run(
        ("scontrol", "update", f"JobId={job}", "TimeLimit=60"), check=False, capture_output=True, timeout=600
    )


def minutes_run(job: str) -> int:
    """Give the whole minutes that a job has run."""
    seconds = 0
    for part in slurm("squeue", "-h", "-j", job, "-o", "%M").split(":"):
        seconds = 60 * seconds + int(part)
    return -(-seconds // 60)


def fail_node(job: str) -> None:
    """Take the node down and bring it back."""
    node = slurm("squeue", "-h", "-j", job, "-o", "%N")
    slurm("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    time.sleep(2)
    # No check: a daemon that answers brings its node back by itself.
    back = ("scontrol", "update", f"NodeName={node}", "State=RESUME")
    subprocess.run(back, check=False, capture_output=True, timeout=600)


DISTURBANCES = (
    ("scancel --signal=USR2", warn),
    ("scontrol requeue", requeue),
    ("time limit", shorten),
    ("node down", fail_node),
)


def result_of(run: Path) -> dict[str, Any]:
    """Read what a run came to."""
    result: dict[str, Any] = json.loads((run / "result.json").read_text(encoding="utf-8"))
    return result


def check_sweep(work: Path, names: list[str]) -> bool:
    """Disturb each member once, after its first state was saved, and see all of them finish."""
    began = time.monotonic()
    chosen = [pair for pair in DISTURBANCES if not names or pair[0] in names]
    # One at a time, so that none is done before it was disturbed.
    settings = (f"seed={','.join(map(str, range(len(chosen))))}", "name=member", "hydra.launcher.array_parallelism=1")
    settings += (f"distillation.steps={STEPS}", "save_state_every_n_steps=10")
    sweep = start(work, *settings)
    runs = [work / "runs" / "demo" / "plate" / f"member_{number}_seed{number}" for number in range(len(chosen))]
    for number, ((name, disturb), run) in enumerate(zip(chosen, runs, strict=True)):
        wait_for(f"a state of {run}", (run / "state" / "distillation.ckpt").is_file, sweep)
        job = wait_for(f"the job of member {number}", lambda number=number: job_of(number), sweep)
        disturb(job)
        print(f"member {number}: {name} of job {job} after {time.monotonic() - began:.0f} s", flush=True)
    code = sweep.wait(timeout=PATIENCE_S)
    print(f"sweep: exit code {code} after {time.monotonic() - began:.0f} s", flush=True)
    whole = code == 0
    for number, ((name, _), run) in enumerate(zip(chosen, runs, strict=True)):
        resumed = result_of(run)["resumed"] if (run / "result.json").is_file() else None
        task = f"*_{number}_0_log.err" if len(chosen) > 1 else "*_0_log.err"  # of an array, or of a job by itself
        logs = sorted((work / "runs" / ".submitit").rglob(task))
        told = [line for log in logs for line in log.read_text().splitlines() if "stopped after step" in line]
        print(f"member {number}: {name}: resumed {resumed}; {'; '.join(told) or 'no line on where it stopped'}")
        whole = whole and resumed is True
    return whole


def check_tasks(work: Path) -> bool:
    """Train one run on two tasks of one job."""
    began = time.monotonic()
    two = ("hydra.launcher.tasks_per_node=2", "trainer.devices=2", "name=two", "seed=0", "distillation.steps=20")
    code = start(work, *two).wait(timeout=PATIENCE_S)
    run = work / "runs" / "demo" / "plate" / "two_0_seed0"
    devices = result_of(run)["devices"] if code == 0 else None
    print(f"two tasks: exit code {code} after {time.monotonic() - began:.0f} s, devices {devices}", flush=True)
    return code == 0 and devices == 2


def main() -> int:
    """Check everything in a folder."""
    from dmdd.data.demo.generate import generate_demo

    work = Path(sys.argv[1]).resolve()
    work.mkdir(parents=True, exist_ok=True)
    generate_demo(work / "data", size=96, train=12, test_good=4, per_defect=2)
    os.environ["OMP_NUM_THREADS"] = "1"
    print(slurm("sinfo", "--version"), flush=True)
    names = sys.argv[2:]
    passed = [check_sweep(work, names), *([] if names else [check_tasks(work)])]
    if not all(passed):
        print((work / "sweep.log").read_text()[-3000:], file=sys.stderr)
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
