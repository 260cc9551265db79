"""The detector: everything between an RGB image and its anomaly map and score, as one module that can be shipped."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dmdd.core.errors import UserError
from dmdd.core.files import whole_file, write_atomically
from dmdd.core.resize import resize_images
from dmdd.data.images import read_mask, write_mask
from dmdd.models.blocks import upsample
from dmdd.models.description import check_description, check_tensors, check_widths
from dmdd.models.losses import cosine_distance
from dmdd.models.own_maps import Evidence, OwnMap, OwnScore, compute, find_function
from dmdd.models.score_scale import find_category
from dmdd.models.segmentation import SegmentationNetwork
from dmdd.models.student import Student
from dmdd.models.teacher import Teacher
from dmdd.models.whitening import ResidualWhitening, mahalanobis

FORMAT_VERSION = 6
# 1 knew no fused map, its anomaly map was the segmentation map; 2 no folded teacher; 3 read the score from the smoothed
# map and knew no baselines; 4 knew no whitened residuals; 5 no images as a whole.
READABLE_VERSIONS = (1, 2, 3, 4, 5, 6)
WEIGHTS_FILE = "weights.safetensors"
SPEC_FILE = "detector.json"
REGION_FILE = "region.png"
IMAGE_MAPS = ("relative", "overall")
WHITENED_MAPS = (*IMAGE_MAPS, "combined", "distance", "whitened")
MAP_NAMES = (*WHITENED_MAPS, "fused", "segmentation", "geometric", "normality", "abnormality", "both")
LARGEST_MAHALANOBIS = 32.0
"""Of a level, over the square root of its channels; larger ones count as this. Defects reach 2 to 12."""


class Slices(Protocol):
    """Images of which some are given at a time: a tensor ``(N, 3, h, w)``, or more than memory holds."""

    def __len__(self) -> int:
        """Return how many there are."""

    def __getitem__(self, part: slice | Tensor, /) -> Tensor:
        """Give images by a slice or by positions, ``(B, 3, h, w)``."""


class DetectorOutput(NamedTuple):
    """What a detector says of a batch.

    Args:
        map: ``(B, 1, h, w)`` float32 in [0, 1] at the detector's input size; large where a pixel looks anomalous.
        score: ``(B,)`` float32 in [0, 1]; large for an anomalous image.
    """

    map: Tensor
    score: Tensor


class Tiling(NamedTuple):
    """How images are cut into overlapping tiles that are looked at one by one.

    Args:
        tile_px: Height and width of a tile in pixels of the image.
        overlap: Share of a tile that at least lies in the next one.
    """

    tile_px: tuple[int, int]
    overlap: float


def check_input_size(size: Sequence[int]) -> tuple[int, int]:
    """Check the size that the networks see.

    Args:
        size: Height and width in pixels.

    Returns:
        The same.

    Raises:
        UserError: They are not two multiples of 32, at least 64.
    """
    try:
        height, width = (int(side) for side in size)
    except (TypeError, ValueError):
        raise UserError(f"image_size={size}: give height and width, as in image_size=[256,256]") from None
    if height < 64 or width < 64 or height % 32 or width % 32:
        raise UserError(f"image_size={height}x{width}: both sides must be multiples of 32, at least 64")
    return height, width


class Detector(nn.Module):
    """Teacher, student, segmentation network and the arithmetic around them.

    Args:
        teacher: Frozen teacher.
        student: Student with the teacher's channels.
        segmentation: Segmentation network with the teacher's channels.
        input_size: Height and width in pixels the networks see, multiples of 32.
        sigma_px: Standard deviation of the Gaussian that smooths every map, in pixels at ``input_size``; 0 for none.
        score_fraction: The image score is read from the mean of this fraction of a map's largest values; 0 takes the
            maximum.
        anomaly_map: Which of the maps is the detector's anomaly map: of ``MAP_NAMES``, or the dotted name of a function
            of another package, see :mod:`dmdd.models.own_maps`.
        score_map: Which of the maps the image score is read from, likewise.
        score_smoothed: Read the score from the smoothed map at the input size, not from the raw one at stride 4.
        baseline_power: How much of an image's baseline is taken out of its score, from 0 to 1; see :meth:`image_score`.
        score_function: Dotted name of a function of another package that reads the score from a map's values; None
            for the mean of the largest.
        whitened: Whether it has whitened residuals; models up to format version 4 have none, nor the maps made of them
            (``WHITENED_MAPS``).
        with_images: Whether it knows normal images as a whole besides (``IMAGE_MAPS``); models up to format version 5
            do not.
        image_kinds: How many categories it is for: how many kinds of normal images it tells apart as a whole.

    Raises:
        UserError: An argument is out of its range, or a map or the segmentation network needs whitened residuals.

    Source: paper for the parts; smoothing and mean of the largest reconstructed; ``score_map`` and baselines ours.
    """

    def __init__(
        self,
        *,
        teacher: Teacher,
        student: Student,
        segmentation: SegmentationNetwork,
        input_size: Sequence[int],
        sigma_px: float = 1.0,
        score_fraction: float = 0.01,
        anomaly_map: str = "relative",
        score_map: str = "overall",
        score_smoothed: bool = False,
        baseline_power: float = 0.75,
        score_function: str | None = None,
        whitened: bool = True,
        with_images: bool = True,
        image_kinds: int = 1,
    ) -> None:
        super().__init__()
        height, width = check_input_size(input_size)
        if not 0 <= score_fraction <= 1:
            raise UserError(f"score_fraction={score_fraction}: give a number from 0 to 1")
        if not 0 <= baseline_power <= 1:
            raise UserError(f"baseline_power={baseline_power}: give a number from 0 to 1")
        if sigma_px < 0:
            raise UserError(f"sigma_px={sigma_px}: give a number of pixels, at least 0")
        self.whitening = (
            ResidualWhitening(teacher.channels, with_images=with_images, kinds=image_kinds) if whitened else None
        )
        self.own_maps: dict[str, OwnMap] = {}
        self.anomaly_map = self.find_map("anomaly_map", anomaly_map)
        self.score_map = self.find_map("score_map", score_map)
        self.score_function = score_function
        self._own_score: OwnScore | None = None
        if score_function is not None:
            self._own_score = find_function("score_function", score_function)
        if segmentation.inputs == "whitened" and not whitened:
            raise UserError("segmentation.inputs=whitened needs whitened residuals; use segmentation.inputs=products")
        self.teacher, self.student, self.segmentation = teacher, student, segmentation
        self.input_size = (height, width)
        self.sigma_px, self.score_fraction = float(sigma_px), float(score_fraction)
        self.score_smoothed, self.baseline_power = bool(score_smoothed), float(baseline_power)
        # By map name the least and the largest baseline among normal images, filled by calibration; empty before.
        self.normal_baselines: dict[str, tuple[float, float]] = {}
        # The tiles it was trained on; None if it was trained on whole images. Part of the saved model.
        self.tiling: Tiling | None = None
        # The region of interest ``(H, W)`` bool that all training images had, at their size; None where all pixels
        # count, or images have regions of their own. Part of the saved model.
        self.region: Tensor | None = None
        # Thresholds and how they were found; part of the saved model, filled by calibration, changeable by hand.
        self.calibration: dict[str, Any] = {}
        # The same of each category that it is for, where it is for several and the category is known.
        self.category_calibrations: dict[str, dict[str, Any]] = {}
        # What the calibration was before ``dmdd.calibrate`` changed it, oldest first.
        self.former_calibrations: list[dict[str, Any]] = []

    @property
    def map_names(self) -> tuple[str, ...]:
        """Names of the maps that it can give."""
        known = tuple(name for name in MAP_NAMES if self.whitening is not None or name not in WHITENED_MAPS)
        if self.whitening is not None and not self.whitening.knows_images:
            known = tuple(name for name in known if name not in IMAGE_MAPS)
        return (*known, *self.own_maps)

    def find_map(self, setting: str, name: str) -> str:
        """Make sure that there is a map.

        Args:
            setting: What names it, for messages.
            name: Of ``MAP_NAMES``, or the dotted name of a function of another package.

        Returns:
            The name.

        Raises:
            UserError: There is no such map, or its package is not allowed.
        """
        if "." in name and name not in self.own_maps:
            self.own_maps[name] = find_function(setting, name)
        if name not in self.map_names:
            raise UserError(f"{setting}={name}: choose one of {', '.join(self.map_names)}, or PACKAGE.FUNCTION")
        return name

    def choose_category(self, name: str) -> None:
        """Decide by the thresholds of one of the categories that it is for.

        Args:
            name: Of the category.

        Raises:
            UserError: It knows no thresholds of that category.
        """
        self.calibration = find_category(name, self.category_calibrations)

    def forward(self, images: Tensor) -> DetectorOutput:
        """Compute map and score.

        Args:
            images: ``(B, 3, H, W)`` RGB, uint8 in [0, 255] or float in [0, 1], any size.

        Returns:
            The anomaly map and the image score.
        """
        raw = self.raw_maps(images, only=(self.anomaly_map, self.score_map))
        return DetectorOutput(self.smooth(raw[self.anomaly_map]), self.image_score(self.score_map, raw[self.score_map]))

    def maps(self, images: Tensor, *, only: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Compute the anomaly map and, for study, what it is made of.

        Args:
            images: ``(B, 3, H, W)`` RGB, uint8 in [0, 255] or float in [0, 1], any size.
            only: Names of the maps wanted; all if None.

        Returns:
            ``(B, 1, h, w)`` float32 in [0, 1] at the input size by name.
        """
        return {name: self.smooth(raw) for name, raw in self.raw_maps(images, only=only).items()}

    def raw_maps(self, images: Tensor, *, only: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Compute maps as the networks give them.

        Args:
            images: ``(B, 3, H, W)`` RGB, uint8 in [0, 255] or float in [0, 1], any size.
            only: Names of the maps wanted; all if None.

        Returns:
            ``(B, 1, h/4, w/4)`` float32 in [0, 1] by name: ``relative`` (``combined`` against the image's grain,
            :meth:`ResidualWhitening.against_grain`), ``overall`` (``distance`` weighted by how unusual the image is,
            :meth:`ResidualWhitening.against_images`), ``combined`` (:func:`combine`), ``distance``
            (:func:`joint_distance`), ``whitened`` (geometric mean over levels of the whitened residuals' lengths),
            ``fused`` (:func:`fuse`), ``segmentation`` (stage 2), ``geometric`` (geometric mean over levels of the
            normality distances ``D / 2``), ``normality`` and ``abnormality`` (mean over levels of ``D / 2``), ``both``
            (mean of these two); and those of other packages.
        """
        wanted = self.map_names if only is None else tuple(only)
        resized = self.preprocess(images)
        features = self.teacher(resized)
        normality, abnormality = self.student(resized, features)
        residuals = None if self.whitening is None else self.whitening(features, normality)
        maps = {}
        if set(wanted) - {"segmentation", "abnormality"}:
            distances = level_distances(normality, features)
            maps["geometric"], maps["normality"] = geometric_distance(distances), mean_distance(distances)
        if {"abnormality", "both"} & set(wanted):
            maps["abnormality"] = mean_distance(level_distances(abnormality, features))
        if "both" in wanted:
            maps["both"] = (maps["normality"] + maps["abnormality"]) / 2
        own = [name for name in self.own_maps if name in wanted]
        if own or {"relative", "combined", "fused", "segmentation"} & set(wanted):
            maps["segmentation"] = torch.sigmoid(self.segmentation(features, normality, abnormality, residuals).float())
        for name in own:
            evidence = Evidence(features, normality, abnormality, maps["segmentation"])
            maps[name] = compute(name, self.own_maps[name], evidence)
        if "fused" in wanted:
            maps["fused"] = fuse(maps["segmentation"], maps["geometric"])
        if residuals is not None and set(WHITENED_MAPS) & set(wanted):
            maps["whitened"] = whitened_distance(mahalanobis(residuals))
            maps["distance"] = joint_distance(maps["geometric"], maps["whitened"])
            if {"relative", "combined"} & set(wanted):
                maps["combined"] = combine(maps["segmentation"], maps["distance"])
            if "relative" in wanted and self.whitening is not None:
                maps["relative"] = self.whitening.against_grain(maps["combined"], distances[0])
            if "overall" in wanted and self.whitening is not None:
                maps["overall"] = self.whitening.against_images(maps["distance"], features[-1])
        return {name: maps[name] for name in wanted}

    def smooth(self, raw: Tensor) -> Tensor:
        """Enlarge raw maps ``(B, 1, h/4, w/4)`` to the input size and smooth them; values stay in [0, 1]."""
        # The clamp only removes rounding: a Gaussian mean of values in [0, 1] stays there up to the last bit.
        return gaussian_blur(upsample(raw, self.input_size), self.sigma_px).clamp(0, 1)

    def preprocess(self, images: Tensor) -> Tensor:
        """Resize to the input size with antialiasing and round to whole grey values.

        The rounding makes an image that was resized and kept as uint8 (as the training data is) the same input, to
        the bit, as the image file it came from.

        Args:
            images: ``(B, 3, H, W)`` RGB, uint8 in [0, 255] or float in [0, 1].

        Returns:
            ``(B, 3, h, w)`` float32 in [0, 1].
        """
        return self.resize(images).float() / 255

    def resize(self, images: Tensor) -> Tensor:
        """Resize ``(B, 3, H, W)`` images to the input size, as uint8; what has been through it may go in again."""
        return resize_images(images, self.input_size)

    def image_score(self, name: str, raw: Tensor) -> Tensor:
        """Reduce raw maps to image scores.

        The mean ``t`` of the largest values is set against the image's baseline ``v``, the mean of all its values. For
        the student knows some images less well as a whole (a darker one, say), and all their values are then larger:
        ``r = t / v^p`` with ``p = baseline_power``, and the score is ``r / (1 + r)``. The baseline is first brought
        into the range that normal images have, so that what is anomalous all over cannot hide by it. Where no
        baselines are known, and for ``p = 0``, the score is ``t``.

        Args:
            name: Which of ``map_names`` they are.
            raw: ``(B, 1, h/4, w/4)`` in [0, 1].

        Returns:
            ``(B,)`` in [0, 1].

        Source: mean of the largest reconstructed; the baseline ours, experiments/maps has what it is worth.
        """
        values = self.smooth(raw) if self.score_smoothed else raw
        flat = values.flatten(1)
        if self._own_score is None:
            count = max(1, round(self.score_fraction * flat.shape[1]))
            top = flat.topk(count, dim=1).values.mean(1)
        else:
            top = self._own_score(flat).float()
        if not self.baseline_power or name not in self.normal_baselines:
            return top
        least, largest = self.normal_baselines[name]
        contrast = top / flat.mean(1).clamp(least, largest) ** self.baseline_power
        return contrast / (1 + contrast)

    def learn_baselines(self, images: Slices, *, batch_size: int) -> dict[str, Tensor]:
        """Find the range of normal images' baselines, for every map; until then scores leave baselines out.

        Args:
            images: Normal images ``(N, 3, H, W)``, uint8 in [0, 255] or float in [0, 1]; none of them forgets what was
                known.
            batch_size: Images at once.

        Returns:
            By map name the images' baselines, ``(N,)``.
        """
        baselines: dict[str, list[Tensor]] = {}
        device = next(self.parameters()).device
        with torch.no_grad():
            for first in range(0, len(images), batch_size):
                batch = images[first : first + batch_size].to(device)
                for name, raw in self.raw_maps(batch).items():
                    values = self.smooth(raw) if self.score_smoothed else raw
                    baselines.setdefault(name, []).append(values.mean((1, 2, 3)))
        # The smallest keeps the quotient finite for a map that is zero everywhere.
        whole = {name: torch.cat(parts).clamp(min=1e-6) for name, parts in baselines.items()}
        self.normal_baselines = {name: (float(found.min()), float(found.max())) for name, found in whole.items()}
        return whole

    @property
    def spec(self) -> dict[str, Any]:
        """Everything but the weights, as plain JSON values; :meth:`from_spec` is the inverse."""
        kinds = 1 if self.whitening is None else self.whitening.kinds
        return {
            "format_version": FORMAT_VERSION,
            "teacher": self.teacher.spec,
            "student": self.student.spec,
            "segmentation": self.segmentation.spec,
            "input_size": list(self.input_size),
            "sigma_px": self.sigma_px,
            "score_fraction": self.score_fraction,
            "anomaly_map": self.anomaly_map,
            "score_map": self.score_map,
            "score_smoothed": self.score_smoothed,
            "level_power": self.baseline_power,
            **({"score_function": self.score_function} if self.score_function else {}),
            "whitened": self.whitening is not None,
            "with_images": self.whitening is not None and self.whitening.knows_images,
            "normal_levels": {name: list(levels) for name, levels in self.normal_baselines.items()},
            "calibration": self.calibration,
            **({"category_calibrations": self.category_calibrations} if self.category_calibrations else {}),
            **({} if kinds == 1 else {"image_kinds": kinds}),
            **({} if self.tiling is None else {"tiling": describe_tiling(self.tiling)}),
            **({} if self.region is None else {"region": list(self.region.shape)}),
            **({"former_calibrations": self.former_calibrations} if self.former_calibrations else {}),
        }

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> "Detector":
        """Build an untrained detector from what :attr:`spec` gave.

        Args:
            spec: As in ``detector.json``.

        Returns:
            A detector with random weights, in evaluation mode.

        Raises:
            UserError: The format is of another version, or an entry is missing, unknown or out of its range.
        """
        version = spec.get("format_version")
        if isinstance(version, bool) or version not in READABLE_VERSIONS:
            raise UserError(f"the model has format version {version}, this dmdd reads up to version {FORMAT_VERSION}")
        check_description(spec)
        try:
            teacher = Teacher(**spec["teacher"])
            detector = cls(
                teacher=teacher,
                student=Student(channels=teacher.channels, **spec["student"]),
                segmentation=SegmentationNetwork(channels=teacher.channels, **spec["segmentation"]),
                input_size=spec["input_size"],
                sigma_px=spec["sigma_px"],
                score_fraction=spec["score_fraction"],
                anomaly_map=spec["anomaly_map"] if version > 1 else "segmentation",
                score_map=spec["score_map"],
                score_smoothed=spec["score_smoothed"] if version > 3 else True,
                baseline_power=spec["level_power"] if version > 3 else 0,
                score_function=spec.get("score_function"),
                whitened=spec["whitened"] if version > 4 else False,
                with_images=spec["with_images"] if version > 5 else False,
                image_kinds=spec.get("image_kinds", 1),
            )
            if version > 3:
                detector.normal_baselines = {name: (low, high) for name, (low, high) in spec["normal_levels"].items()}
            detector.calibration = dict(spec["calibration"])
            detector.category_calibrations = dict(spec.get("category_calibrations", {}))
            detector.former_calibrations = list(spec.get("former_calibrations", []))
            if tiling := spec.get("tiling"):
                detector.tiling = Tiling(tuple(tiling["tile_px"]), float(tiling["overlap"]))
        except UserError:
            raise
        except Exception as error:  # timm raises a zoo of types for names it half knows
            raise UserError(f"{SPEC_FILE} does not describe a detector: {' '.join(str(error).split())}") from error
        # The layout it was trained and measured in: the faster one, and another would round differently.
        return detector.eval().to(memory_format=torch.channels_last)

    def save(self, folder: str | Path) -> None:
        """Write ``weights.safetensors`` and ``detector.json`` into ``folder``, each by an atomic rename.

        Args:
            folder: Made if it does not exist.
        """
        folder = Path(folder)
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        with whole_file(folder / WEIGHTS_FILE) as partial:
            save_file(state, partial, metadata={"format": "pt"})
        if self.region is not None:
            write_mask(folder / REGION_FILE, self.region.numpy())
        write_atomically(folder / SPEC_FILE, json.dumps(self.spec, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "Detector":
        """Read a detector that :meth:`save` wrote; no code in the folder is run.

        Args:
            folder: The ``model`` folder of a run.

        Returns:
            The detector on the CPU, in evaluation mode.

        Raises:
            UserError: A file is missing, damaged, of another version, or does not fit.
        """
        folder = Path(folder)
        for name in (SPEC_FILE, WEIGHTS_FILE):
            if not (folder / name).is_file():
                inner = folder.resolve() / "model"
                wanted = inner if (inner / name).is_file() else "the model folder of a finished run"
                raise UserError(f"no {name} in {folder.resolve()}; give {wanted}")
        try:
            spec = json.loads((folder / SPEC_FILE).read_text(encoding="utf-8"))
            state = load_file(folder / WEIGHTS_FILE)
        except (
            ValueError,
            SafetensorError,
            RecursionError,
            KeyError,
        ) as error:  # the last for unknown types of tensors
            raise UserError(f"the model in {folder} is damaged: {' '.join(str(error).split())}") from error
        except OSError as error:
            raise UserError(f"the model in {folder} cannot be read: {error.strerror or error}") from error
        if not isinstance(spec, dict):
            raise UserError(f"{folder / SPEC_FILE} does not describe a detector: it is not a JSON object")
        check_widths(spec, state)
        detector = cls.from_spec(spec)
        if size := spec.get("region"):
            detector.region = torch.from_numpy(read_mask(folder / REGION_FILE, size=(size[0], size[1])))
        check_tensors(state, detector.state_dict())
        try:
            detector.load_state_dict(state)
        except RuntimeError as error:
            raise UserError(
                f"{folder / WEIGHTS_FILE} does not fit {SPEC_FILE}: {str(error).splitlines()[1].strip()}"
            ) from error
        return detector


def describe_tiling(tiling: Tiling | None) -> dict[str, Any] | None:
    """Give tiles as plain JSON values, as saved models and exports hold them."""
    return None if tiling is None else {"tile_px": list(tiling.tile_px), "overlap": tiling.overlap}


def level_distances(student: list[Tensor], teacher: list[Tensor]) -> list[Tensor]:
    """Compute each level's cosine distances.

    Args:
        student: Normality or abnormality features ``(B, C_l, h_l, w_l)``.
        teacher: Teacher features of the same image, same shapes.

    Returns:
        ``(B, 1, h_l, w_l)`` float32 in [0, 2] for each level.
    """
    return [cosine_distance(s, t).unsqueeze(1) for s, t in zip(student, teacher, strict=True)]


def mean_distance(distances: list[Tensor]) -> Tensor:
    """Average the levels' distances at the finest level's size.

    Args:
        distances: ``(B, 1, h_l, w_l)`` in [0, 2] for each level, the finest first.

    Returns:
        ``(B, 1, h_1, w_1)`` float32 in [0, 1].

    Source: paper for the idea; the mean over levels, divided by 2 so that it lies in [0, 1], is ours.
    """
    size = (distances[0].shape[-2], distances[0].shape[-1])
    return torch.stack([upsample(distance, size) for distance in distances]).mean(0).clamp(0, 2) / 2


def geometric_distance(distances: list[Tensor]) -> Tensor:
    """Take the geometric mean of the levels' distances at the finest level's size: large only where all levels are.

    Args:
        distances: ``(B, 1, h_l, w_l)`` in [0, 2] for each level, the finest first.

    Returns:
        ``(B, 1, h_1, w_1)`` float32 in [1e-6, 1]: of ``D / 2``, at least 1e-6 each, so that a level of exactly zero
        does not decide alone.

    Source: ours; experiments/maps has what it is worth.
    """
    size = (distances[0].shape[-2], distances[0].shape[-1])
    levels = [upsample(distance.clamp(0, 2) / 2, size).clamp(min=1e-6).log() for distance in distances]
    return torch.stack(levels).mean(0).exp()


def whitened_distance(distances: list[Tensor]) -> Tensor:
    """Take the geometric mean of the levels' Mahalanobis distances at the finest level's size.

    Args:
        distances: ``(B, 1, h_l, w_l)`` for each level, the finest first, as :func:`mahalanobis` gives them.

    Returns:
        ``(B, 1, h_1, w_1)`` float32 in [1e-6, 1]: of shares of ``LARGEST_MAHALANOBIS``.

    Source: ours; experiments/maps has what it is worth.
    """
    # The geometric mean takes halves of cosine distances; twice the share makes them shares of the largest.
    return geometric_distance([2 * distance / LARGEST_MAHALANOBIS for distance in distances])


def joint_distance(geometric: Tensor, whitened: Tensor) -> Tensor:
    """Join the two distances of teacher and student, which agree on anomalies more than on normal texture.

    Args:
        geometric: ``G``, what :func:`geometric_distance` gives, ``(B, 1, h, w)`` above 0.
        whitened: ``W``, what :func:`whitened_distance` gives, same shape.

    Returns:
        ``(B, 1, h, w)`` float32 in (0, 1]: ``(G W^2)^(1/3)``.

    Source: ours; experiments/maps has what it is worth.
    """
    return ((geometric.log() + 2 * whitened.log()) / 3).exp()


def combine(segmented: Tensor, distance: Tensor) -> Tensor:
    """Combine the segmentation network's map with the distance of teacher and student.

    As :func:`fuse`, with the better of the distances and more weight on it.

    Args:
        segmented: The network's sigmoid ``S``, ``(B, 1, h, w)`` in [0, 1].
        distance: What :func:`joint_distance` gives, ``J``, same shape, above 0.

    Returns:
        ``(B, 1, h, w)`` float32 in [0, 1]: ``(S J^6)^(1/7)``.

    Source: ours; experiments/maps has what it is worth.
    """
    return ((segmented.float().clamp(min=1e-6).log() + 6 * distance.log()) / 7).exp()


def fuse(segmented: Tensor, geometric: Tensor) -> Tensor:
    """Fuse the segmentation network's map with the normality distances of all levels, as a weighted geometric mean.

    A pixel is anomalous where both stages say so: the segmentation network, which knows the look of synthetic
    anomalies only, and the distances, which know no look at all. The levels among themselves count as one expert of
    twice the weight of the other.

    Args:
        segmented: The network's sigmoid ``S``, ``(B, 1, h, w)`` in [0, 1].
        geometric: What :func:`geometric_distance` gives, ``G``, same shape, above 0.

    Returns:
        ``(B, 1, h, w)`` float32 in [0, 1]: ``(S G^2)^(1/3)``.

    Source: ours, in place of the paper's segmentation map alone, which fell behind the normality map on one of two data
    sets; experiments/suite has the figures and the other combinations tried.
    """
    return ((segmented.float().clamp(min=1e-6).log() + 2 * geometric.log()) / 3).exp()


def gaussian_kernel(sigma_px: float, *, largest: int, like: Tensor) -> Tensor:
    """Sample a Gaussian that is cut at four standard deviations and sums to one.

    Args:
        sigma_px: Standard deviation in pixels, above 0.
        largest: Largest radius allowed.
        like: Has the wanted type and device.

    Returns:
        ``(2 r + 1,)``.
    """
    radius = min(int(4 * sigma_px + 0.5), largest)
    steps = torch.arange(-radius, radius + 1, device=like.device, dtype=like.dtype)
    kernel = torch.exp(-0.5 * (steps / sigma_px) ** 2)
    return kernel / kernel.sum()


def gaussian_blur(maps: Tensor, sigma_px: float) -> Tensor:
    """Smooth maps with a Gaussian cut at four standard deviations, borders reflected.

    Args:
        maps: ``(B, 1, h, w)`` float.
        sigma_px: Standard deviation in pixels; 0 returns ``maps``.

    Returns:
        Same shape.
    """
    if sigma_px == 0:
        return maps
    kernel = gaussian_kernel(sigma_px, largest=min(maps.shape[-2:]) - 1, like=maps)
    radius = len(kernel) // 2
    padded = F.pad(maps, (radius, radius, radius, radius), mode="reflect")
    if torch.is_autocast_enabled(maps.device.type):  # it would blur in half precision
        with torch.autocast(maps.device.type, enabled=False):
            return F.conv2d(F.conv2d(padded, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
