"""Two processes give the bits of one."""

import math

import numpy as np
import pytest
import torch
import torch.multiprocessing

from dmdd.metrics import (
    Channel,
    DefectTypes,
    ImageDecisions,
    PixelBootstrap,
    SaturatedAUPRO,
    image_metrics,
    pixel_metrics,
)

N_IMAGES = 5
TYPES = ["good", "dent", "scratch", "good", "dent"]


def data():
    rng = np.random.default_rng(7)
    masks = np.zeros((N_IMAGES, 16, 16), np.uint8)
    masks[1, 1:4, 1:8], masks[2, 5, :], masks[4, 10:13, 9:12], masks[4, 0, 0] = 1, 1, 1, 1
    maps = (rng.random(masks.shape) + 0.2 * masks).astype(np.float32)
    return torch.from_numpy(maps), torch.from_numpy(masks)


def evaluate(indices):
    """All metrics over some of the images, as nested lists of Python numbers."""
    maps, masks = data()
    plain, exact, images = pixel_metrics(), pixel_metrics(exact=True), image_metrics()
    by_type, bootstrap = DefectTypes(["dent", "scratch"], threshold=0.9), PixelBootstrap(n_resamples=20)
    decisions, saturated = ImageDecisions(0.9), SaturatedAUPRO(0.3, exact=True)
    for index in indices:
        batch = maps[[index]], masks[[index]]
        plain.update(*batch)
        exact.update(*batch)
        images.update(batch[0].amax((1, 2)), batch[1].amax((1, 2)))
        by_type.update(*batch, [TYPES[index]])
        bootstrap.update(*batch, [index])
        decisions.update(batch[0].amax((1, 2)), batch[1].amax((1, 2)))
        mask = batch[1][0].numpy() == 1
        saturated.update(batch[0], [[Channel(mask, 3)] if mask.any() else []])
    results = {"saturated": saturated.compute().item()}
    named = {"plain": plain, "exact": exact, "images": images, "type": by_type, "boot": bootstrap, "at": decisions}
    for name, metric in named.items():
        results[name] = {key: value.tolist() for key, value in metric.compute().items()}
    return results


def worker(rank, store, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    uneven = evaluate(range(rank, N_IMAGES, 2))
    torch.save(uneven, f"{folder}/uneven{rank}")
    # torchmetrics warns of a process that saw nothing; it is what is tested here
    with pytest.warns(UserWarning, match="before the ``update`` method") if rank else torch.no_grad():
        one_idle = evaluate(range(N_IMAGES) if rank == 0 else [])
    torch.save(one_idle, f"{folder}/one_idle{rank}")
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_bits_of_one(tmp_path):
    expected = evaluate(range(N_IMAGES))
    assert not any(math.isnan(value) for value in [*expected["plain"].values(), *expected["images"].values()])
    torch.multiprocessing.spawn(worker, (tmp_path / "store", tmp_path), nprocs=2)
    for name in ("uneven0", "uneven1", "one_idle0", "one_idle1"):
        assert torch.load(tmp_path / name) == expected, name
