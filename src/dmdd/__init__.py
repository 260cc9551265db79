"""DMDD: Dual-Modeling Decouple Distillation for unsupervised image anomaly detection."""

__version__ = "0.1.0"
