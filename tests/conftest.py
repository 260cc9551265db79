import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with mvtec_ad/screw, mpdd/metal_plate and dtd/images."""
    folder = Path(os.environ.get("DMDD_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set DMDD_DATA to the folder that holds mvtec_ad/ and mpdd/")
    return folder
