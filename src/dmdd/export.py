"""Export a trained detector: ``python -m dmdd.export model=runs/.../model format=onnx``."""

import sys

from dmdd.config.command import run
from dmdd.config.schema import ExportSettings


def main(arguments: list[str] | None = None) -> int:
    """Run the entry point.

    Args:
        arguments: ``NAME=VALUE``; ``sys.argv[1:]`` if None.

    Returns:
        Exit code: 0; 1 where the exported file differs too much; 2 after bad input.
    """
    return run(export, ExportSettings, arguments)


def export(settings: ExportSettings) -> int:
    """Export as configured and compare the result with the detector.

    Args:
        settings: Of the export.

    Returns:
        Exit code.

    Raises:
        UserError: The model, the data or a setting cannot be used.
    """
    from dmdd.core.errors import UserError, print_error
    from dmdd.deploy.export.comparison import print_comparison
    from dmdd.deploy.export.job import export_model

    (file, *others), report = export_model(settings)
    print_comparison(report)
    if report["failed"]:
        print_error(UserError(f"{report['failed']}; {file} was not written, {others[-1]} tells more"))
        return 1
    print(f"{file} ({report['megabytes']} MB)", *others, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
