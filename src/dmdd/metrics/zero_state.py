"""Large sums as states of a metric, which take no memory before something is counted.

The private parts of torchmetrics that are used, all of them; `test_unused_metrics_take_no_memory` holds each.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric


class ZeroStateMetric(Metric):
    """Base of metrics with a large sum, which is one zero seen everywhere until something is counted.

    torchmetrics spells a state out twice, as state and as what `reset` goes back to: 50 MB for each pixel metric of a
    collection, also for those that share the sums of another.

    Args:
        kwargs: arguments of `torchmetrics.Metric`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._zero_shapes: dict[str, tuple[int, ...]] = {}

    def add_zero_state(self, name: str, shape: tuple[int, ...]) -> None:
        """Add a state of int64 zeros that is summed over processes.

        Args:
            name: its name.
            shape: its shape.
        """
        self.add_state(name, torch.zeros(()), dist_reduce_fx="sum")
        self._zero_shapes[name] = shape
        self._set_zero(name)

    def counted(self, name: str) -> Tensor:
        """Give a state to count into, in place.

        Args:
            name: its name.

        Returns:
            The state, contiguous.
        """
        with torch.inference_mode(False):  # the state may be used outside the test loop that fills it
            setattr(self, name, getattr(self, name).contiguous())
        return getattr(self, name)

    def reset(self) -> None:
        """Forget everything seen."""
        super().reset()
        for name in self._zero_shapes:
            self._set_zero(name)

    def _set_zero(self, name: str) -> None:
        zero = torch.zeros((), dtype=torch.int64, device=self.device).expand(self._zero_shapes[name])
        self._defaults[name] = zero
        setattr(self, name, zero)

    def _apply(self, fn: Callable[..., Any], exclude_state: Sequence[str] = ()) -> nn.Module:
        """Move to another device; a zero seen everywhere stays one."""
        moved = super()._apply(fn, [*exclude_state, *self._zero_shapes])
        for name in self._zero_shapes:
            state = getattr(self, name)
            self._set_zero(name)
            if not (state.numel() and state.stride(-1) == 0):
                setattr(self, name, state.to(self.device))
        return moved
