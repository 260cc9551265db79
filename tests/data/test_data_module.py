"""The data module: the same pair for any loader, nothing trained on that is held out, test images as they are."""

import contextlib
import dataclasses
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trees
from PIL import Image

from dmdd.config.schema import TrainSettings
from dmdd.config.targets import build
from dmdd.core.errors import UserError
from dmdd.data import datamodule
from dmdd.data.augmentation import build_augmentation
from dmdd.data.datamodule import VALIDATION_STEP, PairDataModule, as_evaluation
from dmdd.data.datasets import FileDataset, PairBatch
from dmdd.data.images import read_image, read_mask
from dmdd.data.layouts import read_mvtec_ad
from dmdd.data.listing import pool
from dmdd.data.sampling import PairSampler
from dmdd.data.store import ImagesOnDisk
from dmdd.pairs import PairSynthesis
from patience import PATIENCE_S

MIX = {"procedural": 1, "shift": 1, "blob": 1, "stroke": 1}


def make(category, *, max_steps=3, rank=0, world_size=1, stage="fit", **changes):
    settings = {"synthesis": PairSynthesis(**MIX), "image_size": (64, 64), "batch_size": 4, "seed": 7} | changes
    module = PairDataModule(category=category, **settings)
    module.setup(stage)
    module.trainer = SimpleNamespace(
        max_steps=max_steps,
        global_step=0,
        global_rank=rank,
        world_size=world_size,
        training=True,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    return module


def pairs(module):
    return list(module.train_dataloader())


def planned(module):
    """What pairs are made of, step by step."""
    counts = {"images": module.training_images, "batch_size": module.batch_size, "steps": module.trainer.max_steps}
    return module.planned(PairSampler(**counts, first_step=0, seed=module.seed), torch.device("cpu"))


def equal(first: PairBatch, second: PairBatch) -> bool:
    tensors = all(torch.equal(a, b) for a, b in zip(first[:3], second[:3], strict=True))
    return tensors and first.indices == second.indices


def join(parts: Sequence[PairBatch]) -> PairBatch:
    normal, anomalous, mask = (torch.cat(values) for values in zip(*(part[:3] for part in parts), strict=True))
    return PairBatch(normal, anomalous, mask, tuple(index for part in parts for index in part.indices))


def test_pairs_do_not_depend_on_workers_or_devices(demo_category):
    alone = pairs(make(demo_category))
    workers = pairs(make(demo_category, num_workers=2))
    assert len(alone) == len(workers) == 3
    assert all(equal(a, b) for a, b in zip(alone, workers, strict=True))
    devices = [pairs(make(demo_category, rank=rank, world_size=2)) for rank in range(2)]
    joined = [join(step) for step in zip(*devices, strict=True)]
    assert all(equal(a, b) for a, b in zip(alone, joined, strict=True))


def test_pairs_from_a_later_step_are_those_of_an_unbroken_run(demo_category):
    module = make(demo_category, max_steps=1)
    module.first_step = 2
    assert equal(pairs(module)[0], pairs(make(demo_category))[2])


def test_twin_differs_inside_the_mask_only(demo_category):
    for batch in pairs(make(demo_category)):
        outside = (batch.mask == 0).expand_as(batch.normal)
        assert torch.equal(batch.normal[outside] / 255, batch.anomalous[outside])
        assert batch.mask.flatten(1).any(1).all()
        assert batch.anomalous.is_contiguous(memory_format=torch.channels_last)


def test_pairs_are_the_same_made_for_several_steps_at_once_or_step_by_step(demo_category, monkeypatch):
    together = pairs(make(demo_category, max_steps=11))
    alone = list(planned(make(demo_category, max_steps=11)))
    assert (len(together), len(alone)) == (11, 11)
    monkeypatch.setitem(datamodule.AT_ONCE, "cpu", (64, 3))
    few = pairs(make(demo_category, max_steps=11))
    for step, batch in enumerate(alone):
        assert equal(make(demo_category).make_pairs(batch), together[step])
        assert equal(few[step], together[step])


def test_images_that_another_process_has_read_are_not_read_again(demo_category, monkeypatch):
    expected = pairs(make(demo_category))
    decoded = make(demo_category).decode()
    monkeypatch.setattr(datamodule, "open_images", None)
    assert all(map(equal, pairs(make(demo_category, decoded=decoded)), expected))


def test_images_in_a_file_on_disk_give_the_same_pairs(demo_category, tmp_path):
    (tmp_path / "roi.json").write_text("[[[4, 4], [124, 4], [124, 100], [4, 100]]]")
    for settings in ({}, {"num_workers": 1}, {"roi": str(tmp_path / "roi.json")}):
        memory = make(demo_category, **settings)
        disk = make(demo_category, memory_gb=0, cache_dir=tmp_path / "cache", **settings)
        assert isinstance(disk._train.images.store, ImagesOnDisk)
        assert all(map(equal, pairs(disk), pairs(memory)))
        for name in ("training_pixels", "held_out_pixels", "normal_pixels"):
            assert torch.equal(getattr(disk, name)[:], getattr(memory, name)[:])
        assert disk.parts_found == memory.parts_found
        twins = [next(iter(module.val_dataloader())) for module in (memory, disk)]
        assert torch.equal(twins[0].plan, twins[1].plan)
        assert torch.equal(twins[0].foreground, twins[1].foreground)
    assert len(list((tmp_path / "cache").glob("*.images"))) == 1


def test_a_resumed_stage_counts_all_its_steps_and_serves_the_rest(demo_category):
    module = make(demo_category, max_steps=11)
    module.trainer.global_step = 9
    loader = module.train_dataloader()
    assert len(loader) == 11
    assert all(equal(*two) for two in zip(loader, pairs(make(demo_category, max_steps=11))[9:], strict=True))


def test_held_out_images_are_never_trained_on(demo_category):
    module = make(demo_category, max_steps=10, held_out_fraction=0.25)
    assert (module.training_images, module.held_out_images) == (9, 3)
    seen = {image.numpy().tobytes() for batch in module.train_dataloader() for image in batch.normal}
    held = {image.numpy().tobytes() for batch in module.val_dataloader() for image in batch.images}
    assert (len(seen), len(held)) == (9, 3)
    assert not seen & held


def test_a_copy_of_a_held_out_image_is_not_trained_on(demo_category):
    files = make(demo_category, held_out_fraction=0.25).normal_files
    rows = {sample.path: row for row, sample in enumerate(demo_category.train)}
    train = list(demo_category.train)
    train[rows[files[0]]] = train[rows[files[-1]]]  # the first to train on becomes a copy of the last held-out one
    module = make(dataclasses.replace(demo_category, train=train), held_out_fraction=0.25)
    assert (module.training_images, module.held_out_images) == (8, 3)
    assert module.normal_files == files[1:]
    assert len(module.normal_pixels) == 11


def test_what_an_earlier_training_has_seen_is_not_held_out(demo_category):
    names = [sample.path.relative_to(demo_category.root).as_posix() for sample in demo_category.train]
    module = make(demo_category, held_out_fraction=0.25, trained_before=[*names[2:], "train/good/gone.png"])
    assert (module.training_images, module.held_out_images) == (10, 2)
    assert module.trained_names == sorted([*names[2:], "train/good/gone.png"])
    with pytest.raises(UserError, match=r"data.held_out_fraction=0.25: the model of init= was trained on all of the"):
        make(demo_category, held_out_fraction=0.25, trained_before=names)


def pooled(tmp_path, counts=(30, 5)):
    """Two categories of different sizes, whose images are told apart by their colour."""
    parts = []
    for number, (name, count) in enumerate(zip(("cable", "screw"), counts, strict=True)):
        trees.mvtec_category(tmp_path, name, seed=100 * number)
        for image in range(count):
            file = tmp_path / name / "train" / "good" / f"{image:03d}.png"
            Image.new("RGB", (24, 24), (image, 100 * number, 0)).save(file)
        parts.append(read_mvtec_ad(root=tmp_path, category=name))
    return pool(parts, name="all")


def test_each_category_has_a_part_held_out_and_a_turn_in_training(tmp_path):
    module = make(pooled(tmp_path), max_steps=2)
    assert (module.counts, module.training_images, module.held_out_images) == ([27, 4], 31, 4)
    assert module.held_out_members == ["cable"] * 3 + ["screw"]
    assert module.trained_members == ["cable"] * 27 + ["screw"] * 4
    of_cable = [index % 31 < 27 for batch in pairs(module) for index in batch.indices]
    assert of_cable.count(True) == of_cable.count(False) == 4
    single = make(read_mvtec_ad(root=tmp_path, category="cable"))
    assert module.normal_files[:27] == single.normal_files[:27]  # the split that the category has by itself


def test_a_twin_takes_another_image_of_its_category(tmp_path):
    module = make(pooled(tmp_path), max_steps=20, synthesis=PairSynthesis(scramble=1, blob=1))
    for batch in planned(module):
        assert (batch.others[:, 1].amax((1, 2)) == batch.images[:, 1].amax((1, 2))).all()
        assert (batch.others != batch.images).flatten(1).any(1).all()


def test_what_was_trained_on_is_known_with_and_without_its_category(tmp_path):
    category = pooled(tmp_path)
    alone = make(read_mvtec_ad(root=tmp_path, category="screw"), trained_before=make(category).trained_names)
    assert alone.normal_files[-1] == make(category).normal_files[-1]  # the only one that was not
    again = make(category, trained_before=[f"train/good/{number:03d}.png" for number in range(4)])
    assert again.normal_files[-1].name == "004.png"


def test_what_the_data_set_sets_apart_is_held_out(demo_category):
    train = tuple(replace(sample, held_out=row in (3, 7)) for row, sample in enumerate(demo_category.train))
    module = make(replace(demo_category, train=train), held_out_fraction=0.5)
    assert (module.training_images, module.held_out_images) == (10, 2)
    assert module.normal_files[-2:] == [train[3].path, train[7].path]


def test_a_category_of_one_image_is_named(tmp_path):
    category = pooled(tmp_path, counts=(4, 3))
    few = replace(category, train=category.train[:5])
    with pytest.raises(UserError, match=r"data.held_out_fraction=0.1 in category screw: holding out images needs"):
        make(few)


def test_validation_pairs_are_fixed_and_not_the_training_pairs(demo_category):
    module = make(demo_category)
    first, second = (next(iter(module.val_dataloader())).plan for _ in range(2))
    assert torch.equal(first, second)
    assert VALIDATION_STEP > 10**15


def test_transfer_makes_pairs_in_training_and_labelled_images_otherwise(demo_category):
    module = make(demo_category)
    batch = next(iter(planned(module)))
    assert isinstance(module.on_after_batch_transfer(batch, 0), PairBatch)
    module.trainer.training = False
    scored = module.on_after_batch_transfer(batch, 0)
    first = [place for place, index in enumerate(batch.indices) if index < module.held_out_images]
    assert scored.labels.tolist() == [0] * len(first) + [1] * 4  # of a normal image that comes again only the twin
    assert scored.images.dtype == torch.uint8
    assert torch.equal(scored.images[: len(first)], batch.images[first])


def test_a_twin_without_change_counts_as_normal():
    image, mask = torch.rand(2, 3, 8, 8), torch.zeros(2, 1, 8, 8)
    mask[1, 0, 0, 0] = 1
    batch = as_evaluation(PairBatch((image * 255).byte(), image, mask, (4, 0)), 5)
    assert batch.labels.tolist() == [0, 0, 0, 1]
    assert batch.indices.tolist() == [4, 0, -5, -1]
    again = as_evaluation(PairBatch((image * 255).byte(), image, mask, (4, 0)), 4)  # number 4 is image 0 a second time
    assert again.indices.tolist() == [0, -5, -1]
    assert torch.equal(again.images[0], (image[1] * 255).byte())


@pytest.mark.parametrize("world_size", [1, 3])
def test_test_images_come_once_each_whatever_the_devices(demo_category, world_size):
    indices = []
    for rank in range(world_size):
        module = make(demo_category, stage="test", rank=rank, world_size=world_size, evaluation_batch_size=3)
        indices += [index for batch in module.test_dataloader() for index in batch.indices.tolist()]
    assert sorted(indices) == list(range(len(demo_category.test)))


def test_file_dataset_reads_image_mask_and_label_of_the_same_file(demo_category):
    dataset = FileDataset(demo_category.test, (128, 128))
    for index, sample in enumerate(demo_category.test):
        batch = dataset.__getitems__([index])
        assert np.array_equal(batch.images[0].permute(1, 2, 0).numpy(), read_image(sample.path))
        assert batch.labels.item() == sample.label == int(batch.masks.any())
        if sample.mask_path is not None:
            assert np.array_equal(batch.masks[0, 0].numpy(), read_mask(sample.mask_path, size=(128, 128)))


def test_augmentation_changes_image_and_foreground_alike_and_is_reproducible(demo_category):
    albumentations = pytest.importorskip("albumentations")
    flip = build_augmentation(transforms=[albumentations.HorizontalFlip(p=1.0)])
    plain, flipped = next(iter(planned(make(demo_category)))), None
    flipped = next(iter(planned(make(demo_category, augmentation=flip))))
    assert torch.equal(flipped.images, plain.images.flip(-1))
    assert torch.equal(flipped.foreground, plain.foreground.flip(-1))
    sometimes = [albumentations.HorizontalFlip(p=0.5), albumentations.VerticalFlip(p=0.5)]
    runs = [make(demo_category, augmentation=build_augmentation(transforms=sometimes)) for _ in range(2)]
    first, second = ([batch.images for batch in planned(module)] for module in runs)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(torch.equal(a, b.images) for a, b in zip(first, planned(make(demo_category)), strict=True))


def test_images_seen_often_are_jittered_the_same_whatever_the_workers_and_devices(demo_category):
    def jitter(steps=31):  # of 4 images each 11 images are seen 11.3 times
        settings = ["category=x", "batch_size=4", f"distillation.steps={steps}", "augmentation.seen_more_than=11"]
        return build(TrainSettings.compose(*settings).augmentation)

    alone = pairs(make(demo_category, augmentation=jitter()))
    workers = pairs(make(demo_category, augmentation=jitter(), num_workers=2))
    assert all(equal(a, b) for a, b in zip(alone, workers, strict=True))
    devices = [pairs(make(demo_category, augmentation=jitter(), rank=rank, world_size=2)) for rank in range(2)]
    joined = [join(step) for step in zip(*devices, strict=True)]
    assert all(equal(a, b) for a, b in zip(alone, joined, strict=True))
    plain = pairs(make(demo_category))
    assert not any(torch.equal(a.normal[i], b.normal[i]) for a, b in zip(alone, plain, strict=True) for i in range(4))
    assert make(demo_category, augmentation=jitter()).lasting_images == 11  # one view, seen 11.3 times
    assert make(demo_category, augmentation=jitter(60)).lasting_images == 22
    enough = make(demo_category, augmentation=jitter(30))  # 10.9 times
    assert enough.training_images == 11
    assert enough.augmentation is None
    assert all(equal(a, b) for a, b in zip(pairs(enough), plain, strict=True))


def test_workers_outlast_signals_to_the_whole_group(demo_category):
    """Ctrl-C and a scheduler's SIGTERM reach them too, and the process they work for needs more batches to save."""
    batches = iter(planned(make(demo_category, num_workers=2, max_steps=12)))
    for _ in range(2):  # one of each: both have begun
        next(batches)
    workers = batches._workers
    for number in (signal.SIGINT, signal.SIGTERM):
        for worker in workers:
            os.kill(worker.pid, number)
    assert len(list(batches)) == 10
    for worker in workers:
        worker.join(PATIENCE_S)
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_a_worker_does_not_outlast_a_signal_for_long(demo_category, monkeypatch):
    """Python ends the workers of a process that leaves before its loader does in this way, and waits for them."""
    monkeypatch.setattr(datamodule, "WORKER_OUTLASTS_S", 1)
    batches = iter(planned(make(demo_category, num_workers=1, max_steps=12)))
    next(batches)
    (worker,) = batches._workers
    worker.terminate()
    for _ in range(2):  # torch tells a process that goes on by an error, unless the process has seen the end first
        with contextlib.suppress(RuntimeError):
            worker.join(PATIENCE_S)
    assert worker.exitcode == -signal.SIGALRM


def test_images_held_out_are_never_augmented(demo_category):
    jitter = build(TrainSettings.compose("category=x").augmentation)
    plain, module = make(demo_category), make(demo_category, augmentation=jitter)
    assert module.augmentation is jitter
    first, second = (next(iter(each.val_dataloader())).images for each in (plain, module))
    assert torch.equal(first, second)
    assert torch.equal(plain.held_out_pixels[:], module.held_out_pixels[:])


def test_augmentation_of_images_never_seen_is_refused():
    with pytest.raises(UserError, match=r"augmentation\.seen_more_than"):
        build(TrainSettings.compose("category=x", "augmentation.seen_more_than=0").augmentation)


@pytest.mark.parametrize("transform", ["CenterCrop", "Normalize", "ToFloat"])
def test_augmentation_that_changes_size_or_kind_is_refused(demo_category, transform):
    albumentations = pytest.importorskip("albumentations")
    made = getattr(albumentations, transform)(*((32, 32) if transform == "CenterCrop" else ()))
    crop = build_augmentation(transforms=[made])
    with pytest.raises(UserError, match="use transforms that keep kind and size"):
        next(iter(planned(make(demo_category, augmentation=crop))))


def test_no_transforms_no_augmentation():
    assert build_augmentation(transforms=[]) is None


def test_textures_that_are_missing(demo_category, tmp_path):
    with pytest.raises(
        UserError, match=r"pairs need texture images, none found in .*set data.textures_dir, or use pairs=mix"
    ):
        make(demo_category, synthesis=PairSynthesis(dtd=1, perlin=1), textures_dir=tmp_path)


def test_textures_are_chosen_by_the_plan(demo_category):
    folder = demo_category.test[0].path.parent
    module = make(demo_category, synthesis=PairSynthesis(dtd=1, perlin=1), textures_dir=folder)
    batch = next(iter(planned(module)))
    assert batch.textures.shape == (4, 3, 64, 64)
    assert batch.textures.float().std() > 0


def test_split_that_leaves_nothing(demo_category):
    with pytest.raises(UserError, match=r"data.held_out_fraction=1.5: the held-out fraction must be in \[0, 1\)"):
        make(demo_category, held_out_fraction=1.5)


def test_the_seeds_of_two_runs_give_different_pairs(demo_category):
    assert not equal(pairs(make(demo_category))[0], pairs(make(demo_category, seed=8))[0])


def test_no_device_is_left_without_images(demo_category):
    for rank in range(2):
        module = make(demo_category, rank=rank, world_size=2, held_out_fraction=0.01)
        numbers = [number for batch in module.val_dataloader() for number in batch.indices.tolist()]
        assert numbers == list(range(16))  # the one image again and again, each time with another twin


def test_batch_size_must_be_positive(demo_category):
    with pytest.raises(UserError, match="batch_size=0: give a positive whole number"):
        make(demo_category, batch_size=0)


def test_native_masks_keep_the_size_of_the_file(demo_category):
    dataset = FileDataset(demo_category.test, (64, 64), native_masks=True)
    batch = dataset.__getitems__(list(range(len(demo_category.test))))
    assert batch.images.shape[-2:] == (64, 64)
    for mask, sample in zip(batch.masks, demo_category.test, strict=True):
        assert mask.shape == (1, 128, 128)
        if sample.mask_path is not None:
            assert np.array_equal(mask[0].numpy(), read_mask(sample.mask_path, size=(128, 128)))
