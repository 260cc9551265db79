"""Batch norm whose statistics are those of the global batch, on every kind of device."""

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _SumOverDevices(torch.autograd.Function):
    """Sum a tensor over the processes, forwards and backwards."""

    @staticmethod
    def forward(context: object, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: object, *gradients: Tensor) -> Tensor:
        # Each process's loss depends on the sum, so the gradient of its part is the sum of all processes' gradients.
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class SynchronizedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all processes.

    In evaluation, and in a single process, it is ``BatchNorm2d``. All processes must have equally many images, as the
    pair sampler gives them.

    Source: ours, for processors: torch's ``SyncBatchNorm`` exists for GPUs only.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(B, C, H, W)`` by channel."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(input)
        values = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        count = values.numel() // values.shape[1] * dist.get_world_size()
        mean = _SumOverDevices.apply(values.sum((0, 2, 3))) / count
        # In two passes: the mean of squares less the square of the mean loses digits where the mean is large.
        centred = values - mean.view(1, -1, 1, 1)
        variance = _SumOverDevices.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self._track(mean, variance * count / (count - 1))
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        result = centred * scale.view(1, -1, 1, 1)
        return (result if self.bias is None else result + self.bias.view(1, -1, 1, 1)).to(input.dtype)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


def synchronise_batch_norm(network: nn.Module, *, gpu: bool) -> None:
    """Let a network's batch norms share their statistics between devices.

    Lightning's ``sync_batchnorm`` is not used: it converts every batch norm of a module, the frozen teacher's too,
    drops the activations that timm fuses into some, and knows GPUs only.

    Args:
        network: Changed in place; its parameters stay the same objects.
        gpu: Use torch's own, which is fused; else :class:`SynchronizedBatchNorm2d`.
    """
    if gpu:
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SynchronizedBatchNorm2d
