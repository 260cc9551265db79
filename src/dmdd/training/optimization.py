"""Optimiser, schedule and logging of both stages."""

from collections.abc import Iterable

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn


def adamw_one_cycle(
    parameters: Iterable[nn.Parameter], *, learning_rate: float, weight_decay: float, steps: int, fused: bool = True
) -> OptimizerLRSchedulerConfig:
    """Build AdamW with a one-cycle learning rate over the whole stage.

    Args:
        parameters: What is trained.
        learning_rate: Peak learning rate.
        weight_decay: Decoupled weight decay, on matrices and convolutions; biases and norms have none.
        steps: Steps of the stage.
        fused: Update all parameters in one kernel; Lightning cannot clip gradients for such an optimiser.

    Returns:
        What ``configure_optimizers`` returns; the schedule steps every batch.

    Source: ours.
    """
    trained = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, fused=fused)
    # One more step than the stage has: Lightning steps the schedule after the last batch too. It rises for at least
    # one step, since torch divides by the length of the rise less one: a stage of 9 steps would fail.
    total = steps + 1
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=total, pct_start=max(0.1, 2 / total)
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def over_devices(losses: dict[str, Tensor], trainer: Trainer) -> dict[str, Tensor]:
    """Average losses over the devices in the steps that are logged; in the others it would only cost time.

    Lightning's ``sync_dist`` would do it in every step.

    Args:
        losses: Scalars by name, of this device.
        trainer: In a training step.

    Returns:
        The same names, without gradients.
    """
    values = torch.stack([loss.detach().float() for loss in losses.values()])
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    if trainer.world_size > 1 and (trainer.global_step + 1) % every == 0:
        torch.distributed.all_reduce(values)
        values = values / trainer.world_size
    return dict(zip(losses, values, strict=True))


def learning_rate_of(module: LightningModule) -> Tensor:
    """Give the learning rate of the step, to be logged, as a scalar on the module's device.

    Made there: of a plain number Lightning would make one with a copy that waits for all the device still has to do.

    Args:
        module: In a training step.
    """
    optimizer: torch.optim.Optimizer = module.trainer.optimizers[0]
    return torch.full((), optimizer.param_groups[0]["lr"], device=module.device)
