"""The run config of the installed app: from a checkout, or from the packages of a wheel."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import server_app
from fedstrata.support.errors import UserError

ROOT = Path(server_app.__file__).resolve().parents[1]
BESIDE = ROOT / "fedstrata" / "app"  # in a wheel: what stands in the root of a checkout
FILE = "pyproject.toml"


def default_config(root: Path = ROOT, beside: Path = BESIDE) -> dict[str, str]:
    """Return the run config where nothing is given, such as the experiment that a run plays.

    Raises
    ------
    UserError
        What is installed has no description of the app.
    """
    path = (root if _is_checkout(root) else beside) / FILE
    try:
        config: dict[str, str] = _read(path)["tool"]["flwr"]["app"]["config"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} does not describe the app ({error}); install fedstrata again with "
            "pip install --force-reinstall"
        ) from None
    return config


def _is_checkout(root: Path) -> bool:
    """Return whether ``root`` is a checkout of the app, and not where a wheel was installed."""
    try:
        name: str = _read(root / FILE).get("project", {}).get("name", "")
    except (OSError, ValueError):
        return False
    return name == "fedstrata"


def _read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text())
