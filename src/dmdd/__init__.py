"""DMDD: Dual-Modeling Decouple Distillation for unsupervised image anomaly detection."""

import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmdd.inference.predictor import Prediction, Predictor, load

__version__ = "0.1.0"
__all__ = ["Prediction", "Predictor", "__version__", "load"]

FORMER_NAMES = {"Inspector": "Predictor", "Detection": "Prediction"}


def __getattr__(name: str) -> Any:
    if name in FORMER_NAMES:
        warnings.warn(f"dmdd.{name} is now dmdd.{FORMER_NAMES[name]}", DeprecationWarning, stacklevel=2)
        name = FORMER_NAMES[name]
    # Loaded when first asked for, so that `import dmdd` does not import torch.
    if name in ("Prediction", "Predictor", "load"):
        from dmdd.inference import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module 'dmdd' has no attribute {name!r}")
