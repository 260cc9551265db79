"""DMDD: Dual-Modeling Decouple Distillation for unsupervised image anomaly detection."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmdd.inference import Detection, Inspector, load

__version__ = "0.1.0"
__all__ = ["Detection", "Inspector", "__version__", "load"]


def __getattr__(name: str) -> Any:
    # Loaded when first asked for, so that `import dmdd` does not import torch.
    if name in ("Detection", "Inspector", "load"):
        from dmdd import inference

        return getattr(inference, name)
    raise AttributeError(f"module 'dmdd' has no attribute {name!r}")
