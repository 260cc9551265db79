"""Frozen networks prepared for half precision compute the bits that autocast would have."""

import pytest
import torch

from dmdd.models.student import Student
from dmdd.models.teacher import Teacher
from dmdd.training.frozen import for_training

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def networks():
    torch.manual_seed(0)
    teacher = Teacher(backbone="resnet10t")
    return teacher, Student(channels=teacher.channels, widths=(8, 12, 16)).requires_grad_(False).eval()


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16)])
def test_the_copy_computes_the_same_bits(networks, precision, dtype):
    found = []
    for teacher, student in (networks, [for_training(network, precision) for network in networks]):
        with torch.autocast("cpu", dtype), torch.no_grad():
            features = teacher(IMAGES)
            normality, abnormality = student(IMAGES, features)
            found.append([*features, *normality, *abnormality])
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(*found, strict=True))


def test_the_network_itself_stays_as_it_is(networks):
    before = {name: value.clone() for name, value in networks[0].state_dict().items()}
    copy = for_training(networks[0], "bf16-mixed")
    assert copy.network.layer1[0].conv1.weight.dtype == torch.bfloat16
    assert all(torch.equal(value, before[name]) for name, value in networks[0].state_dict().items())
    assert for_training(networks[0], "32-true") is networks[0]
