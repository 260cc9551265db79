"""The methods that dmdd is compared with: anomalib's networks on dmdd's teacher, each fitted as its authors prescribe.

Every method has a `description`, `fit(images, budget)`, which returns the number of optimiser steps (0 where nothing is
trained), and `predict(images)`, which returns maps and image scores. Images are uint8 RGB `(B, 3, h, w)` at the input
size.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import timm
import torch
from anomalib.data import InferenceBatch
from anomalib.data.utils.generators import PerlinAnomalyGenerator
from anomalib.models.components.backbone import get_decoder
from anomalib.models.image.draem.loss import DraemLoss
from anomalib.models.image.draem.torch_model import DraemModel
from anomalib.models.image.padim.torch_model import PadimModel
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from anomalib.models.image.reverse_distillation.anomaly_map import AnomalyMapGenerationMode, AnomalyMapGenerator
from anomalib.models.image.reverse_distillation.components import get_bottleneck_layer
from anomalib.models.image.reverse_distillation.loss import ReverseDistillationLoss
from anomalib.models.image.reverse_distillation.torch_model import ReverseDistillationModel
from anomalib.models.image.stfpm.loss import STFPMLoss
from anomalib.models.image.stfpm.torch_model import STFPMModel
from torch import Tensor, nn

from dmdd.core.errors import UserError
from dmdd.models.detector import Detector
from dmdd.models.teacher import STRIDES, Teacher

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2")
"""Backbones for which anomalib has a Reverse Distillation decoder (timm's name before the dot)."""


@dataclass(frozen=True)
class Budget:
    """How long a method that is trained may train: `steps` if given, else `seconds`."""

    seconds: float
    steps: int | None = None


@dataclass(frozen=True)
class Settings:
    """What all methods share."""

    size: tuple[int, int]
    seed: int
    device: torch.device
    autocast: bool
    padim_features: int
    coreset_share: float
    textures_dir: Path
    batch_size: int | None = None


def without_downloads() -> AbstractContextManager[Any]:
    """Let anomalib build its networks untrained: it asks a model hub for weights where no local file can be given."""
    create = timm.create_model
    return mock.patch.object(
        timm, "create_model", lambda *args, **kwargs: create(*args, **kwargs | {"pretrained": False})
    )


def teacher_levels(teacher: Teacher) -> tuple[int, ...]:
    """Find the indices of the teacher's three levels among timm's stages."""
    whole: Any = timm.create_model(teacher.spec["backbone"], pretrained=False, features_only=True)
    return tuple(i for i, stride in enumerate(whole.feature_info.reduction()) if stride in STRIDES)


class Peer:
    """A network and how it is fitted."""

    batch_size = 32
    description = ""

    def __init__(self, network: nn.Module, settings: Settings, teacher: Teacher | None = None) -> None:
        self.settings, self.network = settings, network.to(settings.device, memory_format=torch.channels_last)
        self.batch_size = settings.batch_size or self.batch_size
        self.mean = self.std = None
        if teacher is not None:
            self.mean, self.std = teacher.mean.to(settings.device), teacher.std.to(settings.device)

    def prepare(self, images: Tensor) -> Tensor:
        """Scale to [0, 1] and normalise as the teacher wants it."""
        pixels = images.to(self.settings.device, memory_format=torch.channels_last).float() / 255
        return pixels if self.mean is None or self.std is None else (pixels - self.mean) / self.std

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute maps `(B, 1, h, w)` and scores `(B,)`, in float32."""
        self.network.eval()
        with torch.no_grad():
            found: InferenceBatch = self.network(self.prepare(images))
        maps = found.anomaly_map
        return maps.reshape(len(images), 1, *maps.shape[-2:]), found.pred_score.reshape(len(images))

    def fit(self, images: Tensor, budget: Budget) -> int:
        raise NotImplementedError

    def use_teacher(self, extractor: Any, teacher: Teacher) -> None:
        """Put the teacher into anomalib's feature extractor, and make sure that what comes out is the teacher's.

        It is the teacher with folded batch norms, as dmdd runs it, so that no method has the slower backbone.
        """
        teacher = teacher.to(self.settings.device, memory_format=torch.channels_last)
        extractor.feature_extractor = teacher.network
        extractor.requires_grad_(False)
        probe = torch.randint(0, 256, (2, 3, *self.settings.size), dtype=torch.uint8)
        wanted = teacher(probe.to(self.settings.device).float() / 255)
        found = extractor(self.prepare(probe))
        if len(found) != len(wanted):
            raise AssertionError(f"the extractor has {len(found)} levels, the teacher {len(wanted)}")
        for name, own, level in zip(found, found.values(), wanted, strict=True):
            torch.testing.assert_close(own, level, rtol=1e-4, atol=1e-4, msg=lambda text, n=name: f"level {n}: {text}")


class Padim(Peer):
    """A Gaussian per position over randomly chosen channels (Defard et al., ICPR 2020)."""

    def __init__(self, teacher: Teacher, settings: Settings) -> None:
        with without_downloads():
            network = PadimModel(
                teacher.spec["backbone"], list(teacher_levels(teacher)), False, settings.padim_features
            )
        super().__init__(network, settings, teacher)
        self.use_teacher(network.feature_extractor, teacher)
        self.description = (
            f"anomalib PadimModel, strides 4/8/16, {network.n_features} of {network.n_features_original} channels"
        )

    def fit(self, images: Tensor, budget: Budget) -> int:
        self.network.train()
        for batch in images.split(self.batch_size):
            self.network(self.prepare(batch))
        self.network.fit()
        return 0


class Patchcore(Peer):
    """The nearest neighbour in a coreset of all patches (Roth et al., CVPR 2022)."""

    def __init__(self, teacher: Teacher, settings: Settings) -> None:
        with without_downloads():
            network = PatchcoreModel(list(teacher_levels(teacher)[1:]), teacher.spec["backbone"], False, 9)
        super().__init__(network, settings, teacher)
        self.use_upper_levels(network.feature_extractor, teacher)
        self.description = (
            f"anomalib PatchcoreModel, strides 8/16, coreset {100 * settings.coreset_share:g} %, 9 neighbours"
        )

    def use_upper_levels(self, extractor: Any, teacher: Teacher) -> None:
        """Check all three levels, then leave out the first, which the method does not use."""
        levels = extractor.layers
        extractor.layers = list(teacher_levels(teacher))
        self.use_teacher(extractor, teacher)
        extractor.layers, extractor.feature_extractor = levels, UpperLevels(teacher.network)

    def fit(self, images: Tensor, budget: Budget) -> int:
        self.network.train()
        for batch in images.split(self.batch_size):
            self.network(self.prepare(batch))
        self.network.subsample_embedding(self.settings.coreset_share)
        return 0


class UpperLevels(nn.Module):
    """All levels but the first."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> list[Tensor]:
        return list(self.network(images))[1:]


class TrainedPeer(Peer):
    """A method with an optimiser."""

    def optimizer(self) -> torch.optim.Optimizer:
        raise NotImplementedError

    def loss(self, batch: Tensor) -> Tensor:
        raise NotImplementedError

    def decay(self, progress: float) -> float:
        """Give the factor of the learning rate after a share of the budget."""
        return 1.0

    def fit(self, images: Tensor, budget: Budget) -> int:
        started, steps = time.perf_counter(), 0
        optimizer, batches = self.optimizer(), shuffled(images, self.batch_size, self.settings.seed)
        first_rates = [group["lr"] for group in optimizer.param_groups]
        self.network.train()
        while (progress := self._progress(budget, steps, time.perf_counter() - started)) < 1:
            for group, rate in zip(optimizer.param_groups, first_rates, strict=True):
                group["lr"] = rate * self.decay(progress)
            loss = self.loss(next(batches))
            if not torch.isfinite(loss):
                raise RuntimeError(f"the loss is {float(loss)} at step {steps}")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
        return steps

    @staticmethod
    def _progress(budget: Budget, steps: int, seconds: float) -> float:
        return seconds / budget.seconds if budget.steps is None else steps / budget.steps

    def run(self, pixels: Tensor) -> Any:
        """Run the network in the precision dmdd would train in on this device."""
        with torch.autocast(self.settings.device.type, torch.bfloat16, enabled=self.settings.autocast):
            return self.network(pixels)


def shuffled(images: Tensor, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Serve batches for ever, each epoch in a new order; what does not fill a batch is left out of the epoch."""
    generator = torch.Generator().manual_seed(seed)
    size = min(batch_size, len(images))
    while True:
        order = torch.randperm(len(images), generator=generator)
        for start in range(0, len(images) - size + 1, size):
            yield images[order[start : start + size]]


class Stfpm(TrainedPeer):
    """A student of the teacher's own architecture, from random weights (Wang et al., BMVC 2021)."""

    description = "anomalib STFPMModel, student of the teacher's architecture, SGD 0.4"

    def __init__(self, teacher: Teacher, settings: Settings) -> None:
        with without_downloads():
            network = STFPMModel(list(teacher_levels(teacher)), teacher.spec["backbone"])
        super().__init__(network, settings, teacher)
        self.use_teacher(network.teacher_model, teacher)
        self.criterion = STFPMLoss()

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.network.student_model.parameters(), lr=0.4, momentum=0.9, weight_decay=1e-3)

    def loss(self, batch: Tensor) -> Tensor:
        teacher, student = self.run(self.prepare(batch))
        return self.criterion(
            {level: features.float() for level, features in teacher.items()},
            {level: features.float() for level, features in student.items()},
        )


class ReverseDistillation(TrainedPeer):
    """A decoder that restores the teacher's features from a bottleneck (Deng and Li, CVPR 2022).

    anomalib's bottleneck and decoder fit ResNets only. For any other teacher they are those of ResNet-18, and 1x1
    convolutions of ours lead from the teacher's channels to theirs and back.
    """

    batch_size = 16

    def __init__(self, teacher: Teacher, settings: Settings) -> None:
        backbone, levels = teacher.spec["backbone"].partition(".")[0], list(teacher_levels(teacher))
        with without_downloads():
            whole = ReverseDistillationModel(
                backbone if backbone in RESNETS else "resnet18",
                settings.size,
                levels if backbone in RESNETS else [1, 2, 3],
                AnomalyMapGenerationMode.ADD,
                False,
            )
        network = whole if backbone in RESNETS else ReverseDistillationLike(teacher, settings.size)
        super().__init__(network, settings, teacher)
        self.use_teacher(network.encoder, teacher)
        self.criterion = ReverseDistillationLoss()
        name = "anomalib ReverseDistillationModel" if backbone in RESNETS else "RD4AD-like (our code)"
        parts = "" if backbone in RESNETS else ", anomalib's ResNet-18 bottleneck and decoder between 1x1 convolutions"
        self.description = f"{name}{parts}, Adam 0.005"

    def optimizer(self) -> torch.optim.Optimizer:
        learnt = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        return torch.optim.Adam(learnt, lr=0.005, betas=(0.5, 0.99))

    def loss(self, batch: Tensor) -> Tensor:
        teacher, student = self.run(self.prepare(batch))
        # The loss takes views that channels-last tensors do not have.
        return self.criterion(*([f.float().contiguous() for f in features] for features in (teacher, student)))


class Encoder(nn.Module):
    """The place for the teacher in a network of ours, as anomalib's extractors have it."""

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.levels = levels
        self.feature_extractor: nn.Module = nn.Identity()

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        self.feature_extractor.eval()
        with torch.no_grad():
            return dict(zip(self.levels, self.feature_extractor(images), strict=True))


class ReverseDistillationLike(nn.Module):
    """Reverse Distillation for a teacher of any three widths; see `ReverseDistillation`."""

    def __init__(self, teacher: Teacher, size: tuple[int, int]) -> None:
        super().__init__()
        widths = (64, 128, 256)
        pairs = list(zip(teacher.channels, widths, strict=True))
        self.encoder = Encoder(teacher_levels(teacher))
        self.enter = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels, width in pairs)
        self.bottleneck, self.decoder = get_bottleneck_layer("resnet18"), get_decoder("resnet18")
        self.leave = nn.ModuleList(nn.Conv2d(width, channels, 1) for channels, width in pairs)
        self.anomaly_map_generator = AnomalyMapGenerator(image_size=size, mode=AnomalyMapGenerationMode.ADD)

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]] | InferenceBatch:
        features = list(self.encoder(images).values())
        entered = [enter(level) for enter, level in zip(self.enter, features, strict=True)]
        decoded = self.decoder(self.bottleneck(entered))
        restored = [leave(level) for leave, level in zip(self.leave, decoded, strict=True)]
        if self.training:
            return features, restored
        maps = self.anomaly_map_generator(features, restored)
        return InferenceBatch(pred_score=maps.amax(dim=(-2, -1)), anomaly_map=maps)


class Draem(TrainedPeer):
    """Two U-Nets trained from nothing on synthetic anomalies; no teacher (Zavrtanik et al., ICCV 2021)."""

    batch_size = 8
    description = "anomalib DraemModel, no teacher, DTD textures, Adam 1e-4"

    def __init__(self, teacher: Teacher, settings: Settings) -> None:
        super().__init__(DraemModel(), settings)
        if not any(settings.textures_dir.rglob("*.jpg")):
            raise UserError(f"draem needs texture images, none found in {settings.textures_dir.resolve()}")
        self.augment = PerlinAnomalyGenerator(settings.textures_dir, blend_factor=(0.1, 1.0))
        self.criterion = DraemLoss()

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.network.parameters(), lr=1e-4)

    def decay(self, progress: float) -> float:
        """Decay as anomalib does after 400 and 600 of 700 epochs, at the same shares of the budget."""
        return 0.1 ** sum(progress >= epoch / 700 for epoch in (400, 600))

    def loss(self, batch: Tensor) -> Tensor:
        pixels = self.prepare(batch)
        changed, masks = self.augment(pixels)
        restored, predicted = self.run(changed.contiguous(memory_format=torch.channels_last))
        return self.criterion(pixels, restored.float(), masks, predicted.float())


class Dmdd(Peer):
    """A detector that `dmdd.train` has left, measured like the others; it is not fitted here."""

    def __init__(self, detector: Detector, settings: Settings) -> None:
        super().__init__(detector, settings)
        self.description = f"dmdd, {detector.anomaly_map} map"

    def fit(self, images: Tensor, budget: Budget) -> int:
        return 0

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.network.eval()
        with torch.no_grad():
            found = self.network(images.to(self.settings.device, memory_format=torch.channels_last))
        return found.map, found.score


PEERS: dict[str, Callable[[Teacher, Settings], Peer]] = {
    "padim": Padim,
    "patchcore": Patchcore,
    "stfpm": Stfpm,
    "rd": ReverseDistillation,
    "draem": Draem,
}
