"""A contact sheet of pairs: ``python -m dmdd.data preview category=screw pairs=mix output=pairs.png``."""

import sys
from pathlib import Path
from typing import Any

from dmdd.config.overrides import split_arguments
from dmdd.config.schema import TrainSettings
from dmdd.config.targets import build
from dmdd.core.errors import UserError, check_positive, print_error

OWN_SETTINGS = {"output": "pairs.png", "count": "24", "columns": "6", "step": "", "stage": "distillation"}
NUMBERS = ("count", "columns", "step")
STAGES = ("distillation", "segmentation")


def main(arguments: list[str] | None = None) -> int:
    """Write a contact sheet of the pairs that ``dmdd.train`` would train on with the same settings.

    Args:
        arguments: ``output=FILE.png``, ``count=N``, ``columns=N``, any override of ``conf/train.yaml``; with ``step=N``
            and ``stage=NAME`` the pairs of that step, counted from 1, instead of the first ones, and their files on
            stdout.

    Returns:
        Exit code: 0, or 2 after bad input.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if any(argument in ("-h", "--help") for argument in given):
        print(
            "usage: python -m dmdd.data preview [output=FILE.png] [count=N] [columns=N] "
            "[stage=NAME step=N] [SETTING=VALUE ...]"
        )
        return 0
    own, overrides = dict(OWN_SETTINGS), []
    for argument in given:
        name, _, value = argument.removeprefix("--").partition("=")
        if name in own:
            own[name] = value
        else:
            overrides.append(argument)
    try:
        numbers = {}
        for name in NUMBERS:
            if name == "step" and not own[name]:
                continue
            check_positive(name, int(own[name]) if own[name].isdecimal() else own[name])
            numbers[name] = int(own[name])
        if own["stage"] not in STAGES:
            raise UserError(f"stage={own['stage']}: choose one of {', '.join(STAGES)}")
        file = Path(own["output"])
        if file.suffix.lower() != ".png":
            raise UserError(f"output={file}: give a file that ends in .png")
        settings = TrainSettings.compose(*split_arguments(overrides)[1])
        files, parts = write_sheet(settings, file, stage=own["stage"], **numbers)
    except UserError as error:
        print_error(error)
        return 2
    for place, image in enumerate(files if "step" in numbers else []):
        print(f"pair {place}: {image}")
    print(f"pairs written to {file}: normal image, anomalous twin, mask (white) on the part (grey)")
    print(parts)
    return 0


def write_sheet(
    settings: TrainSettings,
    file: Path,
    *,
    count: int,
    columns: int,
    step: int | None = None,
    stage: str = "distillation",
) -> tuple[list[Path], str]:
    """Draw pairs of a training as a contact sheet.

    Args:
        settings: Of the training.
        file: PNG to write.
        count: Number of pairs, the first of the training; not used with ``step``.
        columns: Pairs in a row.
        step: Draw the whole batch of this step of the stage, counted from 1.
        stage: ``distillation`` or ``segmentation``, whose steps follow those of the first.

    Returns:
        The normal image of each pair, as a file; a sentence on the parts found.

    Raises:
        UserError: The stage has no such step, or something given cannot be used.
    """
    from dmdd.core.drawing import contact_sheet, encode
    from dmdd.core.files import write_atomically
    from dmdd.data.datamodule import PairDataModule
    from dmdd.experiment.category import read_category
    from dmdd.experiment.pictures import draw_pairs

    data = PairDataModule(
        category=read_category(settings.dataset, settings.category),
        synthesis=build(settings.pairs),
        image_size=settings.image_size,
        batch_size=settings.batch_size,
        seed=settings.seed,
        augmentation=build(settings.augmentation),
        **vars(settings.data),
    )
    data.setup("fit")
    if step is None:
        steps = range(-(-count // settings.batch_size))
    else:
        first, count = _position(settings, stage, step), settings.batch_size
        steps = range(first, first + 1)
    files = [data.training_file(index) for step in steps for _, _, index in data.places(step)]
    pairs = draw_pairs(data, steps)[:count]
    write_atomically(file, encode(contact_sheet(pairs, columns=columns)))
    return files[:count], _told(data)


def _told(data: Any) -> str:
    """Say where anomalies are made."""
    found, share = data.parts_found
    if not data.synthesis.foreground:
        return "anomalies are made all over the images, as these pairs say"
    if not found:
        return "no part told from the ground: anomalies are made all over the images"
    return (
        f"a part found on {found} of {data.training_images} training images, "
        f"{100 * share:.0f} % of the image (median); anomalies are made on it, everywhere with pairs.foreground=false"
    )


def _position(settings: TrainSettings, stage: str, step: int) -> int:
    """Count a step of a stage from 0 over both stages."""
    steps = settings.distillation.steps if stage == "distillation" else settings.segmentation_training.steps
    if step > steps:
        raise UserError(f"step={step}: {stage} has {steps} steps")
    return step - 1 + (settings.distillation.steps if stage == "segmentation" else 0)


if __name__ == "__main__":
    sys.exit(main())
