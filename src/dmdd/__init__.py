"""DMDD: Dual-Modeling Decouple Distillation for unsupervised image anomaly detection."""

import importlib
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmdd.config.schema import EvaluateSettings, ExportSettings, PredictSettings, TrainSettings
    from dmdd.deploy.export.job import export_model
    from dmdd.experiment.run import Run, fit, test
    from dmdd.inference.folder.run import predict_folder
    from dmdd.inference.prediction import Prediction
    from dmdd.inference.predictor import Predictor, load

__version__ = "0.1.0"
__all__ = [
    "EvaluateSettings",
    "ExportSettings",
    "PredictSettings",
    "Prediction",
    "Predictor",
    "Run",
    "TrainSettings",
    "__version__",
    "export_model",
    "fit",
    "load",
    "predict_folder",
    "test",
]

HOMES = {
    "EvaluateSettings": "dmdd.config.schema",
    "ExportSettings": "dmdd.config.schema",
    "PredictSettings": "dmdd.config.schema",
    "Prediction": "dmdd.inference.prediction",
    "Predictor": "dmdd.inference.predictor",
    "Run": "dmdd.experiment.run",
    "TrainSettings": "dmdd.config.schema",
    "export_model": "dmdd.deploy.export.job",
    "fit": "dmdd.experiment.run",
    "load": "dmdd.inference.predictor",
    "predict_folder": "dmdd.inference.folder.run",
    "test": "dmdd.experiment.run",
}
"""Where the public names live; loaded when first asked for, so that `import dmdd` does not import torch."""

FORMER_NAMES = {"Inspector": "Predictor", "Detection": "Prediction"}


def __getattr__(name: str) -> Any:
    if name in FORMER_NAMES:
        warnings.warn(f"dmdd.{name} is now dmdd.{FORMER_NAMES[name]}", DeprecationWarning, stacklevel=2)
        name = FORMER_NAMES[name]
    if name in HOMES:
        return getattr(importlib.import_module(HOMES[name]), name)
    raise AttributeError(f"module 'dmdd' has no attribute {name!r}")
