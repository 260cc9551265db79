"""Stage 2: the segmentation network learns to find what was changed, on top of frozen teacher and student."""

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from dmdd.core.errors import check_positive
from dmdd.data.datasets import PairBatch
from dmdd.models.losses import segmentation_loss
from dmdd.models.segmentation import SegmentationNetwork
from dmdd.models.student import Student
from dmdd.models.teacher import Teacher
from dmdd.training.frozen import for_training
from dmdd.training.optimization import adamw_one_cycle, learning_rate_of, over_devices


class SegmentationModule(LightningModule):
    """Train the multi-perception segmentation network.

    ``frozen`` names the networks that are not trained, which saved states leave out.

    Args:
        teacher: Frozen teacher.
        student: Trained student; frozen when the stage begins, without gradients and with fixed batch statistics.
        segmentation: What is trained.
        steps: Steps of the stage.
        learning_rate: Peak learning rate.
        weight_decay: Decoupled weight decay.
        focal_gamma: Exponent of the focal loss.

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
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-4,
        focal_gamma: float = 4.0,
    ) -> None:
        super().__init__()
        self.strict_loading = False  # saved states leave frozen networks out
        check_positive("segmentation_training.steps", steps)
        self.teacher, self.segmentation = teacher, segmentation
        self.student = student
        self._asked = (teacher, student)  # a tuple, so that copies are no part of this module
        self.steps, self.learning_rate, self.weight_decay = steps, learning_rate, weight_decay
        self.focal_gamma = focal_gamma

    def setup(self, stage: str) -> None:
        """Freeze the student, when the stage begins: before, it is trained by stage 1.

        Args:
            stage: Lightning's stage.
        """
        self.teacher.eval()
        self.student.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "SegmentationModule":
        """Set the mode of the segmentation network; the student stays in evaluation mode.

        Not stepping the student is not freezing it: in training mode its batch statistics would still move. Lightning
        does not call this at the start of a fit, so ``setup`` sets the mode too.
        """
        super().train(mode)
        self.student.eval()
        return self

    def on_fit_start(self) -> None:
        """Prepare the frozen networks for the precision, where they are to compute."""
        precision = self.trainer.precision
        self._asked = (for_training(self.teacher, precision), for_training(self.student, precision))

    def on_fit_end(self) -> None:
        """Forget the copies."""
        self._asked = (self.teacher, self.student)

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        """Compute the loss of a batch; only the anomalous twins are used, they show normal parts too.

        Args:
            batch: Pairs on the device.
            batch_idx: Not used.

        Returns:
            Scalar loss.
        """
        with torch.no_grad():
            teacher, student = self._asked
            features = teacher(batch.anomalous)
            normality, abnormality = student(batch.anomalous, features)
        logits = self.segmentation(features, normality, abnormality)
        loss = segmentation_loss(logits, batch.mask, focal_gamma=self.focal_gamma)
        count = len(batch.normal)
        losses = over_devices({"segmentation/loss": loss}, self.trainer)
        self.log_dict(losses, batch_size=count)
        self.log("segmentation/learning_rate", learning_rate_of(self), batch_size=count)
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
