"""Make one table and one page of all results, as in python -m dmdd.report runs --output runs/report."""

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dmdd.core.errors import UserError, print_error
from dmdd.core.files import write_atomically

if TYPE_CHECKING:
    from dmdd.report.collect import Found
    from dmdd.report.rows import ResultTable

FORMATS = ("terminal", "markdown", "csv", "latex", "html")


def main(arguments: list[str] | None = None) -> int:
    """Run the entry point.

    Args:
        arguments: Command line after the command; ``sys.argv[1:]`` if None. ``output=DIR`` is read as
            ``--output=DIR``, so that one spelling works for every command of the package.

    Returns:
        Exit code: 0; 2 after bad input; 3 if the report is whole but for files that could not be used; 130 after
        Ctrl-C.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args([_as_flag(argument) for argument in given])
    try:
        return _report(options)
    except UserError as error:
        print_error(error)
        return 2
    except KeyboardInterrupt:
        print_error(UserError("interrupted"))
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dmdd.report", description=__doc__)
    parser.add_argument("paths", nargs="+", metavar="FOLDER", help="folders that hold runs, at any depth, or patterns")
    parser.add_argument("--output", type=Path, default=Path("runs/report"), help="folder to write to (runs/report)")
    parser.add_argument("--format", type=_formats, default=FORMATS, help=f"any of {','.join(FORMATS)} (default: all)")
    parser.add_argument("--metrics", type=_names, default=(), help="columns, by name in result.json, or all")
    parser.add_argument("--maps", action="store_true", help="also a row for every map")
    parser.add_argument("--against", metavar="NAME", help="also the differences of all configurations to this one")
    parser.add_argument("--pictures", type=_count, default=12, help="on the page, of each run at most (12)")
    parser.add_argument("--pictures-mb", type=_count, default=12, help="on the page, of all runs together (12 MB)")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _formats(text: str) -> tuple[str, ...]:
    names = _names(text)
    if not names or set(names) - set(FORMATS):
        raise argparse.ArgumentTypeError(f"'{text}'; choose from {','.join(FORMATS)}")
    return names


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number from 0")
    return int(text)


def _as_flag(argument: str) -> str:
    match = re.match(r"(output|format|metrics|against|pictures|pictures_mb)=", argument)
    return f"--{match[1].replace('_', '-')}={argument[match.end() :]}" if match else argument


# Imports are local: `--help` and a typing error answer at once.
def _report(options: argparse.Namespace) -> int:
    from rich.console import Console

    from dmdd.report.aggregate import build_table, choose_metrics
    from dmdd.report.checks import warnings_of
    from dmdd.report.collect import scan
    from dmdd.report.terminal import print_problems, print_report

    if options.output.exists() and not options.output.is_dir():
        raise UserError(f"--output: {options.output} is a file; give a folder")
    console = Console()
    found = scan(options.paths)
    if not found.runs:
        print_problems(console, found)
        raise UserError(f"no finished run below {', '.join(options.paths)}; a finished run has a result.json")
    table = build_table(
        found.runs, metrics=choose_metrics(found.runs, options.metrics), maps=options.maps, against=options.against
    )
    warnings = warnings_of(found.runs, table)
    texts = _texts(options, table, found, warnings)
    for name, text in texts.items():
        _write(options.output / name, text)
    # Printed after: whoever cuts the output short, as `| head` does, has the files all the same.
    if "terminal" in options.format:
        print_report(console, table, found, warnings)
    else:
        print_problems(console, found)
    for name, text in texts.items():
        console.print(f"{options.output / name}  {_size(text)}", soft_wrap=True, markup=False, highlight=False)
    return 3 if found.unreadable else 0


def _texts(options: argparse.Namespace, table: "ResultTable", found: "Found", warnings: list[str]) -> dict[str, str]:
    """Lay out every file before any is written. The page comes first: it reads what lies beside the results."""
    from dmdd.report.aggregate import build_table, choose_metrics
    from dmdd.report.page import build_page
    from dmdd.report.tabular import runs_csv, table_csv
    from dmdd.report.text import latex, markdown

    texts: dict[str, str] = {}
    if "html" in options.format:
        metrics = choose_metrics(found.runs, ("all",))
        whole = build_table(found.runs, metrics=metrics, maps=options.maps, against=options.against)
        texts["report.html"] = build_page(
            whole,
            found,
            warnings,
            shown=table.metrics,
            pictures_per_run=options.pictures,
            picture_bytes=options.pictures_mb * 1_000_000,
        )
    if "markdown" in options.format:
        texts["table.md"] = markdown(table, found, warnings)
    if "csv" in options.format:
        texts |= {"runs.csv": runs_csv(found.runs), "table.csv": table_csv(table)}
    if "latex" in options.format:
        texts["table.tex"] = latex(table)
    return texts


def _write(file: Path, text: str) -> None:
    try:
        write_atomically(file, text.encode("utf-8", "replace"))
    except OSError as error:
        raise UserError(f"--output: cannot write {file}: {error.strerror}") from None


def _size(text: str) -> str:
    size = len(text.encode(errors="replace"))
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


if __name__ == "__main__":
    sys.exit(main())
