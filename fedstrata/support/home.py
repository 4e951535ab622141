"""The folder of this machine for everything that fedstrata keeps."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def home(variables: Mapping[str, str] = os.environ) -> Path:
    """Return the folder for runs, caches and models: ``$FEDSTRATA_HOME``, or ``~/.fedstrata``.

    ``variables`` are the environment variables of the process that asks.
    """
    user_home = variables.get("HOME") or Path.home()
    return Path(variables.get("FEDSTRATA_HOME") or Path(user_home) / ".fedstrata")
