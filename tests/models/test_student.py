"""The student's shapes, the independence of its branches, and what each body sees."""

import pytest
import torch

from dmdd.core.errors import UserError
from dmdd.models.student import Student

CHANNELS = (6, 10, 14)
IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def teacher_features(seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, c, 64 // s, 96 // s, generator=generator) for c, s in zip(CHANNELS, (4, 8, 16), strict=True)]


def make(body: str) -> Student:
    torch.manual_seed(0)
    return Student(channels=CHANNELS, body=body, widths=(8, 12, 16))


@pytest.mark.parametrize("body", ["reverse", "encoder_decoder"])
def test_both_branches_have_the_teachers_shapes(body):
    normality, abnormality = make(body)(IMAGES, teacher_features())
    expected = [tuple(f.shape) for f in teacher_features()]
    assert [tuple(f.shape) for f in normality] == expected
    assert [tuple(f.shape) for f in abnormality] == expected


@pytest.mark.parametrize("body", ["reverse", "encoder_decoder"])
def test_branches_share_no_storage_and_have_equal_capacity(body):
    for head in make(body).heads:
        normality, abnormality = dict(head.normality.named_parameters()), dict(head.abnormality.named_parameters())
        assert {n: p.shape for n, p in normality.items()} == {n: p.shape for n, p in abnormality.items()}
        first = {p.untyped_storage().data_ptr() for p in normality.values()}
        second = {p.untyped_storage().data_ptr() for p in abnormality.values()}
        assert len(first) == len(normality)
        assert not first & second


def test_a_loss_on_one_branch_leaves_the_other_without_gradient():
    student = make("reverse")
    normality, _ = student(IMAGES, teacher_features())
    sum(feature.square().sum() for feature in normality).backward()
    for head in student.heads:
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.normality[1].parameters())
        assert all(p.grad is None for p in head.abnormality.parameters())


def test_reverse_sees_features_and_encoder_decoder_sees_images():
    with torch.no_grad():
        for body, sees_images in (("reverse", False), ("encoder_decoder", True)):
            student = make(body).eval()
            base = student(IMAGES, teacher_features())[0][0]
            other_image = student(1 - IMAGES, teacher_features())[0][0]
            other_features = student(IMAGES, teacher_features(seed=2))[0][0]
            assert torch.equal(base, other_image) is not sees_images
            assert torch.equal(base, other_features) is sees_images


@pytest.mark.parametrize("body", ["reverse", "encoder_decoder"])
def test_float64_weights_take_float32_images(body):
    """As the twins are made, whatever trainer.precision says."""
    with torch.no_grad():
        normality, _ = make(body).double()(IMAGES, [feature.double() for feature in teacher_features()])
    assert {level.dtype for level in normality} == {torch.float64}


def test_default_reverse_student_has_the_prototypes_size():
    count = sum(p.numel() for p in Student(channels=(24, 40, 112)).parameters())
    assert 5.0e6 < count < 6.0e6  # 5.5 million


def test_unknown_body():
    with pytest.raises(UserError, match=r"student.body=unet: choose one of reverse, encoder_decoder"):
        Student(channels=CHANNELS, body="unet")


def test_widths_of_the_wrong_length():
    with pytest.raises(UserError, match=r"student.widths=\[8, 8\]: give three positive numbers"):
        Student(channels=CHANNELS, widths=(8, 8))
