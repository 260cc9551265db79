"""Batch norm whose statistics are those of the global batch, on every kind of device."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class _NormOverDevices(Function):
    """Normalise by the statistics of all processes: one exchange forwards and one backwards, no read by the host."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, weight: Tensor, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
        own = torch.stack(torch.var_mean(wide, (0, 2, 3), correction=0))
        # A sum of tensors that are zero but in one row gathers them, which every backend can do.
        all_own = own.new_zeros(dist.get_world_size(), *own.shape)
        all_own[dist.get_rank()] = own
        dist.all_reduce(all_own)
        variances, means = all_own.unbind(1)
        mean = means.mean(0)
        # Not the mean of squares less the square of the mean, which loses digits where the mean is large.
        variance = (variances + (means - mean).square()).mean(0)
        ctx.save_for_backward(values, weight, mean, variance)
        ctx.eps, ctx.has_bias = eps, bias is not None
        ctx.mark_non_differentiable(mean, variance)
        return F.batch_norm(values, mean, variance, weight, bias, eps=eps), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor | None, None]:
        values, weight, mean, variance = ctx.saved_tensors
        scale = torch.rsqrt(variance + ctx.eps)
        # As if the statistics were fixed; then the part that goes through them, of which every process has a share.
        through, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, values, weight, mean, variance, mean, scale, False, ctx.eps, [True, True, True]
        )
        shares = torch.stack([by_bias, by_weight])
        dist.all_reduce(shares)
        shift, slope = -shares * (weight * scale / (_per_channel(values) * dist.get_world_size()))
        slope = slope * scale
        through = torch.addcmul(through, values, slope.to(values.dtype).view(1, -1, 1, 1))
        through.add_((shift - slope * mean).to(values.dtype).view(1, -1, 1, 1))
        return through, by_weight, by_bias if ctx.has_bias else None, None


def _per_channel(values: Tensor) -> int:
    return values.numel() // values.shape[1]


class SynchronizedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all processes.

    In evaluation, and in a single process, it is ``BatchNorm2d``. All processes must have equally many images, as the
    pair sampler gives them. torch's own ``SyncBatchNorm`` exists for GPUs only and makes the host wait for them.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(B, C, H, W)`` by channel."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(input)
        weight = torch.ones(input.shape[1], device=input.device) if self.weight is None else self.weight
        result, mean, variance = _NormOverDevices.apply(input, weight, self.bias, self.eps)
        count = _per_channel(input) * dist.get_world_size()
        with torch.no_grad():
            self._track(mean, variance * (count / (count - 1)))
        return result

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


def synchronise_batch_norm(network: nn.Module) -> None:
    """Let a network's batch norms share their statistics between devices.

    Lightning's ``sync_batchnorm`` is not used: it converts every batch norm of a module, the frozen teacher's too,
    drops the activations that timm fuses into some, and knows GPUs only.

    Args:
        network: Changed in place; its parameters stay the same objects.
    """
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SynchronizedBatchNorm2d
