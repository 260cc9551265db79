"""Set thresholds anew from photographs of the line: ``python -m dmdd.calibrate model=runs/.../model good=FOLDER``."""

import sys
from pathlib import Path
from typing import Any

from dmdd.config.compose import quote_paths, run_command

PATHS = ("model", "good", "bad")


def main(arguments: list[str] | None = None) -> int:
    """Run the entry point.

    Args:
        arguments: ``NAME=VALUE``; ``sys.argv[1:]`` if None.

    Returns:
        Exit code.
    """
    return run_command(calibrate, "calibrate", quote_paths(sys.argv[1:] if arguments is None else arguments, PATHS))


def calibrate(config: Any) -> None:
    """Calibrate as configured, show before and after, and write.

    Args:
        config: ``conf/calibrate.yaml`` composed.

    Raises:
        UserError: The model, the photographs or a setting cannot be used, or the rate cannot be promised.
    """
    from dmdd.core.errors import UserError, check_positive
    from dmdd.core.failures import report_write_errors
    from dmdd.deploy.calibrate import job
    from dmdd.deploy.calibrate.subject import open_subject

    for name in ("model", "good"):
        if config[name] is None:
            raise UserError(f"{name} is missing: give {name}=..., --help shows how")
    if isinstance(config.rate, bool) or not isinstance(config.rate, int | float) or not 0 < config.rate < 1:
        raise UserError(f"rate={config.rate}: give a number between 0 and 1, as in rate=0.01")
    check_positive("batch_size", config.batch_size)
    area = config.smallest_area_px
    if area is not None and (isinstance(area, bool) or not isinstance(area, int) or area < 0):
        raise UserError(f"smallest_area_px={area}: give a whole number of pixels from 0")
    subject = open_subject(Path(str(config.model)).expanduser(), device=config.device, batch_size=config.batch_size)
    good = job.look_at(subject, "good", config.good)
    bad = None if config.bad is None else job.look_at(subject, "bad", config.bad)
    new = job.calibrate(subject, good, bad, rate=float(config.rate))
    if area is not None:
        new["smallest_area_px"] = area
    print("\n".join(job.describe(subject.calibration, new, good, bad)))
    if config.dry_run:
        print("nothing was written (dry_run=true)")
        return
    with report_write_errors(subject.file.parent, then="", own=False):
        subject.keep(new)
    print(f"written   {subject.file}; the former calibration is kept in it")


if __name__ == "__main__":
    sys.exit(main())
