"""How long tests wait."""

PATIENCE_S = 600
"""For what ends by itself or not at all: no test fails because a machine is busy."""
