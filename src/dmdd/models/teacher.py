"""The teacher: a frozen ImageNet-pretrained backbone whose stages at strides 4, 8 and 16 are the features."""

import re
from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn

from dmdd.core.errors import UserError
from dmdd.core.failures import is_out_of_memory
from dmdd.models.folding import fold_batch_norms

STRIDES = (4, 8, 16)


class Teacher(nn.Module):
    """Frozen feature extractor, always in evaluation mode.

    Args:
        backbone: timm model name, e.g. ``wide_resnet50_2``; any model with stages at strides 4, 8 and 16 works.
        mean: Per-channel mean of the normalisation the backbone was trained with; the backbone's own if None.
        std: Per-channel standard deviation, likewise.
        state: State dict of the whole timm classifier or of its feature extractor; random weights if None.
        folded: Fold the batch norms and leave out what no level needs, see :meth:`fold`.

    Raises:
        UserError: The backbone is unknown to timm, lacks one of the strides, or ``state`` does not fit it.

    Source: paper (frozen, pretrained teacher); stages 1-3 as in the group's code.
    """

    def __init__(
        self,
        *,
        backbone: str,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        state: dict[str, Tensor] | None = None,
        folded: bool = False,
    ) -> None:
        super().__init__()
        check_backbone(backbone)
        whole: Any = timm.create_model(backbone, pretrained=False, features_only=True)
        reductions = whole.feature_info.reduction()
        levels = [i for i, stride in enumerate(reductions) if stride in STRIDES]
        if [reductions[i] for i in levels] != list(STRIDES):
            raise UserError(
                f"teacher.backbone={backbone} has no stages at strides 4, 8 and 16; choose another backbone"
            )
        # A second construction, so that the stages above stride 16 are not kept or computed.
        network: Any = timm.create_model(backbone, pretrained=False, features_only=True, out_indices=tuple(levels))
        if state is not None:
            load_features(network, state, backbone)
        self.network = network
        default = network.default_cfg or {}
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", _as_channels(default.get("mean") if mean is None else mean), persistent=False)
        self.register_buffer("std", _as_channels(default.get("std") if std is None else std), persistent=False)
        self.channels: tuple[int, ...] = tuple(network.feature_info.channels())
        self.spec: dict[str, Any] = {
            "backbone": backbone,
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
            "folded": False,
        }
        self.requires_grad_(False)
        self.eval()
        if folded:
            self.fold()

    def fold(self) -> None:
        """Fold the batch norms into the convolutions and drop trailing blocks that no level needs.

        The same function but for rounding, in about half the time on a CPU; the names of the state dict change.

        Source: ours.
        """
        if self.spec["folded"]:
            return
        config = self.network.default_cfg or {}
        side = config.get("input_size", (3, 64, 64))[-1] if config.get("fixed_input_size") else 64
        probe = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
        drop_unused_blocks(self.network, probe)
        fold_batch_norms(self.network, probe)
        self.spec["folded"] = True

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in evaluation mode whatever is asked: a teacher whose batch statistics move is no teacher."""
        return super().train(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute the features of each level.

        Args:
            images: ``(B, 3, H, W)`` in [0, 1], RGB; ``H`` and ``W`` multiples of 32.

        Returns:
            Three tensors ``(B, C_l, H / s, W / s)`` for ``s`` = 4, 8, 16, without gradients.
        """
        with torch.no_grad():
            return list(self.network((images - self.mean) / self.std))


def check_features(teacher: Teacher, size: Sequence[int]) -> None:
    """Refuse a backbone that does not take images of a size, or whose features are not laid out as ours.

    Args:
        teacher: The teacher.
        size: Height and width in pixels.

    Raises:
        UserError: It is such a one.
    """
    height, width = size
    name = teacher.spec["backbone"]
    try:
        shapes = [tuple(level.shape) for level in teacher(torch.zeros(1, 3, height, width))]
    except (AssertionError, RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        told = " ".join(str(error).split())[:160]
        raise UserError(f"teacher.backbone={name} does not take images of {height} x {width} px: {told}") from error
    wanted = [(1, c, height // s, width // s) for c, s in zip(teacher.channels, STRIDES, strict=True)]
    if shapes != wanted:
        raise UserError(f"teacher.backbone={name} gives features {shapes} where {wanted} are needed; choose another")


def check_backbone(backbone: object) -> None:
    """Refuse what is not the name of a timm model; a name that looks like a number arrives as one.

    Args:
        backbone: ``teacher.backbone``.

    Raises:
        UserError: With close names, where there are some.
    """
    if not isinstance(backbone, str) or not timm.is_model(backbone):
        close = timm.list_models(f"*{str(backbone)[:8]}*")[:5]
        raise UserError(f"teacher.backbone={backbone} is not a timm model; close ones: {', '.join(close) or 'none'}")


def _as_channels(values: Sequence[float] | None) -> Tensor:
    return torch.tensor(list(values or (0.5, 0.5, 0.5)), dtype=torch.float32).view(1, -1, 1, 1)


def drop_unused_blocks(network: Any, probe: Tensor) -> None:
    """Drop blocks at the end that no feature comes from; some of timm's extractors compute them all the same.

    Args:
        network: Feature extractor; one without a sequence ``blocks`` stays as it is.
        probe: Images to run it with: a block goes only if the features stay the same.
    """
    if not isinstance(getattr(network, "blocks", None), nn.Sequential):
        return
    with torch.no_grad():
        expected = network(probe)
        while len(network.blocks) > 1:
            blocks = network.blocks
            network.blocks = blocks[:-1]
            found = network(probe)
            if len(found) != len(expected) or not all(map(torch.equal, found, expected)):
                network.blocks = blocks
                return


def load_features(network: nn.Module, state: dict[str, Tensor], backbone: str) -> None:
    """Copy ``state`` into the feature extractor; a classifier's surplus (its last stage, its head) is ignored."""
    wanted = network.state_dict()
    # timm's extractor flattens some families' stages: what a checkpoint calls stages.0.x it calls stages_0.x.
    plain = {name: name if name in state else re.sub(r"^([a-z]+)_(\d+)\.", r"\1.\2.", name) for name in wanted}
    fitting = [n for n in wanted if plain[n] in state and state[plain[n]].shape == wanted[n].shape]
    found = {name: state[plain[name]] for name in fitting}
    # A checkpoint written before batch counters existed is complete without them: they are not used in eval mode.
    missing = [name for name in wanted if name not in found and not name.endswith("num_batches_tracked")]
    if missing:
        raise UserError(
            f"the weights do not fit teacher.backbone={backbone}: {len(missing)} of {len(wanted)} tensors are missing "
            f"or of another shape, the first is {missing[0]}"
        )
    network.load_state_dict(found, strict=False)
