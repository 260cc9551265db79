"""Training images that a finished run found odd."""

import json
from pathlib import Path

from dmdd.core.errors import UserError


def list_odd_images(model: Path) -> list[str]:
    """Name the images given as good that were like none of the others, the strangest first.

    Args:
        model: The model folder of a run.

    Returns:
        Lines.

    Raises:
        UserError: There is no result beside the model, or it is older than this.
    """
    file = model / ".." / "result.json"
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
        found = [(str(entry["file"]), float(entry["strangeness"])) for entry in result["suspicious"]]
        head = f"{result['dataset']}/{result['category']}"
    except (OSError, ValueError, LookupError, TypeError):
        raise UserError(
            f"model={model}: no result.json beside it that names odd training images; train again to get one"
        ) from None
    if not found:
        return [f"{head}: no image given as good is unlike the others"]
    lines = [
        f"{head}: {len(found)} image{'' if len(found) == 1 else 's'} given as good to look at, the strangest first"
    ]
    return [*lines, *(f"  {value:6.1f}  {name}" for name, value in found)]
