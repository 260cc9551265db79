"""Every setting of every command: its type, its range, its unit, and one line that says what it does.

The values themselves stand in ``conf/``. A composed configuration is read into one of these classes once
(:mod:`dmdd.config.check`) and passed on as such. Parts that name a ``_target_`` are checked against its signature.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any, Literal, Self

Target = Mapping[str, Any]
"""A ``_target_`` with its arguments, built when it is needed by :func:`dmdd.config.targets.build`."""

FORMER_NAMES = {"detector.level_power": "detector.baseline_power"}
"""Settings by their names in version 0.2, which work in one more version and warn; also those of run folders."""

MapName = Literal[
    "relative",
    "overall",
    "combined",
    "distance",
    "whitened",
    "fused",
    "segmentation",
    "geometric",
    "normality",
    "abnormality",
    "both",
]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What a value must satisfy besides its type, and what is said of it.

    Args:
        help: One line.
        unit: What a number counts, as in "seconds".
        least: Smallest value.
        most: Largest value.
        above: The value is larger than this.
        below: The value is smaller than this.
        missing: What to give, where null is the default and no value.
        is_path: A file or folder: a leading ``~`` is the home folder.
        is_internal: Set by the program, not by a user.
        is_open: Besides the choices, the dotted name of a function of a package that the user allows.
    """

    help: str
    unit: str = ""
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    missing: str = ""
    is_path: bool = False
    is_internal: bool = False
    is_open: bool = False


def setting(text: str, *, default: Any = MISSING, **rules: Any) -> Any:
    """Declare a setting.

    Args:
        text: One line that says what it does.
        default: For a setting that no file of ``conf/`` mentions; the values of all others stand there.
        rules: Of :class:`Rule`.

    Returns:
        A dataclass field.
    """
    return field(default=default, metadata={"rule": Rule(help=text, **rules)})


class Settings:
    """What the settings of every command can do."""

    COMMAND: str

    @classmethod
    def compose(cls, *overrides: str, **values: object) -> Self:
        """Compose the settings from ``conf/``, as the command line does but without Hydra's global state.

        Args:
            overrides: As on the command line: ``"recipe=cpu"``, ``"distillation.steps=100"``.
            values: Settings by name, as Python values: ``category="screw"``, ``data_dir=Path("data")``.

        Returns:
            The settings, checked.

        Raises:
            UserError: A setting is unknown, of the wrong type or out of its range.
        """
        from dmdd.config.compose import compose

        return compose(cls, list(overrides), values)


@dataclass(frozen=True, kw_only=True)
class DatasetSettings:
    """``dataset=``: where the images lie and in which shape."""

    name: str = setting("name that results go under")
    layout: Target = setting("reader of the files")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """``data.``: how images are served."""

    textures_dir: str | None = setting(
        "texture images; read only where the pairs use textures (pairs=dtd)", is_path=True
    )
    held_out_fraction: float = setting(
        "share of the normal training images kept for thresholds, never trained on", least=0, below=1
    )
    held_out_runs: bool = setting("hold out whole runs of neighbours where images beside each other by name are alike")
    evaluation_batch_size: int = setting("images a device scores at once", least=1)
    tile_px: int | tuple[int, ...] | None = setting(
        "train and test on tiles of this side, or [height,width], in pixels of the image (docs/tiles.md)"
    )
    overlap: float | None = setting(
        "with tile_px: share of a tile that the next one covers too; null: 0.25", least=0, most=0.9
    )
    roi: str | None = setting(
        "region of interest: a mask image, a folder of them or a JSON file (docs/regions.md)", is_path=True
    )
    ignore: str | None = setting("what does not count within the region, likewise", is_path=True)
    num_workers: int = setting(
        "worker processes; 0 is enough unless augmentation.transforms are your own and a GPU waits (2 to 4)", least=0
    )
    memory_gb: float = setting(
        "decoded images that take more than this are kept in a file instead of memory", unit="GB", least=0
    )
    cache_dir: str = setting("folder of such files, shared by all runs; may be deleted at any time", is_path=True)


@dataclass(frozen=True, kw_only=True)
class DetectorSettings:
    """``detector.``: how maps and scores are read from the networks."""

    sigma_px: float = setting("standard deviation of the Gaussian that smooths every map", unit="pixels", least=0)
    anomaly_map: MapName = setting("the detector's map (docs/maps.md)", is_open=True)
    score_map: MapName = setting("the map that the image score is read from", is_open=True)
    score_function: str | None = setting(
        "PACKAGE.FUNCTION that reads the score from a map's values; null: the mean of the largest", default=None
    )
    score_fraction: float = setting("share of the map's largest values whose mean is the image score", least=0, most=1)
    score_smoothed: bool = setting("read the score from the smoothed map instead of the raw one")
    baseline_power: float = setting("how much of an image's own baseline is taken out of its score", least=0, most=1)


@dataclass(frozen=True, kw_only=True)
class DistillationSettings:
    """``distillation.``: stage 1, the student learns from the teacher."""

    steps: int = setting("optimiser steps of stage 1, one batch each", least=1)
    learning_rate: float = setting("peak learning rate", above=0)
    weight_decay: float = setting("decoupled weight decay", least=0)
    aim: Literal["margin", "l1"] = setting("form of the AIM loss")
    hard_fraction: float = setting("share of each image's distances, the largest, in the NGM loss", above=0, most=1)
    ngm_weight: float = setting("weight of the NGM loss; 0 trains the abnormality branch alone", least=0)
    aim_weight: float = setting("weight of the AIM loss; 0 trains the normality branch alone", least=0)
    cache_limit_gb: float = setting(
        "teacher features are remembered up to this size", default=4.0, unit="10^9 bytes", least=0
    )


@dataclass(frozen=True, kw_only=True)
class SegmentationTrainingSettings:
    """``segmentation_training.``: stage 2, the segmentation network learns where stage 1 disagrees."""

    steps: int = setting("optimiser steps of stage 2", least=1)
    learning_rate: float = setting("peak learning rate", above=0)
    weight_decay: float = setting("decoupled weight decay", least=0)
    focal_gamma: float = setting("exponent of the focal loss", least=0)


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """``evaluation.``: thresholds and the test."""

    precision: str = setting("precision of the test; the same on every device, so TF32 is off too")
    false_alarm_rate: float = setting("wanted share of normal images above the image threshold", above=0, below=1)
    resamples: int = setting("test sets drawn from the images for 95 % intervals; 0 for none", least=0)
    native_masks: bool = setting("compare at the masks' own size instead of the input size")
    exact: bool | None = setting("keep every pixel score; null does where the test set is small (17 million pixels)")
    study_maps: bool = setting("also measure every other map")
    pixel_metrics: Mapping[str, Target | None] | None = setting(
        "more metrics of map and mask, by any name (docs/extending.md)", default=None
    )
    image_metrics: Mapping[str, Target | None] | None = setting("more metrics of score and label", default=None)
    pictures: int = setting("pictures in images/, at most", least=0)


@dataclass(frozen=True, kw_only=True)
class LauncherSettings:
    """``launcher=``: how the members of a sweep share this machine."""

    claim_gpu: bool = setting("each worker takes a free GPU for itself (CUDA_VISIBLE_DEVICES)")
    runs_per_gpu: int = setting("workers that may share a GPU", default=1, least=1)
    wait_s: float = setting("how long a worker waits for a free GPU", default=600.0, unit="seconds", least=0)


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Settings):
    """Settings of ``dmdd train``."""

    COMMAND = "train"

    category: str | None = setting(
        "folder name; one model for several: a,b or '*' or all; one model each: -m, with all_each too"
    )
    data_dir: str = setting("folder that holds mvtec_ad/, mpdd/, dtd/ and so on; $DMDD_DATA if set", is_path=True)
    name: str = setting("name of the run")
    run_dir: str = setting("folder of all outputs", is_path=True)
    seed: int = setting("seed of pairs, order, split and initial weights", least=0, most=2**32 - 1)
    resume: bool = setting("continue the run with the same settings; skip it if it is finished")
    save_state_every_s: float = setting(
        "time between two saved states, from which resume=true continues", unit="seconds", above=0
    )
    save_state_every_n_steps: int | None = setting("steps between two saved states, instead of the time", least=1)
    init: str | None = setting(
        "model folder of a run whose student and segmentation network training starts from", is_path=True
    )
    objective: str | None = setting("figure of the synthetic validation that a search maximises (docs/training.md)")
    upload_model: bool = setting("store the model folder as an artifact of the W&B run")
    image_size: tuple[int, int] = setting("height and width the networks see; multiples of 32", unit="pixels", least=1)
    batch_size: int = setting("pairs of a step, over all devices", least=1)
    compile: bool = setting("compile the networks of a step with torch.compile; takes minutes at first")
    data: DataSettings = setting("how images are served")
    detector: DetectorSettings = setting("how maps and scores are read from the networks")
    distillation: DistillationSettings = setting("stage 1: the student learns from the teacher")
    segmentation_training: SegmentationTrainingSettings = setting("stage 2: the segmentation network")
    evaluation: EvaluationSettings = setting("thresholds and the test")
    launcher: LauncherSettings = setting("how the members of a sweep share this machine")
    dataset: DatasetSettings = setting("where the images lie and in which shape")
    teacher: Target = setting("frozen feature extractor")
    student: Target = setting("network that learns from the teacher")
    segmentation: Target = setting("network of stage 2")
    pairs: Target = setting("synthetic anomalies")
    augmentation: Target | None = setting("changes of the normal images before their twins are made")
    trainer: Target = setting("devices and precision; any argument of lightning.Trainer")
    callbacks: Mapping[str, Target | None] = setting("callbacks of both stages, by any name; null removes one")
    logger: Mapping[str, Target | None] = setting("loggers, by any name; null removes one")
    overrides: tuple[str, ...] = setting("the command line", is_internal=True)


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(Settings):
    """Settings of ``dmdd evaluate``."""

    COMMAND = "evaluate"

    model: str = setting("model folder of a run", missing="model=FOLDER, the model folder of a run", is_path=True)
    category: str | None = setting(
        "folder name; several as one test set: a,b or '*' or all; one by one: -m, with all_each too"
    )
    anomaly_map: MapName | None = setting(
        "another map than the model's own; its thresholds are left out then", is_open=True
    )
    score_map: MapName | None = setting("the same for the image score", is_open=True)
    data_dir: str = setting("folder that holds mvtec_ad/, mpdd/ and so on; $DMDD_DATA if set", is_path=True)
    name: str = setting("name of the evaluation")
    run_dir: str = setting("folder of scores, pictures and result", is_path=True)
    accelerator: str = setting("auto, cpu or gpu")
    precision: str = setting("precision of the networks")
    batch_size: int = setting("images scored at once", least=1)
    num_workers: int = setting("processes that decode images", least=0)
    roi: str | None = setting(
        "region of interest: mask, folder or JSON (docs/regions.md); null: the model's own", is_path=True
    )
    ignore: str | None = setting("what does not count within the region, likewise", is_path=True)
    native_masks: bool = setting("compare at the masks' own size instead of the input size")
    exact: bool | None = setting("keep every pixel score; null does where the test set is small (17 million pixels)")
    resamples: int = setting("test sets drawn from the images for 95 % intervals; 0 for none", least=0)
    study_maps: bool = setting("also measure every other map")
    pixel_metrics: Mapping[str, Target | None] | None = setting(
        "more metrics of map and mask, by any name (docs/extending.md)", default=None
    )
    image_metrics: Mapping[str, Target | None] | None = setting("more metrics of score and label", default=None)
    pictures: int = setting("pictures in images/, at most", least=0)
    dataset: DatasetSettings = setting("where the images lie and in which shape")
    callbacks: Mapping[str, Target | None] = setting("callbacks of the test, by any name; null removes one")
    overrides: tuple[str, ...] = setting("the command line", is_internal=True)


@dataclass(frozen=True, kw_only=True)
class PredictSettings(Settings):
    """Settings of ``dmdd predict``."""

    COMMAND = "predict"

    model: str = setting("model folder of a run", missing="model=..., --help shows how", is_path=True)
    input: str | tuple[str, ...] = setting(
        "a folder, a file, a pattern such as 'parts/*.png', or a list: 'input=[a,b]'",
        missing="input=..., --help shows how",
        is_path=True,
    )
    output: str = setting(
        "a folder of its own for scores.csv, scores.jsonl and pictures",
        missing="output=..., --help shows how",
        is_path=True,
    )
    recursive: bool = setting("also look into the subfolders of a folder")
    overwrite: bool = setting("remove what an earlier prediction wrote into the folder, and begin anew")
    watch: bool = setting("follow the folder: score new images as they come, until SIGINT or SIGTERM")
    poll_s: float = setting("time between two looks at the folder", unit="seconds", above=0)
    settle_s: float = setting("a file that cannot be decoded is bad when unchanged this long", unit="seconds", above=0)
    maps: Literal["none", "png16", "npy"] | None = setting("png16 (0 to 65535 is 0 to 1) or npy, at the image's size")
    masks: bool = setting("write masks of 0 and 255: where the map reaches pixel_threshold, less what blur adds")
    overlays: bool = setting("write the image under its map's colours, the mask outlined")
    category: str | None = setting("of a model for several: decide by this one's thresholds; null: by one for all")
    image_threshold: float | None = setting("a score from here on is anomalous; null: the model's own", least=0, most=1)
    pixel_threshold: float | None = setting("a pixel from here on is in the mask; null: the model's", least=0, most=1)
    tile: bool | None = setting("tiles at the image's own resolution instead of resized; null: as in training")
    tile_px: int | tuple[int, ...] | None = setting("side of a tile, or [height,width]; null: as in training")
    overlap: float | None = setting(
        "share of a tile that the next one covers too; null: as in training", least=0, most=0.9
    )
    roi: str | None = setting(
        "region of interest: mask, folder or JSON (docs/regions.md); null: the model's own", is_path=True
    )
    ignore: str | None = setting("what does not count within the region, likewise", is_path=True)
    align: str | None = setting("image file that each image is aligned to first (docs/align.md)", is_path=True)
    device: str | None = setting("cpu, cuda, cuda:1; null: a GPU if there is one")
    precision: str = setting("float32, bfloat16 or float16 (GPU only)")
    batch_size: int = setting("images that go through the network at once", least=1)
    workers: int | None = setting("threads that decode, and that write; null: as many as cores, up to 8", least=1)


@dataclass(frozen=True, kw_only=True)
class CalibrateSettings(Settings):
    """Settings of ``dmdd calibrate``."""

    COMMAND = "calibrate"

    model: str = setting(
        "model folder of a run, or an exported file (.onnx, .xml, .pt2), whose JSON is changed",
        missing="model=FOLDER, the model folder of a run, or an exported file",
        is_path=True,
    )
    good: str = setting(
        "photographs of good parts that the model was not trained on; subfolders count",
        missing="good=FOLDER, photographs of good parts",
        is_path=True,
    )
    bad: str | None = setting("photographs of bad parts; they set nothing, they are counted", is_path=True)
    category: str | None = setting("of a model for several: set this one's thresholds; null: those for all")
    rate: float = setting("wanted share of good images that are rejected", above=0, below=1)
    smallest_area_px: int | None = setting(
        "smaller regions of a photograph are left out of masks; null: as before", unit="pixels", least=0
    )
    dry_run: bool = setting("show what would change, and write nothing")
    device: str | None = setting("cpu, cuda, cuda:1; null: a GPU if there is one")
    batch_size: int = setting("images that go through the network at once", least=1)


@dataclass(frozen=True, kw_only=True)
class ExportSettings(Settings):
    """Settings of ``dmdd export``."""

    COMMAND = "export"

    model: str = setting("model folder of a run", missing="model=FOLDER, the model folder of a run", is_path=True)
    format: Literal["onnx", "openvino", "torch"] = setting("what to write", is_open=True)
    precision: Literal["float32", "float16", "int8"] = setting(
        "float16 halves the weights; int8 needs category= for normal images"
    )
    output: str | None = setting("the file; null: <run>/export/detector.onnx, .xml or .pt2", is_path=True)
    tile: bool | None = setting("tiles at the image's own resolution instead of resized; null: as in training")
    tile_px: int | tuple[int, ...] | None = setting("side of a tile, or [height,width]; null: as in training")
    overlap: float | None = setting(
        "share of a tile that the next one covers too; null: as in training", least=0, most=0.9
    )
    fixed_size: tuple[int, int] | None = setting(
        "[height,width]: for one image of this size, with static shapes; null: any size", unit="pixels", least=16
    )
    layout: Literal["nhwc", "nchw"] = setting("of a fixed size: nhwc is uint8 in 0 to 255, nchw float32 in 0 to 1")
    roi: str | None = setting(
        "region of interest: mask, folder or JSON (docs/regions.md); null: the model's own", is_path=True
    )
    ignore: str | None = setting("what does not count within the region, likewise", is_path=True)
    category: str | None = setting("compare on the test set of this category of dataset=")
    data_dir: str = setting("folder that holds mvtec_ad/, mpdd/ and so on; $DMDD_DATA if set", is_path=True)
    images: str | None = setting("compare on the images of this folder; synthetic ones if neither", is_path=True)
    calibration_images: int = setting("normal training images for int8", least=1)
    tolerance: float = setting("float32 fails where map or score differ by more", least=0)
    dataset: DatasetSettings = setting("where the images lie and in which shape")


@dataclass(frozen=True, kw_only=True)
class LimitSettings:
    """``limits.``: beyond them a request is refused."""

    upload_mb: int = setting("largest image file", unit="MB", least=1)
    queue: int = setting("requests that may wait or run at once; 503 beyond it", least=1)
    timeout_s: float = setting("time from a request's first byte to its answer", unit="seconds", above=0)
    requests_per_minute: int = setting("images of one client (IP address); 0 for no limit", least=0)
    page_images: int = setting("images the page shows at once", least=1)
    live_images: int = setting("newest results the page lists, pictures in memory; 0 for none", least=0)


@dataclass(frozen=True, kw_only=True)
class ServeSettings(Settings):
    """Settings of ``dmdd serve``."""

    COMMAND = "serve"

    model: str = setting(
        "model folder of a run, or an exported .onnx or .xml file",
        missing="model=FOLDER, the model folder of a run",
        is_path=True,
    )
    title: str | None = setting("the model's name on the page and in answers; null: from the run")
    host: str = setting("an address of this machine; 0.0.0.0 for all: there is no authentication")
    port: int = setting("0 picks a free one", least=0, most=65535)
    tile: bool | None = setting("tiles at the image's own resolution instead of resized; null: as in training")
    tile_px: int | tuple[int, ...] | None = setting("side of a tile, or [height,width]; null: as in training")
    overlap: float | None = setting(
        "share of a tile that the next one covers too; null: as in training", least=0, most=0.9
    )
    roi: str | None = setting(
        "region of interest: mask, folder or JSON (docs/regions.md); null: the model's own", is_path=True
    )
    ignore: str | None = setting("what does not count within the region, likewise", is_path=True)
    device: str | None = setting("cpu, cuda, cuda:1; null: a GPU if there is one")
    precision: str = setting("float32, bfloat16 or float16 (GPU only)")
    follow: str | None = setting("output folder of dmdd predict, whose newest results the page lists", is_path=True)
    calibrate: bool | None = setting("the page may set the model's thresholds; null: if only this machine reaches it")
    limits: LimitSettings = setting("beyond them a request is refused")


@dataclass(frozen=True, kw_only=True)
class BenchSettings(Settings):
    """Settings of ``dmdd bench``."""

    COMMAND = "bench"

    model: str = setting("model folder of a run", missing="model=FOLDER, the model folder of a run", is_path=True)
    engines: tuple[str, ...] = setting("also torch_compiled, which needs a C++ compiler and minutes")
    image_size: tuple[int, int] = setting("height and width of the decoded image", unit="pixels", least=1)
    runs: int = setting("timed runs for each latency", least=1)
    batches: tuple[int, ...] = setting("batch sizes for the throughput", least=1)
    threads: int | None = setting("threads of one inference; null: all cores", least=1)
    seed: int = setting("seed of the noise image", least=0)
    output: str = setting("file of the figures", is_path=True)
