"""Losses of both stages: means over batch and pixels, so that the learning rate does not depend on the batch size."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from dmdd.core.errors import UserError

AIM_FORMS = ("margin", "l1")

_EPS = 1e-6  # smallest length of a feature


def cosine_distance(first: Tensor, second: Tensor) -> Tensor:
    """Compute one minus the cosine over channels, per pixel, in float32 whatever the inputs are.

    Args:
        first: ``(B, C, h, w)``.
        second: ``(B, C, h, w)``.

    Returns:
        ``(B, h, w)`` float32 in [0, 2].

    Source: paper.
    """
    return 1 - F.cosine_similarity(first.float(), second.float(), dim=1, eps=_EPS)


class _DistanceToTarget(Function):
    """:func:`cosine_distance` to features without gradient, in a third of the passes that autograd would make."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, target: Tensor) -> Tensor:
        f, t = features.float(), target.float()
        # Norms in one pass each; a product and a sum would take two.
        length = torch.linalg.vector_norm(f, dim=1).clamp_(min=_EPS)
        scale = torch.linalg.vector_norm(t, dim=1).clamp_(min=_EPS).mul_(length).reciprocal_()
        cosine = (f * t).sum(1).mul_(scale)
        squared = length.square_()
        ctx.save_for_backward(features, target, cosine, scale, squared)
        return 1 - cosine

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        features, target, cosine, scale, squared = ctx.saved_tensors
        along, away = gradient * cosine / squared, -gradient * scale
        total = (features.float() * along[:, None]).addcmul_(target.float(), away[:, None])
        return total.to(features.dtype), None


def distance_to_target(features: Tensor, target: Tensor) -> Tensor:
    """Compute :func:`cosine_distance` with a fast gradient by the first argument.

    Args:
        features: ``(B, C, h, w)``, trained.
        target: ``(B, C, h, w)``, fixed.

    Returns:
        ``(B, h, w)`` float32 in [0, 2].

    Source: paper; the closed form of the gradient is ours.
    """
    distance: Tensor = _DistanceToTarget.apply(features, target.detach())
    return distance


def normality_guidance_loss(
    normality: list[Tensor], teacher_normal: list[Tensor], *, hard_fraction: float = 1.0
) -> Tensor:
    """Compute ``L_NGM``: normality features of the anomalous image fit the teacher's of its normal twin.

    With ``hard_fraction < 1`` only the largest distances of each image count: most of an image is fitted early, and
    its mean distance then says little of the places that will be taken for anomalies. They are chosen per image and
    level, so that the loss over a batch is the mean of the losses over its parts.

    Args:
        normality: ``N_l(x~)``, ``(B, C_l, h_l, w_l)`` for each level.
        teacher_normal: ``T_l(x)``, same shapes.
        hard_fraction: Share of an image's distances that count at each level, in (0, 1].

    Returns:
        Scalar in [0, 2 L] for L levels.

    Source: paper (NGM); hard distances after EfficientAD's hard feature loss (Batzner et al., WACV 2024);
    experiments/maps has what they are worth here.
    """
    total = []
    for n, t in zip(normality, teacher_normal, strict=True):
        distance = distance_to_target(n, t).flatten(1)
        count = max(1, round(hard_fraction * distance.shape[1]))
        total.append(distance.mean() if count == distance.shape[1] else distance.topk(count, dim=1).values.mean())
    return torch.stack(total).sum()


def abnormality_mimicking_loss(
    abnormality: list[Tensor], teacher_anomalous: list[Tensor], mask: Tensor, *, form: str = "margin"
) -> Tensor:
    """Compute ``L_AIM``: abnormality features mimic the teacher outside the anomaly and leave it inside.

    The two means of the ``margin`` form are taken per image and then over the batch, so that the loss over a batch is
    the mean of the losses over its parts, however many devices share it. An image without anomalous cells adds zero to
    the second mean.

    Args:
        abnormality: ``A_l(x~)``, ``(B, C_l, h_l, w_l)`` for each level.
        teacher_anomalous: ``T_l(x~)``, same shapes.
        mask: ``(B, 1, H, W)`` in {0, 1}; a cell of a level is anomalous if any of its pixels is.
        form: ``margin`` (``mean_{m=0} D + mean_{m=1} max(0, cos)``) or ``l1`` (``mean |D - m|``).

    Returns:
        Scalar, in [0, 3 L] for L levels.

    Raises:
        UserError: ``form`` is neither of the two.

    Source: paper (AIM) for the idea; ``margin`` reconstructed, ``l1`` the group's later code.
    """
    if form not in AIM_FORMS:
        raise UserError(f"aim={form}: choose one of {', '.join(AIM_FORMS)}")
    total = []
    insides = level_masks(mask, [(a.shape[-2], a.shape[-1]) for a in abnormality])
    for a, t, inside in zip(abnormality, teacher_anomalous, insides, strict=True):
        distance = distance_to_target(a, t)
        if form == "l1":
            total.append((distance - inside).abs().mean())
            continue
        outside = 1 - inside
        mimic = (distance * outside).sum((1, 2)) / outside.sum((1, 2)).clamp(min=1)
        leave = ((1 - distance).clamp(min=0) * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)
        total.append((mimic + leave).mean())
    return torch.stack(total).sum()


def level_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Reduce a mask to a level's grid: a cell is anomalous if any of its pixels is.

    Nearest or mean-and-threshold reduction was rejected: both lose scratches thinner than a cell.

    Args:
        mask: ``(B, 1, H, W)`` in {0, 1}.
        size: Height and width of the level, in cells.

    Returns:
        ``(B, 1, *size)`` float32 in {0, 1}.

    Source: ours.
    """
    height, width = size
    if mask.shape[-2] % height or mask.shape[-1] % width:
        return F.adaptive_max_pool2d(mask.float(), size)
    # The same, rows first: half the time on a CPU.
    rows = mask.float().unflatten(2, (height, -1)).amax(3)
    return rows.unflatten(3, (width, -1)).amax(4)


def level_masks(mask: Tensor, sizes: list[tuple[int, int]]) -> list[Tensor]:
    """Reduce a mask to the grids of several levels, each from the one before where its cells are made of whole ones.

    Args:
        mask: ``(B, 1, H, W)`` in {0, 1}.
        sizes: Height and width of each level, in cells.

    Returns:
        ``(B, *size)`` float32 in {0, 1} for each level, equal to :func:`level_mask`'s.

    Source: ours.
    """
    masks: list[Tensor] = []
    reduced = mask
    for height, width in sizes:
        whole = reduced.shape[-2] % height == 0 and reduced.shape[-1] % width == 0
        reduced = level_mask(reduced if whole else mask, (height, width))
        masks.append(reduced[:, 0])
    return masks


def segmentation_loss(logits: Tensor, mask: Tensor, *, focal_gamma: float = 4.0) -> Tensor:
    """Compute focal loss plus L1 between the segmentation network's map and the mask.

    Args:
        logits: ``(B, 1, h, w)``.
        mask: ``(B, 1, H, W)`` in {0, 1}, reduced to ``(h, w)`` by :func:`level_mask`.
        focal_gamma: Exponent that plays down pixels that are already right; 0 gives the cross-entropy.

    Returns:
        Scalar, at least 0.

    Source: reconstructed, after DeSTSeg.
    """
    logits = logits.float()
    target = level_mask(mask, (logits.shape[-2], logits.shape[-1]))
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    miss = (torch.sigmoid(logits) - target).abs()  # 1 - p of the right class
    return (miss**focal_gamma * cross_entropy).mean() + miss.mean()
