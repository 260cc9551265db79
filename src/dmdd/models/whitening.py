"""What is learnt from normal images after stage 1: whitened residuals, grain, and what images look like as a whole."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmdd.models.losses import cosine_distance

SHRINKAGE = 0.01
"""Share of the mean variance that is added to every variance: keeps the covariance invertible and its noise small."""

GRAIN_MARGIN = 1.25
"""By how much an image's grain may leave the range of the normal ones that were seen, up and down."""

IMAGE_SHRINKAGE = 0.1
"""As ``SHRINKAGE``, for whole images: there are fewer of them than numbers that describe one."""

LARGEST_IMAGE_DISTANCE = 8.0
"""Of a whole image from the normal ones; larger ones count as this. Normal images have 0.5 to 3, others up to 6."""

Features = Callable[[Tensor], tuple[list[Tensor], list[Tensor]]]


class ResidualWhitening(nn.Module):
    """What normal images teach after stage 1: a Gaussian of residuals for each level, one of images, and their grain.

    The cosine distance takes every direction of a residual for equally telling. On normal images the student errs
    much more in some directions than in others; whitened, they count alike, and a small error in a direction in which
    it never errs becomes visible. Before :meth:`fit` the residuals stay as they are, and no map is set against grain.

    Args:
        channels: Teacher channels of each level.
        with_images: Whether it knows normal images as a whole and their grain; models of format version 5 do not.
        kinds: Kinds of normal images, such as categories: each has a mean of its own, and all have the covariance about
            it in common. An image counts as of the kind that it is nearest to.

    Source: ours; a Gaussian of features after PaDiM (Defard et al., ICPR 2020), here of residuals and one for all
    positions.
    """

    def __init__(self, channels: Sequence[int], *, with_images: bool = True, kinds: int = 1) -> None:
        super().__init__()
        for level, count in enumerate(channels):
            self.register_buffer(f"mean_{level}", torch.zeros(count))
            self.register_buffer(f"matrix_{level}", torch.eye(count))
        self.levels = len(channels)
        self.normal_grain: Tensor | None
        self.register_buffer("normal_grain", torch.ones(2) if with_images else None)
        count, self.kinds = 2 * channels[-1], kinds
        means = torch.zeros(count) if kinds == 1 else torch.zeros(kinds, count)
        self.image_mean: Tensor | None
        self.image_matrix: Tensor | None
        self.register_buffer("image_mean", means if with_images else None)
        self.register_buffer("image_matrix", torch.eye(count) if with_images else None)

    @property
    def knows_images(self) -> bool:
        """Whether it knows normal images as a whole."""
        return self.normal_grain is not None

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

    def against_grain(self, maps: Tensor, finest: Tensor) -> Tensor:
        """Set maps against their image's grain, brought into the range that normal images have.

        Args:
            maps: ``(B, 1, h, w)`` in [0, 1].
            finest: ``(B, 1, h, w)`` cosine distances at the finest level, as :func:`grain` takes them.

        Returns:
            ``(B, 1, h, w)`` in [0, 1]: unchanged for the smoothest normal image, smaller the coarser the image is.

        Raises:
            ValueError: It does not know the grain of normal images.
        """
        if self.normal_grain is None:
            raise ValueError("the grain of normal images is not known")
        least, largest = self.normal_grain[0], self.normal_grain[1]
        return maps * (least / grain(finest).clamp(least, largest)).view(-1, 1, 1, 1)

    def against_images(self, maps: Tensor, coarsest: Tensor) -> Tensor:
        """Weight maps by how far their image as a whole lies from the normal ones.

        Args:
            maps: ``(B, 1, h, w)`` in [0, 1].
            coarsest: The teacher's features at the coarsest level, ``(B, C, h_L, w_L)``.

        Returns:
            ``(B, 1, h, w)`` in [0, 1]: ``maps * (d / 8)^0.5`` with ``d`` the Mahalanobis distance of what
            :func:`describe_images` gives, over the square root of its length, at most 8.

        Raises:
            ValueError: It does not know normal images.

        Source: ours; a Gaussian of pooled features after Rippel et al., ICPR 2020.
        """
        if self.image_mean is None or self.image_matrix is None:
            raise ValueError("normal images are not known")
        described = describe_images(coarsest).to(self.image_mean.dtype)
        shifted = (described if self.kinds == 1 else described.unsqueeze(1)) - self.image_mean
        if torch.is_autocast_enabled(maps.device.type):  # it would multiply in half precision
            with torch.autocast(maps.device.type, enabled=False):
                whitened = F.linear(shifted, self.image_matrix)
        else:
            whitened = F.linear(shifted, self.image_matrix)
        distance = whitened.square().mean(-1).sqrt()
        if self.kinds > 1:
            distance = distance.amin(1)
        share = distance.clamp(max=LARGEST_IMAGE_DISTANCE) / LARGEST_IMAGE_DISTANCE
        return maps * share.sqrt().to(maps.dtype).view(-1, 1, 1, 1)

    @torch.no_grad()
    def fit(
        self, images: Tensor, features: Features, *, batch_size: int = 8, kinds: Sequence[int] | None = None
    ) -> None:
        """Estimate mean and covariance of normal images' residuals and of whole images, and the range of grain.

        Sums are kept in float64, so the outcome depends on neither the order of the images nor the number of devices.

        Args:
            images: ``(N, 3, h, w)`` uint8, on any device.
            features: Gives the teacher's and the student's normality features of some of them.
            batch_size: Images at once.
            kinds: Which kind each image is of, from 0; None where there is one.
        """
        sums: list[Tensor] = []
        products: list[Tensor] = []
        count = [0] * self.levels
        grains: list[Tensor] = []
        whole: list[Tensor] = []
        for batch in images.split(batch_size):
            for level, (t, n) in enumerate(zip(*features(batch), strict=True)):
                if not level:
                    grains.append(grain(cosine_distance(n, t)))
                if level == self.levels - 1:
                    whole.append(describe_images(t).double())
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
        if grains and self.normal_grain is not None:
            self._fit_images(torch.cat(grains), torch.cat(whole), kinds)

    def _fit_images(self, grains: Tensor, whole: Tensor, kinds: Sequence[int] | None) -> None:
        """Keep the range of ``(N,)`` grains, and the Gaussians of ``(N, 2 C)`` float64 descriptions of images."""
        if self.normal_grain is None or self.image_mean is None or self.image_matrix is None:
            return
        least, largest = grains.clamp(min=1e-6).aminmax()
        self.normal_grain.copy_(torch.stack([least / GRAIN_MARGIN, largest * GRAIN_MARGIN]))
        mean = own = whole.mean(0)
        if self.kinds > 1 and kinds is not None:
            kind = torch.tensor(kinds, device=whole.device)
            mean = torch.stack([whole[kind == number].mean(0) for number in range(self.kinds)])
            own = mean[kind]
        covariance = (whole - own).T @ (whole - own) / len(whole)
        self.image_mean.copy_(mean)
        self.image_matrix.copy_(whitening_matrix(covariance, shrinkage=IMAGE_SHRINKAGE))


def describe_images(features: Tensor) -> Tensor:
    """Describe images as a whole: the mean and the spread of each channel of features scaled to length one.

    Args:
        features: ``(B, C, h, w)``.

    Returns:
        ``(B, 2 C)`` float32.

    Source: ours.
    """
    directions = F.normalize(features.float(), dim=1).flatten(2)
    mean = directions.mean(2, keepdim=True)
    spread = (directions - mean).square().mean(2).sqrt()
    return torch.cat([mean[:, :, 0], spread], dim=1)


def grain(distance: Tensor) -> Tensor:
    """Measure how coarse an image's texture is: the finer it is, the better the student knows it.

    Args:
        distance: Cosine distance of normality and teacher at the finest level, ``(B, ...)`` in [0, 2].

    Returns:
        ``(B,)`` in [0, 2]: the mean of the smaller half, so that an anomaly of less than half the image hardly counts.

    Source: ours; docs/maps.md has what it is worth.
    """
    flat = distance.flatten(1)
    return flat.topk(max(1, flat.shape[1] // 2), dim=1, largest=False).values.mean(1)


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
