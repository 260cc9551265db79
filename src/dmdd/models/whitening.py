"""Whitened residuals: how far teacher and student differ, measured by how they differ on normal images."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHRINKAGE = 0.01
"""Share of the mean variance that is added to every variance: keeps the covariance invertible and its noise small."""

Features = Callable[[Tensor], tuple[list[Tensor], list[Tensor]]]


class ResidualWhitening(nn.Module):
    """Whiten the residuals of teacher and student with a Gaussian of normal images, one for each level.

    The cosine distance takes every direction of a residual for equally telling. On normal images the student errs
    much more in some directions than in others; whitened, they count alike, and a small error in a direction in which
    it never errs becomes visible. Before :meth:`fit` the residuals stay as they are.

    Args:
        channels: Teacher channels of each level.

    Source: ours; a Gaussian of features after PaDiM (Defard et al., ICPR 2020), here of residuals and one for all
    positions.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        for level, count in enumerate(channels):
            self.register_buffer(f"mean_{level}", torch.zeros(count))
            self.register_buffer(f"matrix_{level}", torch.eye(count))
        self.levels = len(channels)

    def gaussian(self, level: int) -> tuple[Tensor, Tensor]:
        """Give a level's mean ``(C_l,)`` and whitening matrix ``(C_l, C_l)``."""
        return self.get_buffer(f"mean_{level}"), self.get_buffer(f"matrix_{level}")

    def forward(self, teacher: list[Tensor], normality: list[Tensor]) -> list[Tensor]:
        """Whiten the residuals.

        Args:
            teacher: ``(B, C_l, h_l, w_l)`` for each level.
            normality: The student's normality features, same shapes.

        Returns:
            The same shapes, float32; on normal images every channel has mean 0 and variance 1 or a little less.
        """
        whitened = []
        with torch.autocast(teacher[0].device.type, enabled=False):  # a difference of bfloat16 numbers is mostly noise
            for level, (t, n) in enumerate(zip(teacher, normality, strict=True)):
                mean, matrix = self.gaussian(level)
                shifted = residual(t, n).to(mean.dtype) - mean[:, None, None]
                whitened.append(F.conv2d(shifted, matrix[:, :, None, None]).float())
        return whitened

    @torch.no_grad()
    def fit(self, images: Tensor, features: Features, *, batch_size: int = 8) -> None:
        """Estimate mean and covariance of the residuals of every position of normal images.

        Sums are kept in float64, so the outcome depends on neither the order of the images nor the number of devices.

        Args:
            images: ``(N, 3, h, w)`` uint8, on any device.
            features: Gives the teacher's and the student's normality features of some of them.
            batch_size: Images at once.
        """
        sums: list[Tensor] = []
        products: list[Tensor] = []
        count = [0] * self.levels
        for batch in images.split(batch_size):
            for level, (t, n) in enumerate(zip(*features(batch), strict=True)):
                # In float64 throughout: variances are small differences of large sums.
                rows = residual(t, n).double().permute(0, 2, 3, 1).flatten(0, 2)
                if len(sums) == level:
                    width = rows.shape[1]
                    sums.append(torch.zeros(width, dtype=torch.float64, device=rows.device))
                    products.append(torch.zeros(width, width, dtype=torch.float64, device=rows.device))
                sums[level] += rows.sum(0)
                products[level] += rows.T @ rows
                count[level] += len(rows)
        for level, total in enumerate(count):
            if not total:
                continue
            mean = sums[level] / total
            covariance = products[level] / total - torch.outer(mean, mean)
            own_mean, own_matrix = self.gaussian(level)
            own_mean.copy_(mean)
            own_matrix.copy_(whitening_matrix(covariance))


def residual(teacher: Tensor, student: Tensor) -> Tensor:
    """Subtract the student's direction from the teacher's: ``(B, C, h, w)`` in float32, of length 0 to 2."""
    return F.normalize(teacher.float(), dim=1) - F.normalize(student.float(), dim=1)


def whitening_matrix(covariance: Tensor, *, shrinkage: float = SHRINKAGE) -> Tensor:
    """Invert the Cholesky factor of a covariance.

    Args:
        covariance: ``(C, C)`` float64, symmetric.
        shrinkage: Share of the mean variance that is added to every variance.

    Returns:
        ``M``, lower triangular, with ``M covariance M^T`` the identity but for the shrinkage.
    """
    variances = covariance.diagonal().clamp(min=0)
    ridge = shrinkage * variances.mean() + 1e-12  # the second term: a student that makes no error at all
    factor = torch.linalg.cholesky(covariance + torch.diag(ridge.expand(len(covariance))))
    identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    return torch.linalg.solve_triangular(factor, identity, upper=False)


def mahalanobis(whitened: list[Tensor]) -> list[Tensor]:
    """Give each level's root mean square of the whitened channels.

    Args:
        whitened: What :class:`ResidualWhitening` gives.

    Returns:
        ``(B, 1, h_l, w_l)`` float32 for each level, at least 0, about 1 on normal images: the Mahalanobis distance of
        the residual over the square root of its channels.
    """
    return [level.square().mean(1, keepdim=True).sqrt() for level in whitened]
