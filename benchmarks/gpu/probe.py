"""What check.sh asks of a GPU. RESULT lines go into the summary. DEVICE=cpu SMALL=1 tries the code without one."""

# ruff: noqa: E501

import collections
import csv
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

DEVICE = torch.device(os.environ.get("DEVICE", "cuda"))
ON_GPU, SMALL = DEVICE.type == "cuda", bool(os.environ.get("SMALL"))
DATA = os.environ.get("DMDD_DATA", "data")
TEACHER = os.environ.get("TEACHER", "wide_resnet50_2")


def say(name, value):
    print(f"RESULT {name}: {json.dumps(value) if isinstance(value, dict | list) else value}", flush=True)


def wait():
    if ON_GPU:
        torch.cuda.synchronize()


def timed(work, *, warm=3, times=20):
    """Median milliseconds, each call waited for."""
    for _ in range(warm):
        work()
    found = []
    for _ in range(times):
        wait()
        begun = time.perf_counter()
        work()
        wait()
        found.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(found)


def settings_of(*more):
    from dmdd.config.schema import TrainSettings

    usual = [f"data_dir={DATA}", "category=screw", "recipe=paper", f"teacher={TEACHER}", "teacher.random_weights=true"]
    small = ["image_size=[64,64]", "student.widths=[8,12,16]", "segmentation.width=8"] if SMALL else []
    return TrainSettings.compose(*usual, *small, *more, f"run_dir={tempfile.mkdtemp()}")


def rates():
    side = 512 if SMALL else 8192
    a, b = (torch.randn(side, side, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    source = torch.empty(2**24 if SMALL else 2**31, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    small = torch.ones(16, device=DEVICE)
    say("bf16 matmul TFLOP/s", round(2 * side**3 / timed(lambda: a @ b) / 1e9))
    say("copy GB/s, read and written", round(2 * source.numel() / timed(lambda: target.copy_(source)) / 1e6))

    def launches():
        for _ in range(1000):
            small.mul(2)

    say("us a launch from Python, 1000 in a row", round(timed(launches, times=5), 2))


def module_of(settings):
    from dmdd.experiment.category import read_category
    from dmdd.experiment.experiment import make_data

    data = make_data(settings, read_category(settings.dataset, settings.category))
    data.setup("fit")
    return data


def pairs():
    """GPU pairs against CPU pairs of the same plans on real images; and how many a second."""
    from dmdd.data.sampling import PairSampler

    data = module_of(settings_of())
    steps = 4 if SMALL else 100
    worst = off = flipped = jittered = pixels = 0
    for places in PairSampler(images=data.training_images, batch_size=16, first_step=0, steps=steps, seed=0):
        batch = data.training_batch(places)
        here = data.make_pairs(batch)
        there = data.make_pairs(data.transfer_batch_to_device(batch, DEVICE, 0))
        same = there.mask.cpu() == here.mask
        jittered = max(jittered, (there.normal.cpu() - here.normal).abs().max().item())
        difference = (there.anomalous.cpu() - here.anomalous).abs() * same
        worst, off = max(worst, difference.max().item()), off + (difference > 1e-5).sum().item()
        flipped, pixels = flipped + (~same).sum().item(), pixels + same.numel()
    say(
        "pairs against the CPU",
        {
            "pairs": 16 * steps,
            "largest difference where masks agree": worst,
            "values off by more than 1e-5": off,
            "mask pixels that differ": flipped,
            "of": pixels,
            "largest difference of the jittered images": jittered,
        },
    )
    for count in (4, 16) if SMALL else (4, 16, 64, 256):
        places = next(iter(PairSampler(images=data.training_images, batch_size=count, first_step=0, steps=1, seed=0)))
        plans = []
        for step in range(12):
            plans.append(
                data.transfer_batch_to_device(
                    data.training_batch([(step, place, index) for _, place, index in places]), DEVICE, 0
                )
            )
        turn = iter(plans * 100)
        if ON_GPU:
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if ON_GPU else 0
        took = timed(lambda turn=turn: data.make_pairs(next(turn)), times=4 if SMALL else 24)
        wait()
        begun = time.perf_counter()
        data.make_pairs(next(turn))
        host = 1e3 * (time.perf_counter() - begun)
        wait()
        memory = round((torch.cuda.max_memory_allocated() - before) / 1e6) if ON_GPU else None
        say(
            f"pairs at once {count}",
            {
                "ms": round(took, 2),
                "ms until launched": round(host, 2),
                "pairs/s": round(1e3 * count / took),
                "MB": memory,
            },
        )


def same():
    """Whole trainings in float64 on both devices: losses of each step, metrics, time."""
    from dmdd.train import main

    logged, tested = {}, {}
    for name in ("cpu", "gpu" if ON_GPU else "cpu"):
        folder = Path(tempfile.mkdtemp())
        code = main([f"data_dir={DATA}", "category=screw", "recipe=smoke", "teacher=efficientnet_lite0", "image_size=[64,64]", "trainer.precision=64-true", "trainer.log_every_n_steps=1",
                     "evaluation.pictures=0", "evaluation.resamples=20", f"trainer.accelerator={name}", f"hydra.run.dir={folder}"])  # fmt: skip
        assert code == 0, code
        with (folder / "metrics.csv").open() as text:
            logged[name] = [{k: float(v) for k, v in row.items() if v and "/" in k} for row in csv.DictReader(text)]
        tested[name] = json.loads((folder / "result.json").read_text())["test"]["metrics"]
    one, other = logged["cpu"], logged["gpu" if ON_GPU else "cpu"]
    worst = max(abs(a[k] - b[k]) / max(abs(a[k]), 1e-9) for a, b in zip(one, other, strict=True) for k in a)
    first = max(abs(one[0][k] - other[0][k]) / max(abs(one[0][k]), 1e-9) for k in one[0])
    metrics = tested["gpu" if ON_GPU else "cpu"]
    say(
        "float64 training against the CPU",
        {
            "steps": len(one),
            "first step, relative": first,
            "all steps, relative": worst,
            "metrics, absolute": max(abs(metrics[k] - v) for k, v in tested["cpu"].items()),
        },
    )


class Watch:
    """Times, profiles or counts waits between two steps of a real fit."""

    def __init__(self, what, first, last):
        self.what, self.first, self.last, self.ms, self.text, self.waits = (
            what,
            first,
            last,
            {},
            {},
            collections.Counter(),
        )

    def callback(self):
        from lightning.pytorch.callbacks import Callback

        watch = self

        class Marks(Callback):
            def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
                stage, step = type(module).__name__, trainer.global_step
                if step == watch.first:
                    wait()
                    watch.begin()
                    watch.begun = time.perf_counter()
                elif step == watch.last:
                    wait()
                    watch.ms[stage] = 1e3 * (time.perf_counter() - watch.begun) / (watch.last - watch.first)
                    say(f"{stage} ms a step", round(watch.ms[stage], 2))  # now: the part may run out of time
                    watch.end(stage)

        return Marks()

    def begin(self):
        if self.what == "profile":
            kinds = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA] * ON_GPU
            self.profiler = torch.profiler.profile(activities=kinds)
            self.profiler.__enter__()
        elif self.what == "syncs":
            self.caught = warnings.catch_warnings(record=True)
            self.list = self.caught.__enter__()
            warnings.simplefilter("always")
            if ON_GPU:
                torch.cuda.set_sync_debug_mode("warn")

    def end(self, stage):
        steps = self.last - self.first
        if self.what == "syncs":
            if ON_GPU:
                torch.cuda.set_sync_debug_mode("default")
            self.caught.__exit__(None, None, None)
            for warning in self.list:
                if "synchroniz" in str(warning.message):
                    self.waits[f"{stage} {'/'.join(warning.filename.split('/')[-2:])}:{warning.lineno}"] += 1
        elif self.what == "profile":
            self.profiler.__exit__(None, None, None)
            events = self.profiler.key_averages()
            kernels = [e for e in events if str(e.device_type).endswith("CUDA")]
            busy = sum(e.self_device_time_total for e in kernels) / 1e3 / steps
            calls = {
                e.key: e.count / steps
                for e in events
                if e.key.startswith(
                    ("cudaLaunch", "cuLaunch", "cudaMemcpy", "cudaStreamSync", "cudaDeviceSync", "cudaEventSync")
                )
            }
            say(
                f"{stage} a step: kernels busy ms, of wall ms under the profiler",
                [round(busy, 2), round(self.ms[stage], 2)],
            )
            say(f"{stage} calls a step", {k: round(v, 1) for k, v in calls.items()})
            table = events.table(
                sort_by="self_device_time_total" if ON_GPU else "self_cpu_time_total",
                row_limit=25,
                max_name_column_width=90,
            )
            print(stage, table)
            for e in sorted(kernels, key=lambda e: -e.self_device_time_total)[:12]:
                say(
                    f"{stage} kernel",
                    [round(e.self_device_time_total / 1e3 / steps, 3), round(e.count / steps, 1), e.key[:110]],
                )
            if ON_GPU and os.environ.get("OUT"):
                self.profiler.export_chrome_trace(f"{os.environ['OUT']}/{stage}.json.gz")


def flops_of(experiment):
    from torch.utils.flop_counter import FlopCounterMode

    detector, batch = experiment.detector, experiment.settings.batch_size
    images = torch.rand(1, 3, *detector.input_size)
    detector.cpu()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        features = detector.teacher(images)
    teacher = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        detector.student.eval()(images, features)
    student = counter.get_total_flops()
    return {"stage 1": batch * (2 * teacher + 3 * student), "stage 2 without its network": batch * (teacher + student)}


def losses_of(folder):
    """What two variants that compute the same agree in: the first to rounding, the last about."""
    with (folder / "metrics.csv").open() as text:
        rows = list(csv.DictReader(text))
    found = {}
    for name in ("distillation/loss", "segmentation/loss"):
        logged = [float(row[name]) for row in rows if row.get(name)]
        found[name] = [logged[0], logged[-1]] if logged else []
    return found


def product(variant):
    """The two stages as the product runs them, by Experiment, with Lightning, and what changes would give."""
    from lightning import Trainer

    from dmdd.data import datamodule
    from dmdd.data.datamodule import PairDataModule
    from dmdd.experiment.category import read_category
    from dmdd.experiment.experiment import Experiment, quiet_lightning

    wanted = set(variant.split("+"))
    long = wanted & {"base", "compile"} and not SMALL
    steps, rest = (160, 100) if long else (100, 80)
    steps, rest = (14, 10) if SMALL else (steps, rest)
    overrides = [
        f"distillation.steps={steps}",
        f"segmentation_training.steps={rest}",
        "evaluation.resamples=0",
        "logger.csv=null" if "no_log" in wanted else "seed=0",
        "callbacks.progress.every_n_steps=1000",
    ]
    # As many views as the whole recipe has; in so few steps the default would not jitter at all.
    jitter = ["augmentation=jitter", "augmentation.steps=4000"]
    overrides += ["augmentation=none"] if "no_jitter" in wanted else jitter
    overrides += ["+trainer.benchmark=false"] * ("no_benchmark" in wanted)
    overrides += ["compile=true"] * ("compile" in wanted)
    overrides += [f"trainer.accelerator={'gpu' if ON_GPU else 'cpu'}"] + ["trainer.precision=bf16-mixed"] * (not ON_GPU)
    if "step_by_step" in wanted:  # pairs made for one step at a time, as before
        datamodule.AT_ONCE = dict.fromkeys(datamodule.AT_ONCE, (256, 1))
    if "images_on_host" in wanted:
        datamodule.RESIDENT_BYTES = 0
    if "one_resident_batch" in wanted:  # what the networks alone take inside Lightning: no decoding, no pairs

        class Same:
            def __init__(self, data, sampler, device):
                self.steps, batch = len(sampler), data.training_batch(next(iter(sampler)))
                self.pairs = data.make_pairs(data.transfer_batch_to_device(batch, device, 0))

            def __len__(self):
                return self.steps

            def __iter__(self):
                return iter([self.pairs] * self.steps)

        PairDataModule.serve = lambda self, sampler, device: Same(self, sampler, device)
    quiet_lightning()
    settings = settings_of(*overrides)
    from lightning import seed_everything

    seed_everything(0, verbose=False)
    begun = time.perf_counter()
    experiment = Experiment(settings, read_category(settings.dataset, settings.category))
    say("seconds to build and decode", round(time.perf_counter() - begun, 1))
    if "no_copies" in wanted:  # frozen weights cast in each step, as before
        from dmdd.training import distillation, segmentation

        distillation.for_training = segmentation.for_training = lambda network, precision: network
    if "compile" in wanted and not ON_GPU:
        from dmdd.training import compilation

        compilation.BACKEND = "eager"  # traces the same graphs; inductor would take a CPU half an hour
    what = "profile" if "profile" in wanted else "syncs" if "syncs" in wanted else "time"
    first = (6 if SMALL else 60) if what == "time" or SMALL else 50
    # Never up to the last step, in which a state is saved.
    watch = Watch(what, first, first + (3 if SMALL else 10 if what != "time" else 30 if long else 15))
    fit = Trainer.fit

    def watched(self, *arguments, **more):
        self.callbacks.append(watch.callback())
        return fit(self, *arguments, **more)

    Trainer.fit = watched
    if ON_GPU:
        torch.cuda.reset_peak_memory_stats()
    begun = time.perf_counter()
    experiment.distill()
    begun_second = time.perf_counter()
    experiment.segment()
    say(f"{variant}: ms a step", {k: round(v, 2) for k, v in watch.ms.items()})
    say(f"{variant}: losses, first and last", losses_of(Path(settings.run_dir)))
    if ON_GPU:
        say(
            f"{variant}: peak MB allocated, reserved",
            [round(torch.cuda.max_memory_allocated() / 1e6), round(torch.cuda.max_memory_reserved() / 1e6)],
        )
    say(
        f"{variant}: seconds of both stages, whole",
        [round(begun_second - begun, 1), round(time.perf_counter() - begun_second, 1)],
    )
    for place, count in watch.waits.most_common(30):
        say("waits a step", [round(count / (watch.last - watch.first), 1), place])
    if "base" in wanted:
        state = Path(settings.run_dir) / "state"
        say("MB of a saved state", {f.name: round(f.stat().st_size / 1e6) for f in state.glob("*")})
        say("TFLOP a step", {k: round(v / 1e12, 3) for k, v in flops_of(experiment).items()})


def deterministic():
    """The mode raises nowhere, and two runs agree to the bit."""
    from dmdd.train import main

    found = []
    for _ in range(2):
        folder = Path(tempfile.mkdtemp())
        code = main([f"data_dir={DATA}", "category=screw", "recipe=smoke", "teacher=efficientnet_lite0", "image_size=[64,64]", "trainer.deterministic=true", "augmentation=light",
                     "evaluation.pictures=0", "evaluation.resamples=20", f"trainer.accelerator={'gpu' if ON_GPU else 'cpu'}", f"hydra.run.dir={folder}"])  # fmt: skip
        found.append(
            (
                code,
                (folder / "model/weights.safetensors").read_bytes() if code == 0 else b"",
                (folder / "scores.csv").read_bytes() if code == 0 else b"",
            )
        )
    say(
        "deterministic",
        {
            "exit codes": [f[0] for f in found],
            "same weights": found[0][1] == found[1][1],
            "same scores": found[0][2] == found[1][2],
        },
    )


def half(rank, port, folder):
    """Two processes on one GPU: SyncBatchNorm and DDP through gloo, which takes CUDA tensors; NCCL refuses one GPU twice."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from dmdd.models.batch_norm import synchronise_batch_norm
    from dmdd.models.losses import abnormality_mimicking_loss, normality_guidance_loss
    from dmdd.models.student import Student

    torch.manual_seed(0)
    channels, world = (6, 8, 10), 1 if rank is None else 2
    student = (
        Student(channels=channels, widths=(8, 8, 12)).double().to(DEVICE, memory_format=torch.channels_last).train()
    )
    torch.manual_seed(1)
    normal, anomalous = (
        [torch.rand(4, c, 64 // s, 64 // s).double().to(DEVICE) for c, s in zip(channels, (4, 8, 16), strict=True)]
        for _ in range(2)
    )
    mask = (torch.rand(4, 1, 64, 64) > 0.97).double().to(DEVICE)
    own, network = slice(0, 4), student
    if rank is not None:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
        synchronise_batch_norm(student)
        own = slice(2 * rank, 2 * rank + 2)
        network = DistributedDataParallel(
            student,
            device_ids=[0] if ON_GPU else None,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            static_graph=True,
        )
    images = torch.zeros(4 // world, 3, 64, 64, device=DEVICE).double()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        normality, abnormality = network(images, [a[own] for a in anomalous])
        loss = normality_guidance_loss(
            normality, [n[own] for n in normal], hard_fraction=0.1
        ) + abnormality_mimicking_loss(abnormality, [a[own] for a in anomalous], mask[own])
        loss.backward()
    gradients = {n.removeprefix("module."): p.grad.cpu() for n, p in student.named_parameters()}
    if not rank:
        torch.save(
            {
                "g": gradients,
                "b": {n: b.cpu() for n, b in student.named_buffers()},
                "w": sorted({str(w.message)[:160] for w in told}),
            },
            f"{folder}/{world}.pt",
        )
    if rank is not None:
        dist.barrier()
        dist.destroy_process_group()


def two():
    import socket

    import torch.multiprocessing as mp

    folder = tempfile.mkdtemp()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    half(None, port, folder)
    mp.spawn(half, (port, folder), nprocs=2)
    one, both = (torch.load(f"{folder}/{n}.pt", weights_only=True) for n in (1, 2))
    scale = max(g.abs().max().item() for g in one["g"].values())
    say("two processes on one GPU against one, float64", {
        "gradients, of the largest": max((one["g"][n] - g).abs().max().item() for n, g in both["g"].items()) / scale,
        "statistics": max((one["b"][n].double() - b.double()).abs().max().item() for n, b in both["b"].items()), "warnings": both["w"]})  # fmt: skip


def train():
    """The README's figures of screw, recipe=cpu in float32, on this device: 99.48 +- 0.04, 96.72 +- 0.15, 97.6 +- 0.5."""
    from dmdd.train import main

    folder = Path(tempfile.mkdtemp())
    recipe = "smoke" if SMALL else "cpu"
    begun = time.perf_counter()
    code = main([f"data_dir={DATA}", "category=screw", "teacher=efficientnet_lite0", f"recipe={recipe}", "trainer.precision=32-true", f"hydra.run.dir={folder}",
                 f"trainer.accelerator={'gpu' if ON_GPU else 'cpu'}"])  # fmt: skip
    result = json.loads((folder / "result.json").read_text()) if code == 0 else {}
    say(
        "screw, lite0, recipe=cpu, float32",
        {
            "exit": code,
            "s": round(time.perf_counter() - begun),
            "times": result.get("wall_time_s"),
            "metrics": result.get("test", {}).get("metrics"),
        },
    )


if __name__ == "__main__":
    {f.__name__: f for f in (rates, pairs, same, product, deterministic, two, train)}[sys.argv[1]](*sys.argv[2:])
