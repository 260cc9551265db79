"""What pixel and image metrics share: cumulative counts in, an estimate with its interval out."""

import weakref
from abc import abstractmethod
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from dmdd.metrics.functional import UNDEFINED, Estimate, Steps


class EstimateMetric(Metric):
    """Base of a metric that gives an interval with its value.

    Args:
        kwargs: arguments of `torchmetrics.Metric`.

    After `compute`, `estimate` holds the value, the certified interval and, for the maxima, the threshold that reaches
    it. A metric that is undefined is NaN.

    Source: ours.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    n_images: Tensor
    estimate: Estimate

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("n_images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.estimate = UNDEFINED
        self._kept_dtypes: dict[str, torch.dtype] = {}

    @abstractmethod
    def _compute_estimate(self) -> Estimate:
        """Compute the metric from the state."""

    def compute(self) -> Tensor:
        """Compute the metric over everything seen.

        Returns:
            float64 scalar in [0, 1], or NaN where undefined; `estimate` holds the interval.
        """
        self.estimate = self._compute_estimate()
        return torch.tensor(self.estimate.value, dtype=torch.float64, device=self.device)

    def reset(self) -> None:
        """Forget everything seen."""
        super().reset()
        self.estimate = UNDEFINED

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the state of all processes, see `torchmetrics.Metric.sync`."""
        # torchmetrics sends an empty list as float32, which the integers of the other processes do not survive
        for name, dtype in self._kept_dtypes.items():
            kept = getattr(self, name)
            if isinstance(kept, list) and not kept:
                kept.append(torch.zeros(0, dtype=dtype, device=self.device))
        super().sync(*args, **kwargs)

    def _keep(self, name: str, dtype: torch.dtype) -> None:
        self.add_state(name, [], dist_reduce_fx="cat")
        self._kept_dtypes[name] = dtype

    def _kept(self, name: str) -> NDArray[Any]:
        parts = getattr(self, name)
        parts = [parts] if isinstance(parts, Tensor) else parts  # one tensor after a reduction over processes
        return torch.cat([torch.zeros(0, dtype=self._kept_dtypes[name]), *(part.cpu() for part in parts)]).numpy()


class StepMetric(EstimateMetric):
    """Base of a metric that is a function of the cumulative counts over thresholds.

    Args:
        kwargs: arguments of `torchmetrics.Metric`.

    Source: ours.
    """

    @abstractmethod
    def _estimate(self, steps: Steps) -> Estimate:
        """Compute the metric from the cumulative counts."""

    @abstractmethod
    def _steps(self) -> Steps:
        """Compute the cumulative counts from the state."""

    @abstractmethod
    def _latest_state(self) -> Tensor | None:
        """Give the state tensor that an update replaces or extends, None where there is none yet."""

    def steps(self) -> Steps:
        """Give the cumulative counts of what this process has seen, from which all curves are drawn.

        Returns:
            The counts at every threshold. Wrap the call in `metric.sync_context()` to have those of all processes.
        """
        return _LATEST.steps(self)

    def _compute_estimate(self) -> Estimate:
        return self._estimate(self.steps())

    def _latest_kept(self, name: str) -> Tensor | None:
        parts = getattr(self, name)
        return parts if isinstance(parts, Tensor) else (parts[-1] if parts else None)


class _LatestSteps:
    """The last cumulative counts, so that the metrics of a compute group, which share a state, share them too.

    They are forgotten with the state they came from. A cache by value would have to read the state, and one inside the
    metric would be kept once for each metric of the group.
    """

    def __init__(self) -> None:
        self._entry: tuple[weakref.ref[Tensor], int, Steps] | None = None

    def steps(self, metric: StepMetric) -> Steps:
        state, n_images = metric._latest_state(), int(metric.n_images)
        if self._entry is not None and self._entry[0]() is state and self._entry[1] == n_images:
            return self._entry[2]
        self._entry = None
        steps = metric._steps()
        if state is not None:
            self._entry = (weakref.ref(state, self._forget), n_images, steps)
        return steps

    def _forget(self, state: "weakref.ref[Tensor]") -> None:
        if self._entry is not None and self._entry[0] is state:
            self._entry = None


_LATEST = _LatestSteps()


def estimates(metrics: MetricCollection) -> dict[str, Estimate]:
    """Read the values with their intervals after `metrics.compute()`.

    Args:
        metrics: a collection, see `pixel_metrics` and `image_metrics`.

    Returns:
        The estimate of each metric that has one, by name.

    Source: ours. `metrics[name]` would copy the shared state for each metric.
    """
    items = metrics.items(copy_state=False)
    return {name: metric.estimate for name, metric in items if isinstance(metric, EstimateMetric)}
