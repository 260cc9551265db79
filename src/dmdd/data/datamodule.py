"""The data module: normal images decoded once, twins made on the device, test images read once after training."""

import math
import signal
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dmdd.core.errors import UserError, check_positive, check_tiles
from dmdd.data.augmentation import Augmentation, Jitter
from dmdd.data.datasets import (
    EvaluationBatch,
    FileDataset,
    NormalPixels,
    PairBatch,
    PlannedBatch,
    PlannedDataset,
    load_regions,
    part_inside,
)
from dmdd.data.images import read_image
from dmdd.data.kinship import kin_order
from dmdd.data.listing import Category, list_images
from dmdd.data.regions import PackedMasks, Regions, paint_outside
from dmdd.data.sampling import BlockSampler, PairSampler, Place, held_out, leave_out_copies
from dmdd.data.store import ImagesInMemory, ImageStore, StoredPart, open_images
from dmdd.data.tiles import LargeImages, TileDataset, WholeDataset
from dmdd.pairs import PairSynthesis

VALIDATION_STEP = 2**62  # a step no training reaches, so that validation pairs are never trained on
TWINS = 16  # of the synthetic validation at least, however few images are held out
WORKER_OUTLASTS_S = 10  # a SIGTERM, which also comes from Python where a process ends before its loader does
AT_ONCE = {"cpu": (64, 8), "gpu": (256, 32)}
"""Pairs of 256 x 256 px that share what calls into PyTorch or launches of kernels cost; but of no more steps: a run
should not wait long for its first one. 256 pairs hold 2 to 3 GB of a GPU while they are made."""
RESIDENT_BYTES = 2 * 10**9  # of images that are kept on a GPU: 8,000 of 256 x 256 px


class Decoded(NamedTuple):
    """What is read of files before a training.

    Args:
        images: All normal training images, with the part found on each; none where they are seen in tiles.
        textures: Texture images; None where no source needs them.
    """

    images: ImageStore
    textures: ImageStore | None


DatasetT = TypeVar("DatasetT", bound=PlannedDataset | WholeDataset)


class PairDataModule(LightningDataModule):
    """Serve training pairs, synthetic validation pairs and test images of one category, or of several pooled.

    Of several each has its own part held out, and each is trained on equally often.

    Args:
        category: The files.
        synthesis: What makes a twin of a normal image.
        image_size: Height and width in pixels.
        batch_size: Global batch size, over all devices.
        seed: Seed of pairs, order and split.
        held_out_fraction: Share of the normal training images kept for calibration, never trained on; of a data set
            that sets some apart itself those are kept.
        held_out_runs: Where neighbours by name are alike, hold out whole runs of them; else single images.
        textures_dir: Folder of texture images; read only if a source of ``synthesis`` uses textures.
        augmentation: What is done to the normal image before its twin is made, or None; ``setup`` makes it None where
            it is not wanted for so many images. Jitter is done on the device, albumentations transforms by the loader.
        evaluation_batch_size: Images a device scores at once.
        native_masks: Leave the test masks at the images' own sizes.
        num_workers: Worker processes; 0 serves from this one, which is enough where images are in memory.
        tile_px: Train on random crops of this side, or height and width, in pixels of the image; None trains on whole
            images.
        overlap: Of the tiles that images are tested in; 0.25 if None.
        roi: Which pixels of the images count, see :class:`dmdd.data.regions.Regions`; None for all.
        ignore: Which of them do not; None for none.
        memory_gb: What the images may take in memory, in 10^9 bytes; more are kept in a file on disk. Images seen in
            tiles are not.
        cache_dir: Folder of such files.
        trained_before: Images that the networks have learnt from in an earlier training, by their place below the
            category's folder; none of them is held out.
        decoded: What :meth:`decode` gave, where another process has called it.

    Raises:
        UserError: A batch size is not positive, a tile cannot be cut, or a region cannot be read.

    Source: paper for pairs made on the fly; held-out images ours (docs/method.md).
    """

    def __init__(
        self,
        *,
        category: Category,
        synthesis: PairSynthesis,
        image_size: Sequence[int],
        batch_size: int,
        seed: int,
        held_out_fraction: float = 0.1,
        held_out_runs: bool = True,
        textures_dir: str | Path | None = None,
        augmentation: Augmentation | Jitter | None = None,
        evaluation_batch_size: int = 16,
        native_masks: bool = False,
        num_workers: int = 0,
        tile_px: int | Sequence[int] | None = None,
        overlap: float | None = None,
        roi: Any = None,
        ignore: Any = None,
        memory_gb: float = 1.5,
        cache_dir: str | Path = "~/.cache/dmdd",
        trained_before: Collection[str] = (),
        decoded: Decoded | None = None,
    ) -> None:
        super().__init__()
        check_positive("batch_size", batch_size)
        check_positive("data.evaluation_batch_size", evaluation_batch_size)
        self.category, self.synthesis = category, synthesis
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.batch_size, self.evaluation_batch_size = batch_size, evaluation_batch_size
        self.native_masks, self.memory_gb, self.cache_dir = native_masks, memory_gb, cache_dir
        # Height and width of a tile, and how much of it the next one covers at least.
        self.tiles = None if tile_px is None else check_tiles(tile_px, 0.25 if overlap is None else overlap)
        self.regions = Regions(roi, ignore, base=category.root)
        if tile_px is None and overlap is not None:
            raise UserError(f"data.overlap={overlap} counts only with data.tile_px=")
        self.seed, self.held_out_fraction, self.held_out_runs = seed, held_out_fraction, held_out_runs
        self.trained_before, self.neighbours_alike = frozenset(trained_before), False
        self.textures_dir, self.augmentation, self.num_workers = textures_dir, augmentation, num_workers
        # Stage 2 sets this to the steps of stage 1, so that its pairs are new ones.
        self.first_step = 0
        self._decoded = decoded
        self._rows: list[int] = []
        self._held_out_rows: list[int] = []
        self._train: PlannedDataset | None = None
        self._all: PlannedDataset | None = None
        self._held_out: PlannedDataset | WholeDataset | None = None
        self.held_out_large: LargeImages | None = None

    def setup(self, stage: str) -> None:
        """Decode the normal images once; later calls find them in memory.

        Args:
            stage: Lightning's stage; testing needs no training images.

        Raises:
            UserError: An image cannot be read, the split leaves nothing, or a needed texture folder is missing.
        """
        if stage == "test" or self._train is not None:
            return
        samples = self.category.train
        images, textures = self._decoded or self.decode()
        self._decoded = None
        train, rest = self._split(images)
        self._rows, self._held_out_rows = train, rest
        if self.augmentation is not None:
            # How often an image is seen, that of the smallest category.
            self.augmentation = self.augmentation.for_images(len(self.counts) * min(self.counts))
        paths = [sample.path for sample in samples]
        if self.tiles is not None:
            self._setup_tiles([paths[row] for row in train], [paths[row] for row in rest], textures)
            return
        if self.num_workers:
            images.share_memory()
        inside = load_regions(paths, self.regions, self.image_size) if self.regions else None
        self._train, self._held_out, self._all = (
            PlannedDataset(
                images=StoredPart(images, rows),
                textures=textures,
                seed=self.seed,
                augmentation=augmentation,
                inside=None if inside is None else inside.part(rows),
                counts=counts,
            )
            for rows, augmentation, counts in (
                (train, self.augmentation, self.counts),
                (rest, None, self._counts(rest)),
                ([*train, *rest], None, None),
            )
        )

    def _split(self, images: ImageStore) -> tuple[list[int], list[int]]:
        """Hold out a part of each category; gives the rows to train on and those held out."""
        paths = [sample.path for sample in self.category.train]
        barred = {row for row, names in enumerate(self._former_names) if names & self.trained_before}
        train, rest = [], []
        for group in self.category.train_groups:
            if fixed := [row for row in group if self.category.train[row].held_out and row not in barred]:
                rest += fixed
                train += _new_ones(sorted(set(group) - set(fixed)), fixed, paths)
                continue
            order = None
            if self.held_out_runs and len(images):  # of images seen in tiles none is in memory
                order = kin_order(StoredPart(images, group), paths[group.start : group.stop])
            self.neighbours_alike |= order is not None
            try:
                kept, out = held_out(
                    len(group),
                    fraction=self.held_out_fraction,
                    seed=self.seed,
                    order=order,
                    barred={row - group.start for row in barred if row in group},
                )
            except ValueError as error:
                name = self.category.train[group.start].category
                where = f" in category {name}" if name else ""
                raise UserError(f"data.held_out_fraction={self.held_out_fraction}{where}: {error}") from error
            held = [group[row] for row in out]
            train += _new_ones([group[row] for row in kept], held, paths)
            rest += held
        return train, rest

    def _counts(self, rows: list[int]) -> list[int]:
        """Count the images of each category."""
        return [sum(row in group for row in rows) for group in self.category.train_groups]

    @property
    def counts(self) -> list[int]:
        """Number of images trained on of each category."""
        return self._counts(self._rows)

    @property
    def held_out_members(self) -> list[str]:
        """Names of the categories of the held-out images; empty names where there is one category."""
        return [self.category.train[row].category for row in self._held_out_rows]

    @property
    def trained_members(self) -> list[str]:
        """The same of the images trained on."""
        return [self.category.train[row].category for row in self._rows]

    def _setup_tiles(self, train: list[Path], rest: list[Path], textures: ImageStore | None) -> None:
        assert self.tiles is not None
        large, self.held_out_large = (
            LargeImages(paths, tile_px=self.tiles[0], size=self.image_size, regions=self.regions)
            for paths in (train, rest)
        )
        self._train = TileDataset(
            large=large,
            size=self.image_size,
            textures=textures,
            seed=self.seed,
            augmentation=self.augmentation,
            counts=self.counts,
        )
        self._held_out = WholeDataset(
            large=self.held_out_large,
            synthesis=self.synthesis,
            textures=textures,
            seed=self.seed,
            first_step=VALIDATION_STEP,
        )

    def decode(self) -> Decoded:
        """Read the normal images and what belongs to them.

        Raises:
            UserError: An image cannot be read, or a needed texture folder is missing.
        """
        if self.tiles is not None:  # large images are read where crops are taken from them
            return Decoded(ImagesInMemory.empty(self.image_size), self._load_textures())
        paths = [sample.path for sample in self.category.train]
        return Decoded(self._open(paths, find_parts=self.synthesis.foreground), self._load_textures())

    def _open(self, paths: list[Path], *, find_parts: bool) -> ImageStore:
        return open_images(
            paths, self.image_size, find_parts=find_parts, memory_gb=self.memory_gb, cache_dir=self.cache_dir
        )

    def _load_textures(self) -> ImageStore | None:
        if not self.synthesis.needs_textures:
            return None
        folder = Path(self.textures_dir or "")
        paths = list_images(folder, nested=True) if self.textures_dir else []
        if not paths:
            raise UserError(
                f"pairs need texture images, none found in {folder.resolve()}: "
                "set data.textures_dir, or use pairs=mix, which needs none"
            )
        return self._open(paths, find_parts=False)

    @property
    def training_images(self) -> int:
        """Number of normal images trained on."""
        return len(self._ready(self._train))

    @property
    def views(self) -> int:
        """How many views each training image has; 1 where images stay as they are."""
        return self._ready(self._train).views

    @property
    def lasting_images(self) -> int:
        """Number of normal images, views of one counted each, that come again as they are; 0 if none does."""
        return (
            0
            if self.tiles is not None or isinstance(self.augmentation, Augmentation)
            else self.training_images * self.views
        )

    @property
    def held_out_images(self) -> int:
        """Number of normal images held out for calibration."""
        return len(self._ready(self._held_out))

    @property
    def held_out_pixels(self) -> NormalPixels:
        """The normal images held out, as the networks see them; for whole images only."""
        held_out = self._ready(self._held_out)
        if not isinstance(held_out, PlannedDataset):
            raise RuntimeError("images seen in tiles are not held at the input size")
        return NormalPixels(held_out, step=VALIDATION_STEP)

    @property
    def held_out_inside(self) -> PackedMasks | None:
        """Their regions of interest; None where all pixels count."""
        return getattr(self._ready(self._held_out), "inside", None)

    @property
    def region(self) -> Tensor | None:
        """The region of interest ``(H, W)`` bool that all images have, at their own size; None where there is none."""
        if not self.regions:
            return None
        height, width = read_image(self.category.train[0].path).shape[:2]
        common = self.regions.common((height, width))
        return None if common is None else torch.from_numpy(common)

    @property
    def training_pixels(self) -> NormalPixels:
        """The normal images trained on, as the networks see them: of large ones a crop of each."""
        return NormalPixels(self._ready(self._train), step=VALIDATION_STEP)

    @property
    def normal_pixels(self) -> NormalPixels:
        """The images trained on and then those held out, as :attr:`normal_files` names them; for whole images only."""
        return NormalPixels(self._ready(self._all), step=VALIDATION_STEP)

    @property
    def normal_files(self) -> list[Path]:
        """The files of the images trained on, then of those held out."""
        return [self.category.train[row].path for row in (*self._rows, *self._held_out_rows)]

    @property
    def trained_names(self) -> list[str]:
        """The images that the networks have learnt from, earlier ones too, by their place below the category."""
        names = self._names
        return sorted({*(names[row] for row in self._rows), *self.trained_before})

    @property
    def _names(self) -> list[str]:
        root = self.category.root
        paths = (sample.path for sample in self.category.train)
        return [(path.relative_to(root) if path.is_relative_to(root) else path).as_posix() for path in paths]

    @property
    def _former_names(self) -> list[set[str]]:
        """What each image may be called by a training of its category alone, or of several together."""
        members = [sample.category for sample in self.category.train]
        return [
            {name, name.removeprefix(f"{member}/") if member else f"{self.category.name}/{name}"}
            for name, member in zip(self._names, members, strict=True)
        ]

    @property
    def parts_found(self) -> tuple[int, float]:
        """On how many of the images trained on a part was found, and the median share of an image that counts.

        On the others the whole image counts, on all of them where the pairs heed no foreground.
        """
        if not self.synthesis.foreground:
            return 0, 1.0
        shares = self._ready(self._train).shares
        return int((shares < 1).sum()), float(shares.median())

    @staticmethod
    def _ready(dataset: DatasetT | None) -> DatasetT:
        if dataset is None:
            raise RuntimeError("call setup() first")
        return dataset

    def training_batch(self, places: list[Place]) -> PlannedBatch:
        """Gather one batch of training images and plans, without a loader.

        Args:
            places: What a ``PairSampler`` yields.

        Returns:
            The batch on the CPU.
        """
        return self._ready(self._train).__getitems__(places)

    def places(self, step: int) -> list[Place]:
        """List what the global batch of one training step is made of, whatever the number of devices.

        Args:
            step: From 0, over both stages.

        Returns:
            ``(step, place, index)`` of each pair.
        """
        sampler = PairSampler(
            images=self.counts,
            batch_size=self.batch_size,
            first_step=step,
            steps=1,
            seed=self.seed,
            views=self.views,
        )
        return next(iter(sampler))

    def training_file(self, index: int) -> Path:
        """Name the file of a training image.

        Args:
            index: Its position among the images that are trained on, as in a ``Place``.
        """
        return self.category.train[self._rows[index % len(self._rows)]].path

    def train_dataloader(self) -> "PairBlocks":
        """Serve ``trainer.max_steps`` batches, beginning at ``first_step``, less those a resumed trainer has done."""
        trainer = self.trainer
        if trainer is None:
            raise RuntimeError("the data module serves a trainer")
        sampler = PairSampler(
            images=self.counts,
            batch_size=self.batch_size,
            first_step=self.first_step,
            steps=trainer.max_steps,
            done=trainer.global_step,
            seed=self.seed,
            views=self.views,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        return self.serve(sampler, trainer.strategy.root_device)

    def serve(self, sampler: PairSampler, device: torch.device) -> "PairBlocks":
        """Serve the pairs that a sampler lists, made on a device for some steps together.

        Args:
            sampler: This device's part of each batch.
            device: Where the networks are.

        Returns:
            An iterable of ``PairBatch``, one for each step.
        """
        height, width = self.image_size
        share = sampler.batch_size // sampler.world_size
        pairs, steps = AT_ONCE["cpu" if device.type == "cpu" else "gpu"]
        at_once = max(1, min(steps, pairs * 256**2 // (share * height * width)))

        def make(planned: PlannedBatch) -> PairBatch:
            return self.make_pairs(self.transfer_batch_to_device(planned, device, 0))

        return PairBlocks(self.planned(BlockSampler(sampler, at_once), device), make, share=share, steps=len(sampler))

    def planned(self, sampler: PairSampler | BlockSampler, device: torch.device) -> "DataLoader[PlannedBatch]":
        """Serve training images and plans, which :meth:`make_pairs` makes pairs of.

        Args:
            sampler: Lists the places of each batch.
            device: Where the pairs will be made. On a GPU the images are kept and gathered there, if workers or
                transforms on the CPU do not need them here and they take no more than ``RESIDENT_BYTES``.

        Returns:
            A loader of ``PlannedBatch``.
        """
        dataset = self._ready(self._train)
        here = self.num_workers > 0 or isinstance(self.augmentation, Augmentation) or dataset.nbytes > RESIDENT_BYTES
        here = here or self.tiles is not None
        if device.type != "cpu" and not here:
            return self._loader(dataset.on(device), batch_sampler=sampler, pin_memory=False)
        return self._loader(dataset, batch_sampler=sampler)

    def val_dataloader(self) -> DataLoader[Any]:
        """Serve the held-out normal images with the plans of their twins; each device its own part.

        Few images are served several times, each time with another twin.
        """
        dataset = self._ready(self._held_out)
        count, large = len(dataset), isinstance(dataset, WholeDataset)
        own = self._own_part(count)
        rounds = range(self._twins_of_each(count))
        places = [(VALIDATION_STEP + again, index, index) for again in rounds for index in own]
        size = 1 if large else max(1, self.evaluation_batch_size // 2)
        return self._loader(
            dataset if isinstance(dataset, WholeDataset) else ValidationPairs(dataset),
            batch_sampler=[places[i : i + size] for i in range(0, len(places), size)],
        )

    @property
    def validation_images(self) -> int:
        """How many images the synthetic validation scores: the held-out ones and all of their twins."""
        count = self.held_out_images
        return count + count * self._twins_of_each(count)

    @staticmethod
    def _twins_of_each(count: int) -> int:
        return math.ceil(TWINS / count)

    def test_dataloader(self) -> DataLoader[Any]:
        """Serve the test images; each device its own part, none twice."""
        shown = self.image_size if self.tiles is None else None
        dataset = FileDataset(self.category.test, shown, native_masks=self.native_masks, regions=self.regions)
        # An image is many tiles already.
        own, size = self._own_part(len(dataset)), self.evaluation_batch_size if self.tiles is None else 1
        return self._loader(dataset, batch_sampler=[own[i : i + size] for i in range(0, len(own), size)])

    def _own_part(self, count: int) -> list[int]:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        if count < world_size:
            # A device without a batch would leave the others waiting for it at the end. With all images on every
            # device each still counts as often as any other, so no figure changes.
            return list(range(count))
        return list(range(rank, count, world_size))

    def _loader(self, dataset: Any, *, batch_sampler: Any, pin_memory: bool = True) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            batch_sampler=batch_sampler,
            num_workers=self.num_workers,
            collate_fn=keep_batch,
            # Not for a CPU beside a GPU: pinning opens a context there.
            pin_memory=pin_memory
            and torch.cuda.is_available()
            and (self.trainer is None or self.trainer.strategy.root_device.type == "cuda"),
            persistent_workers=False,
            worker_init_fn=ignore_signals,
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch to the device, but leave its plan and indices where they are.

        The plan decides on the host which code makes which pair; read back from a GPU it would stop the queue.

        Args:
            batch: What a loader served.
            device: Where the networks are.
            dataloader_idx: Not used.

        Returns:
            The same kind of batch.
        """
        if not isinstance(batch, PlannedBatch):
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        images, others, foreground, textures = (part.to(device, non_blocking=True) for part in batch[:4])
        inside = None if batch.inside is None else batch.inside.to(device, non_blocking=True)
        return batch._replace(images=images, others=others, foreground=foreground, textures=textures, inside=inside)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Make the twins, on whatever device the batch has reached.

        Args:
            batch: What a loader served.
            dataloader_idx: Not used.

        Returns:
            A ``PairBatch`` in training, an ``EvaluationBatch`` otherwise.
        """
        if not isinstance(batch, PlannedBatch):
            return batch
        with _one_thread(batch.images.device):
            pairs = self.make_pairs(batch)
        if self.trainer is not None and self.trainer.training:
            return pairs
        return as_evaluation(pairs, self.held_out_images)

    def jittered(self, batch: PlannedBatch) -> PlannedBatch:
        """Show the view of each normal image that the batch asks for.

        Args:
            batch: On any device.

        Returns:
            The same with images and foreground moved and lit; itself where images stay as they are.
        """
        if not isinstance(self.augmentation, Jitter) or not len(batch.jitter):
            return batch
        images, foreground = self.augmentation(batch.images, batch.foreground, batch.jitter)
        return batch._replace(images=images, foreground=foreground, jitter=batch.jitter[:0])

    def make_pairs(self, batch: PlannedBatch) -> PairBatch:
        """Turn normal images and plans into pairs.

        Args:
            batch: On any device.

        Returns:
            Pairs on the same device.
        """
        batch = self.jittered(batch)
        if batch.inside is not None:  # painted last: the camera's view stays where it is when the part is moved
            images = paint_outside(batch.images, batch.inside).contiguous(memory_format=torch.channels_last)
            batch = batch._replace(images=images, foreground=part_inside(batch.foreground, batch.inside))
        anomalous, mask = self.synthesis(
            batch.images,
            batch.plan,
            others=batch.others,
            foreground=batch.foreground,
            textures=batch.textures if len(batch.textures) else None,
        )
        if batch.inside is not None:  # a bent tip may leave the part, and with it the region
            mask = mask * batch.inside
            normal = batch.images / 255 if batch.images.dtype == torch.uint8 else batch.images
            anomalous = torch.where(batch.inside, anomalous, normal.to(anomalous.dtype))
            anomalous = anomalous.contiguous(memory_format=torch.channels_last)
        return PairBatch(batch.images, anomalous, mask, tuple(batch.indices.tolist()), batch.inside)


class ValidationPairs(Dataset[PlannedBatch]):
    """Number the pairs of the synthetic validation, where an image may have several twins.

    Args:
        dataset: Of the held-out images.

    Source: ours.
    """

    def __init__(self, dataset: PlannedDataset) -> None:
        self.dataset = dataset

    def __getitems__(self, places: list[Place]) -> PlannedBatch:
        """Gather a batch; the first round has the numbers of the images."""
        count = len(self.dataset)
        numbers = [(step - VALIDATION_STEP) * count + index for step, _, index in places]
        return self.dataset.__getitems__(places)._replace(indices=torch.tensor(numbers))


class PairBlocks:
    """Serve pairs step by step that are made for several steps in one go.

    Args:
        planned: Batches of some steps, joined.
        make: Turns one into pairs.
        share: Pairs of a step.
        steps: Steps of the stage.

    Source: ours.
    """

    def __init__(
        self, planned: DataLoader[PlannedBatch], make: Callable[[PlannedBatch], PairBatch], *, share: int, steps: int
    ) -> None:
        self.planned, self.make, self.share, self.steps = planned, make, share, steps

    def __len__(self) -> int:
        """Return the number of steps of the whole stage, which is what Lightning counts against."""
        return self.steps

    def __iter__(self) -> Iterator[PairBatch]:
        """Yield the pairs of one step after the other."""
        for planned in self.planned:
            pairs = self.make(planned)
            parts = [part.split(self.share) for part in (pairs.normal, pairs.anomalous, pairs.mask)]
            for step, (normal, anomalous, mask) in enumerate(zip(*parts, strict=True)):
                own = slice(step * self.share, (step + 1) * self.share)
                yield PairBatch(normal, anomalous, mask, pairs.indices[own])


def as_evaluation(pairs: PairBatch, normal_images: int) -> EvaluationBatch:
    """Lay pairs out as images to be scored: first the normal ones, then their twins.

    Args:
        pairs: ``B`` pairs.
        normal_images: How many normal images there are; of pairs numbered from there on, which have the same normal
            images again, only the twin is taken.

    Returns:
        At most ``2 B`` images; a twin without any changed pixel is labelled normal.
    """
    own = torch.tensor(pairs.indices)
    first = own < normal_images
    images = torch.cat([pairs.normal[first], (pairs.anomalous * 255).round().to(torch.uint8)])
    masks = torch.cat([torch.zeros_like(pairs.mask[first]), pairs.mask]).bool()
    labels = masks.flatten(1).any(1).long()
    both = torch.cat([own[first], -1 - own])
    inside = None if pairs.inside is None else [*pairs.inside[first], *pairs.inside]
    return EvaluationBatch(images, masks, labels, both, inside)


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """Work on one thread on the CPU: in a small batch a second one waits more than it works."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def ignore_signals(worker: int) -> None:
    """Let a loader's worker go on at Ctrl-C, and for some seconds at SIGTERM, which reach a whole group of processes.

    The process it works for finishes the step in hand and saves its state, for which it needs more batches. A worker
    ends when that process says so or is gone.

    Args:
        worker: Not used.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(WORKER_OUTLASTS_S))


def keep_batch(batch: Any) -> Any:
    """Collate nothing: the data sets here gather whole batches themselves."""
    return batch


def _new_ones(train: list[int], held: list[int], files: Sequence[Path]) -> list[int]:
    """Leave copies of held-out images out of training, unless nothing is left then."""
    return leave_out_copies(train, held, files) or train
