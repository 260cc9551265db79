"""Pixel figures of a region: the pixels that count, in a form that every pixel metric takes."""

import cv2
import numpy as np
import torch
from torch import Tensor


def keep_inside(scores: Tensor, mask: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Lay the pixels of a region out in one row, so that the metrics see no other and no region changes.

    Pixel metrics do not ask where a pixel is, but which anomalous pixels touch. In the row those of one 8-connected
    region lie side by side, and a normal pixel lies between two regions.

    Args:
        scores: ``(1, H, W)`` floating.
        mask: ``(1, H, W)`` bool, anomalous pixels.
        inside: ``(1, H, W)`` bool, pixels that count.

    Returns:
        Scores and mask ``(1, 1, N)``, of the N pixels inside. A region cut by the border counts by what is left of it.

    Source: ours.
    """
    kept = inside[0].cpu().numpy()
    marked = mask[0].cpu().numpy().astype(bool) & kept
    _, labels = cv2.connectedComponents(marked.astype(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    normal, anomalous = np.flatnonzero(kept & ~marked), np.flatnonzero(marked)
    region = labels.ravel()[anomalous]
    order = np.argsort(region, kind="stable")
    anomalous, region = anomalous[order], region[order]
    # One normal pixel before each region but the first, as long as there are some.
    ends = 1 + np.flatnonzero(np.diff(region))[: len(normal)]
    row = np.concatenate([np.insert(anomalous, ends, normal[: len(ends)]), normal[len(ends) :]])
    index = torch.from_numpy(row)
    flat = torch.from_numpy(marked.ravel()[row])[None, None]
    return scores.flatten()[index.to(scores.device)][None, None], flat.to(mask.device)
