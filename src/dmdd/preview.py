"""A contact sheet of pairs: ``python -m dmdd.data preview category=screw pairs=mix output=pairs.png``."""

import sys
from pathlib import Path
from typing import Any

from dmdd.config import build, compose_config, print_error
from dmdd.errors import UserError, check_positive

OWN_SETTINGS = {"output": "pairs.png", "count": "24", "columns": "6"}


def main(arguments: list[str] | None = None) -> int:
    """Write a contact sheet of the pairs that ``dmdd.train`` would train on with the same settings.

    Args:
        arguments: ``output=FILE.png``, ``count=N``, ``columns=N``, and any override of ``conf/train.yaml``.

    Returns:
        Exit code: 0, or 2 after bad input.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if any(argument in ("-h", "--help") for argument in given):
        print("usage: python -m dmdd.data preview [output=FILE.png] [count=N] [columns=N] [SETTING=VALUE ...]")
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
        for name in ("count", "columns"):
            check_positive(name, int(own[name]) if own[name].isdigit() else own[name])
            numbers[name] = int(own[name])
        file = Path(own["output"])
        if file.suffix.lower() != ".png":
            raise UserError(f"output={file}: give a file that ends in .png")
        write_sheet(compose_config("train", overrides), file, **numbers)
    except UserError as error:
        print_error(error)
        return 2
    print(f"pairs written to {file}: normal image, anomalous twin, mask")
    return 0


def write_sheet(config: Any, file: Path, *, count: int, columns: int) -> None:
    """Draw the first pairs of a training as a contact sheet.

    Args:
        config: ``conf/train.yaml`` composed and resolved.
        file: PNG to write.
        count: Number of pairs.
        columns: Pairs in a row.
    """
    import cv2
    import numpy as np

    from dmdd.data.datamodule import PairDataModule
    from dmdd.data.sampling import PairSampler
    from dmdd.train import read_category

    data = PairDataModule(
        category=read_category(config),
        synthesis=build(config.pairs),
        image_size=config.image_size,
        batch_size=config.batch_size,
        seed=config.seed,
        augmentation=build(config.augmentation),
        **config.data,
    )
    data.setup("fit")
    steps, size = -(-count // config.batch_size), config.batch_size
    sampler = PairSampler(images=data.training_images, batch_size=size, first_step=0, steps=steps, seed=config.seed)
    tiles = []
    for places in sampler:
        pairs = data.make_pairs(data.training_batch(places))
        for normal, anomalous, mask in zip(pairs.normal, pairs.anomalous, pairs.mask, strict=True):
            tile = np.concatenate([t.permute(1, 2, 0).numpy() for t in (normal, anomalous, mask.expand(3, -1, -1))])
            tiles.append((tile * 255).round().astype(np.uint8))
    tiles = tiles[:count]
    tiles += [np.zeros_like(tiles[0])] * (-count % columns)
    rows = [np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)]
    sheet = cv2.cvtColor(np.concatenate(rows), cv2.COLOR_RGB2BGR)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(cv2.imencode(".png", sheet)[1].tobytes())


if __name__ == "__main__":
    sys.exit(main())
