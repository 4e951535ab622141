"""Files of real data sets, for the tests that read them where they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"


def shared_file(name: str) -> Path:
    """Return a file of real data: of ``$FEDSTRATA_DATA``, or kept beside the repository; or skip."""
    path = Path(os.environ.get("FEDSTRATA_DATA") or BESIDE) / name
    if not path.exists():
        pytest.skip(f"there is no {name} in the folder that FEDSTRATA_DATA names")
    return path
