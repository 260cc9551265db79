"""Check a data folder, write the demo data set, fetch a published one, align parts, look at pairs."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from dmdd.core.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        argv: Arguments after the program's name; None takes the command line's. `output=DIR` is read as
            `--output=DIR`, so that one spelling works for every command of the package.

    Returns:
        Exit code: 0 done, 1 problems found, 2 input that cannot be used, 130 after Ctrl-C.

    Source: ours.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["preview"]:  # takes every setting of a training, so Hydra reads its arguments
        from dmdd.experiment.preview import main as preview

        return preview(arguments[1:])
    options = _parser().parse_args([_as_flag(argument) for argument in arguments])
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dmdd.data", description=__doc__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_check(commands)
    _add_demo(commands)
    _add_prepare(commands)
    _add_align(commands)
    commands.add_parser(
        "preview", help="write a contact sheet of pairs: preview category=screw pairs=mix", add_help=False
    )
    return parser


def _add_check(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    check = commands.add_parser("check", help="say what a data folder holds and which files are wrong")
    _add_data_dir(check)
    check.add_argument("--dataset", help="one data set; all that are there if left out")
    check.add_argument("--category", default="all", help="one category (default: all)")
    check.add_argument("--model", type=Path, help="model folder of a run: name the training images it found odd")
    check.set_defaults(run=_check)


def _add_demo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    demo = commands.add_parser("demo", help="write the demo data set, drawn on this machine")
    demo.add_argument("--output", type=Path, default=_default_data_dir(), help="data folder; gets a folder demo/")
    demo.add_argument("--seed", type=int, default=0, help="seed of everything drawn (default: 0)")
    demo.add_argument("--size", type=int, default=256, help="side of the images in px (default: 256)")
    demo.set_defaults(run=_demo)


def _add_prepare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    prepare = commands.add_parser("prepare", help="fetch a published data set, or unpack an archive of it")
    _add_data_dir(prepare)
    prepare.add_argument("--dataset", required=True, help="mvtec_ad, visa, btad, dtd, ...: see docs/datasets.md")
    prepare.add_argument("--archive", type=Path, help="archive that is already on this machine")
    prepare.add_argument("--url", help="address to use instead of the official one")
    prepare.add_argument("--sha256", help="checksum to expect instead of the known one; none for no check")
    prepare.set_defaults(run=_prepare)


def _add_align(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    align = commands.add_parser("align", help="write a category whose parts all lie as in a reference image")
    _add_data_dir(align)
    align.add_argument("--dataset", default="folder", help="its layout (default: folder)")
    align.add_argument("--category", required=True, help="the category")
    align.add_argument("--reference", type=Path, required=True, help="an image of a good part, in its place")
    align.add_argument("--output", type=Path, required=True, help="folder; gets a folder of the category's name")
    align.set_defaults(run=_align)


def _add_data_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=_default_data_dir(),
        help="folder that holds mvtec_ad/, mpdd/, ... (default: $DMDD_DATA or data)",
    )


def _default_data_dir() -> Path:
    return Path(os.environ.get("DMDD_DATA") or "data")


def _as_flag(argument: str) -> str:
    match = re.match(r"([a-z][a-z0-9_]*)=", argument)
    return f"--{match[1].replace('_', '-')}={argument[match.end() :]}" if match else argument


# Imports of the commands are local: `--help` and a typing error answer at once, without OpenCV and Pillow.
def _check(options: argparse.Namespace) -> int:
    from dmdd.data.check import check_data

    if options.model is not None:
        from dmdd.data.odd import list_odd_images

        print("\n".join(list_odd_images(options.model)).encode("utf-8", "backslashreplace").decode("utf-8"))
        return 0
    lines, problems = check_data(data_dir=options.data_dir, dataset=options.dataset, category=options.category)
    # Names of files may be no UTF-8.
    print("\n".join(lines).encode("utf-8", "backslashreplace").decode("utf-8"))
    return 1 if problems else 0


def _demo(options: argparse.Namespace) -> int:
    from dmdd.data.demo.generate import generate_demo

    target = generate_demo(options.output, seed=options.seed, size=options.size)
    print(f"demo data set written to {target}")
    return 0


def _prepare(options: argparse.Namespace) -> int:
    from dmdd.data.download.prepare import prepare_dataset

    target = prepare_dataset(
        dataset=options.dataset,
        data_dir=options.data_dir,
        archive=options.archive,
        url=options.url,
        sha256=options.sha256,
    )
    print(f"{options.dataset} is ready in {target}")
    return 0


def _align(options: argparse.Namespace) -> int:
    from dmdd.data.alignment import Alignment, write_aligned
    from dmdd.data.check import read_category

    category = read_category(data_dir=options.data_dir, dataset=options.dataset, category=options.category)
    left_out = write_aligned(category, Alignment(options.reference), options.output)
    for line in left_out:
        print(f"left out: {line}")
    count = len(category.train) + len(category.test)
    print(
        f"{count - len(left_out)} of {count} images aligned; train with dataset=mvtec_layout data_dir={options.output}"
    )
    return 1 if left_out else 0


if __name__ == "__main__":
    sys.exit(main())
