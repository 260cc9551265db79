"""The scale on which scores are compared."""

import numpy as np
from numpy.typing import ArrayLike


def logit(scores: ArrayLike) -> np.ndarray:
    """Stretch scores in [0, 1] to the whole line, cut at +-14 as 0 and 1 have no place there."""
    inside = np.clip(np.asarray(scores, np.float64), 1e-6, 1 - 1e-6)
    return np.log(inside) - np.log1p(-inside)
