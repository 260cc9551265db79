"""Stage 2: the segmentation network learns to find what was changed, on top of frozen teacher and student."""

from collections.abc import Sequence

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from dmdd.core.errors import check_positive
from dmdd.data.datasets import PairBatch
from dmdd.models.detector import Slices
from dmdd.models.losses import segmentation_loss
from dmdd.models.segmentation import SegmentationNetwork
from dmdd.models.student import Student
from dmdd.models.teacher import Teacher
from dmdd.models.whitening import ResidualWhitening
from dmdd.training.compilation import begin_step, compile_function, forget_compiled
from dmdd.training.frozen import for_training
from dmdd.training.optimization import adamw_one_cycle, learning_rate_of, over_devices

WHITENING_IMAGES = 400
"""For the residuals 100 would do; the Gaussian of whole images gains from each of them, at 0.04 s an image."""


def loss_of_segmentation(
    frozen: tuple[Teacher, Student],
    whitening: ResidualWhitening | None,
    segmentation: SegmentationNetwork,
    images: Tensor,
    mask: Tensor,
    *,
    focal_gamma: float,
) -> Tensor:
    """Compute the loss of a step, of tensors alone: what ``compile=true`` compiles.

    Args:
        frozen: Teacher and student.
        whitening: Fitted; None where the detector has none.
        segmentation: What is trained.
        images: ``(B, 3, H, W)`` in [0, 1].
        mask: ``(B, 1, H, W)`` in {0, 1}, what was changed in them.
        focal_gamma: Exponent of the focal loss.

    Returns:
        Scalar.

    Source: paper (stage 2); loss reconstructed.
    """
    teacher, student = frozen
    with torch.no_grad():
        features = teacher(images)
        normality, abnormality = student(images, features)
        residuals = None if whitening is None else whitening(features, normality)
    logits = segmentation(features, normality, abnormality, residuals)
    return segmentation_loss(logits, mask, focal_gamma=focal_gamma)


class SegmentationModule(LightningModule):
    """Train the multi-perception segmentation network.

    ``frozen`` names the networks that are not trained, which saved states leave out.

    Args:
        teacher: Frozen teacher.
        student: Trained student; frozen when the stage begins, without gradients and with fixed batch statistics.
        segmentation: What is trained.
        whitening: Fitted to the student's residuals when the stage begins, on every device to the same images; part of
            the saved states. None where the detector has none.
        normal_images: ``(N, 3, h, w)`` uint8, normal training images, of which it is fitted to some.
        categories: Number of images of each category, which follow each other; of each equally many are taken.
        steps: Steps of the stage.
        first_step: Steps that were done before the stage, so that the logged step rises over both stages.
        learning_rate: Peak learning rate.
        weight_decay: Decoupled weight decay.
        focal_gamma: Exponent of the focal loss.
        compiled: Compile all four networks with the loss when the stage begins.

    Raises:
        UserError: ``steps`` is not positive.

    Source: paper (stage 2); loss reconstructed (docs/method.md).
    """

    frozen = ("teacher", "student")

    def __init__(
        self,
        *,
        teacher: Teacher,
        student: Student,
        segmentation: SegmentationNetwork,
        steps: int,
        first_step: int = 0,
        whitening: ResidualWhitening | None = None,
        normal_images: Slices | None = None,
        categories: Sequence[int] = (),
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-4,
        focal_gamma: float = 4.0,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.strict_loading = False  # saved states leave frozen networks out
        check_positive("segmentation_training.steps", steps)
        self.teacher, self.segmentation = teacher, segmentation
        self.student, self.whitening, self.normal_images = student, whitening, normal_images
        self.categories = tuple(categories)
        self._asked = (teacher, student)  # a tuple, so that copies are no part of this module
        self.steps, self.first_step = steps, first_step
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.focal_gamma = focal_gamma
        self.compiled, self._loss = compiled, loss_of_segmentation

    def setup(self, stage: str) -> None:
        """Freeze the student, when the stage begins: before, it is trained by stage 1.

        Args:
            stage: Lightning's stage.
        """
        self.teacher.eval()
        self.student.requires_grad_(False).eval()

    def on_fit_start(self) -> None:
        """Fit the whitening and prepare the networks, now that they are where they are to compute."""
        self._fit_whitening()
        precision = self.trainer.precision
        self._asked = (for_training(self.teacher, precision), for_training(self.student, precision))
        if self.compiled:
            self._loss = compile_function(loss_of_segmentation, self.device)

    def _fit_whitening(self) -> None:
        if self.whitening is None or self.normal_images is None:
            return
        kind = self.teacher.mean.dtype

        def features(images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
            pixels = (images.to(self.device) / 255).to(kind).contiguous(memory_format=torch.channels_last)
            teacher = self.teacher(pixels)
            return teacher, self.student(pixels, teacher)[0]

        rows, kinds = some_of_each(self.categories or (len(self.normal_images),), WHITENING_IMAGES)
        self.whitening.fit(self.normal_images[rows], features, kinds=kinds)

    def train(self, mode: bool = True) -> "SegmentationModule":
        """Set the mode of the segmentation network; the student stays in evaluation mode.

        Not stepping the student is not freezing it: in training mode its batch statistics would still move. Lightning
        does not call this at the start of a fit, so ``setup`` sets the mode too.
        """
        super().train(mode)
        self.student.eval()
        return self

    def on_fit_end(self) -> None:
        """Forget the copies and what was compiled."""
        self._asked, self._loss = (self.teacher, self.student), loss_of_segmentation
        if self.compiled:
            forget_compiled()

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        """Compute the loss of a batch; only the anomalous twins are used, they show normal parts too.

        Args:
            batch: Pairs on the device.
            batch_idx: Not used.

        Returns:
            Scalar loss.
        """
        if self.compiled:
            begin_step()
        loss = self._loss(
            self._asked,
            self.whitening,
            self.segmentation,
            batch.anomalous,
            batch.mask,
            focal_gamma=self.focal_gamma,
        )
        count = len(batch.normal)
        losses = over_devices({"segmentation/loss": loss}, self.trainer)
        self.log_dict(losses, batch_size=count)
        self.log("segmentation/learning_rate", learning_rate_of(self), batch_size=count)
        # Lightning takes a metric of this name as the step of all that is logged with it. Made on the device, as the
        # learning rate is: the copy of a plain number would wait for it.
        step = torch.full((), float(self.first_step + self.trainer.global_step), device=self.device)
        self.log("step", step, batch_size=count)
        return loss

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Build the optimiser over the segmentation network alone."""
        return adamw_one_cycle(
            self.segmentation.parameters(),
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            steps=self.steps,
            fused=not self.trainer.gradient_clip_val,
        )


def some_of_each(counts: Sequence[int], most: int) -> tuple[Tensor, list[int]]:
    """Choose images evenly, about as many of each category.

    Args:
        counts: Images of each category, which follow each other.
        most: How many to choose at most.

    Returns:
        Their positions ``(M,)`` int64, and the number of each one's category.
    """
    rows, kinds, first = [], [], 0
    for kind, count in enumerate(counts):
        chosen = min(count, max(1, most // len(counts)))
        rows.append(first + torch.arange(chosen) * count // chosen)
        kinds += [kind] * chosen
        first += count
    return torch.cat(rows), kinds
