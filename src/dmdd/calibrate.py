"""Set thresholds anew from photographs of the line: ``python -m dmdd.calibrate model=runs/.../model good=FOLDER``."""

import sys
from pathlib import Path

from dmdd.config.command import run
from dmdd.config.schema import CalibrateSettings


def main(arguments: list[str] | None = None) -> int:
    """Run the entry point.

    Args:
        arguments: ``NAME=VALUE``; ``sys.argv[1:]`` if None.

    Returns:
        Exit code.
    """
    return run(calibrate, CalibrateSettings, arguments)


def calibrate(settings: CalibrateSettings) -> None:
    """Calibrate as configured, show before and after, and write.

    Args:
        settings: Of the calibration.

    Raises:
        UserError: The model or the photographs cannot be used, or the rate cannot be promised.
    """
    from dmdd.core.failures import report_write_errors
    from dmdd.deploy.calibrate import job
    from dmdd.deploy.calibrate.subject import open_subject

    subject = open_subject(
        Path(settings.model), device=settings.device, batch_size=settings.batch_size, category=settings.category
    )
    good = job.look_at(subject, "good", settings.good)
    bad = None if settings.bad is None else job.look_at(subject, "bad", settings.bad)
    source = "photographs of good parts given to dmdd.calibrate"
    new = job.calibrate(subject.calibration, good, bad, rate=settings.rate, source=source)
    if settings.smallest_area_px is not None:
        new["smallest_area_px"] = settings.smallest_area_px
    print("\n".join(job.describe(subject.calibration, new, good, bad)))
    if settings.dry_run:
        print("nothing was written (dry_run=true)")
        return
    with report_write_errors(subject.file.parent, then="", own=False):
        subject.keep(new)
    print(f"written   {subject.file}; the former calibration is kept in it")


if __name__ == "__main__":
    sys.exit(main())
