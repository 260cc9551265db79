"""Export a trained detector: ``python -m dmdd.export model=runs/.../model format=onnx``."""

import sys
from typing import Any

from dmdd.config.compose import run_command


def main(arguments: list[str] | None = None) -> int:
    """Run the entry point.

    Args:
        arguments: ``NAME=VALUE``; ``sys.argv[1:]`` if None.

    Returns:
        Exit code: 0; 1 where the exported file differs too much; 2 after bad input.
    """
    return run_command(export, "export", arguments)


def export(config: Any) -> int:
    """Export as configured and compare the result with the detector.

    Args:
        config: ``conf/export.yaml`` composed.

    Returns:
        Exit code.

    Raises:
        UserError: The model, the data or a setting cannot be used.
    """
    from dmdd.config.compose import print_error
    from dmdd.core.errors import UserError
    from dmdd.core.failures import report_write_errors
    from dmdd.deploy.export.comparison import print_comparison
    from dmdd.deploy.export.job import Job
    from dmdd.deploy.export.sources import choose_source
    from dmdd.experiment.category import read_category
    from dmdd.models.detector import Detector

    if config.model is None:
        raise UserError("model is missing: give model=FOLDER, the model folder of a run")
    job = Job.from_config(config)
    category = None if config.category is None else read_category(config)
    source = choose_source(category, config.images)
    detector = Detector.load(config.model)
    with report_write_errors(job.file.parent, then="", own=False):
        report = job.run(detector, source)
    print_comparison(report)
    if report["failed"]:
        print_error(UserError(f"{report['failed']}; {job.file} was not written, {job.report_file} tells more"))
        return 1
    for file in job.files:
        print(f"{file} ({report['megabytes']} MB)" if file == job.file else file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
