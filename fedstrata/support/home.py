"""The folder of this machine for everything that fedstrata keeps."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Return the folder for runs, caches and models: ``$FEDSTRATA_HOME``, or ``~/.fedstrata``."""
    return Path(os.environ.get("FEDSTRATA_HOME") or Path.home() / ".fedstrata")
