"""Two processes train as one does: same gradients, same statistics, same batches."""

import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from dmdd.models.batch_norm import SynchronizedBatchNorm2d, synchronise_batch_norm
from dmdd.models.losses import abnormality_mimicking_loss, normality_guidance_loss
from dmdd.models.student import Student

CHANNELS = [6, 8, 10]


def make_student() -> Student:
    torch.manual_seed(0)
    return Student(channels=CHANNELS, body="reverse", widths=[8, 8, 12]).double().train()


def make_batch(count: int):
    generator = torch.Generator().manual_seed(1)

    def features():
        return [
            torch.rand(count, c, 64 // s, 64 // s, generator=generator, dtype=torch.float64)
            for c, s in zip(CHANNELS, (4, 8, 16), strict=True)
        ]

    mask = (torch.rand(count, 1, 64, 64, generator=generator) > 0.97).double()
    return features(), features(), mask


def loss_of(student, normal, anomalous, mask):
    normality, abnormality = student(torch.zeros(len(mask), 3, 64, 64, dtype=torch.float64), anomalous)
    return normality_guidance_loss(normality, normal) + abnormality_mimicking_loss(abnormality, anomalous, mask)


def train_half(rank: int, port: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    student = make_student()
    synchronise_batch_norm(student)
    normal, anomalous, mask = make_batch(4)
    own = slice(2 * rank, 2 * rank + 2)
    loss = loss_of(student, [f[own] for f in normal], [f[own] for f in anomalous], mask[own])
    loss.backward()
    for parameter in student.parameters():
        dist.all_reduce(parameter.grad)
        parameter.grad /= 2  # as distributed data parallel does
    dist.all_reduce(loss.detach())
    if rank == 0:
        state = {"loss": loss.detach() / 2, "buffers": dict(student.named_buffers())}
        torch.save(state | {"gradients": {n: p.grad for n, p in student.named_parameters()}}, f"{folder}/half.pt")
    dist.destroy_process_group()


def test_gradients_and_statistics_of_two_processes_are_those_of_one(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(train_half, (port, str(tmp_path)), nprocs=2)
    found = torch.load(tmp_path / "half.pt", weights_only=True)
    student = make_student()
    loss = loss_of(student, *make_batch(4))
    loss.backward()
    assert found["loss"].item() == pytest.approx(loss.item(), rel=1e-12)
    largest = max(p.grad.abs().max().item() for p in student.parameters())
    for name, parameter in student.named_parameters():
        assert torch.allclose(found["gradients"][name], parameter.grad, rtol=1e-9, atol=1e-12 * largest), name
    for name, buffer in student.named_buffers():
        assert torch.allclose(found["buffers"][name].double(), buffer.double(), rtol=1e-12), name


def test_alone_and_in_evaluation_it_is_the_ordinary_batch_norm():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    synchronise_batch_norm(network)
    assert type(network[1]) is SynchronizedBatchNorm2d
    ordinary = nn.BatchNorm2d(4)
    x = torch.rand(2, 4, 5, 5)
    for mode in (True, False):
        assert torch.equal(network[1].train(mode)(x), ordinary.train(mode)(x))
    assert torch.equal(network[1].running_var, ordinary.running_var)


def test_a_norm_exchanges_once_each_way(monkeypatch):
    """Each exchange is a launch on every GPU; torch's own norm also makes the host wait for the GPU three times."""
    exchanged = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: exchanged.append(tuple(tensor.shape)))
    norm = nn.BatchNorm2d(4)
    synchronise_batch_norm(norm)
    norm(torch.rand(2, 4, 5, 5)).sum().backward()
    assert exchanged == [(2, 2, 4), (2, 4)]
