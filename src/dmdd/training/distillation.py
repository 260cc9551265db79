"""Stage 1: the student learns from the teacher on pairs of a normal and an anomalous image."""

from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from dmdd.core.errors import UserError, check_positive
from dmdd.data.datasets import PairBatch
from dmdd.models.losses import AIM_FORMS, abnormality_mimicking_loss, normality_guidance_loss
from dmdd.models.student import Student
from dmdd.models.teacher import Teacher
from dmdd.training.compilation import begin_step, compile_copy, compile_function, forget_compiled
from dmdd.training.feature_cache import FeatureCache
from dmdd.training.frozen import for_training
from dmdd.training.optimization import adamw_one_cycle, learning_rate_of, over_devices


def distillation_losses(
    student: Student,
    images: Tensor,
    normal: list[Tensor],
    anomalous: list[Tensor],
    mask: Tensor,
    *,
    aim: str,
    hard_fraction: float,
) -> tuple[Tensor, Tensor]:
    """Compute both losses of a step, of tensors alone: what ``compile=true`` compiles.

    Args:
        student: What is trained.
        images: ``(B, 3, H, W)`` in [0, 1], the anomalous twins.
        normal: The teacher's features of the normal images, ``(B, C_l, h_l, w_l)`` for each level.
        anomalous: The same of the twins.
        mask: ``(B, 1, H, W)`` in {0, 1}.
        aim: Form of the AIM loss.
        hard_fraction: Share of each image's distances that ``L_NGM`` is the mean of, in (0, 1].

    Returns:
        ``L_NGM`` and ``L_AIM``, scalars.

    Source: paper (stage 1).
    """
    normality, abnormality = student(images, anomalous)
    return (
        normality_guidance_loss(normality, normal, hard_fraction=hard_fraction),
        abnormality_mimicking_loss(abnormality, anomalous, mask, form=aim),
    )


class DistillationModule(LightningModule):
    """Dual-modeling distillation: NGM and AIM.

    ``frozen`` names the networks that are not trained, which saved states leave out.

    Args:
        teacher: Frozen teacher.
        student: What is trained.
        steps: Steps of the stage.
        learning_rate: Peak learning rate.
        weight_decay: Decoupled weight decay.
        aim: Form of the AIM loss, ``margin`` or ``l1``.
        hard_fraction: Share of each image's distances, the largest, that ``L_NGM`` is the mean of, in (0, 1].
        ngm_weight: Weight of ``L_NGM``; 0 trains the abnormality branch alone.
        aim_weight: Weight of ``L_AIM``; 0 trains the normality branch alone. AdamW gives the abnormality branch's own
            parameters the same steps with any; it decides what the body that both branches share learns.
        cached_images: Number of training images if each is the same whenever it comes, so that the teacher's features
            of them can be remembered; 0 if they are augmented.
        cache_limit_gb: Remember nothing if it took more than this, in 10^9 bytes on the training device.
        compiled: Compile teacher, student and losses when the stage begins.

    Raises:
        UserError: ``aim`` is unknown, a weight or ``hard_fraction`` is out of its range, or ``steps`` is not positive.

    Source: paper (stage 1); weights ours (docs/method.md).
    """

    frozen = ("teacher",)

    def __init__(
        self,
        *,
        teacher: Teacher,
        student: Student,
        steps: int,
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-4,
        aim: str = "margin",
        hard_fraction: float = 0.1,
        ngm_weight: float = 1.0,
        aim_weight: float = 0.1,
        cached_images: int = 0,
        cache_limit_gb: float = 4.0,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.strict_loading = False  # saved states leave frozen networks out
        if aim not in AIM_FORMS:
            raise UserError(f"distillation.aim={aim}: choose one of {', '.join(AIM_FORMS)}")
        if min(ngm_weight, aim_weight) < 0 or ngm_weight + aim_weight == 0:
            raise UserError("distillation.ngm_weight and aim_weight must be at least 0, and not both 0")
        if not 0 < hard_fraction <= 1:
            raise UserError(f"distillation.hard_fraction={hard_fraction}: give a number above 0 and up to 1")
        check_positive("distillation.steps", steps)
        self.teacher, self.student, self.steps = teacher, student, steps
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.aim, self.ngm_weight, self.aim_weight = aim, ngm_weight, aim_weight
        self.hard_fraction = hard_fraction
        self.cache = FeatureCache(images=cached_images, limit_gb=cache_limit_gb)
        self._asked = (teacher,)  # a tuple, so that a copy is no part of this module
        self.compiled, self._losses = compiled, distillation_losses

    def setup(self, stage: str) -> None:
        """Make sure of the teacher's mode when the stage begins.

        Args:
            stage: Lightning's stage.
        """
        self.teacher.eval()

    def on_fit_start(self) -> None:
        """Prepare the teacher for the precision, where it is to compute, and what is to be compiled."""
        teacher = for_training(self.teacher, self.trainer.precision)
        if self.compiled:
            teacher = compile_copy(teacher, self.device)
            self._losses = compile_function(distillation_losses, self.device)
        self._asked = (teacher,)

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        """Compute the loss of a batch of pairs.

        Args:
            batch: Pairs on the device.
            batch_idx: Not used.

        Returns:
            Scalar loss.
        """
        count = len(batch.normal)
        (teacher,) = self._asked
        if self.compiled:
            begin_step()
        normal, anomalous = self.cache(teacher, batch.normal, batch.indices, batch.anomalous)
        ngm, aim = self._losses(
            self.student,
            batch.anomalous,
            normal,
            anomalous,
            batch.mask,
            aim=self.aim,
            hard_fraction=self.hard_fraction,
        )
        loss = self.ngm_weight * ngm + self.aim_weight * aim
        losses = {"distillation/loss": loss, "distillation/ngm": ngm, "distillation/aim": aim}
        self.log_dict(over_devices(losses, self.trainer), batch_size=count)
        self.log("distillation/learning_rate", learning_rate_of(self), batch_size=count)
        return loss

    def on_fit_end(self) -> None:
        """Forget the teacher's features and what was compiled: stage 2 and the test need the memory."""
        self.cache.clear()
        self._asked, self._losses = (self.teacher,), distillation_losses
        if self.compiled:
            forget_compiled()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Build the optimiser over the student alone."""
        return adamw_one_cycle(
            self.student.parameters(),
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            steps=self.steps,
            fused=not self.trainer.gradient_clip_val,
        )
