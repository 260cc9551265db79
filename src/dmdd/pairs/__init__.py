"""Anomalous twins of normal images, made in batches on the device that trains."""

from dmdd.pairs.foreground import estimate_foreground
from dmdd.pairs.plan import PLAN_LENGTH, Column, draw_plan
from dmdd.pairs.synthesis import PairSynthesis

__all__ = ["PLAN_LENGTH", "Column", "PairSynthesis", "draw_plan", "estimate_foreground"]
