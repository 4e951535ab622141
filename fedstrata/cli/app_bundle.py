"""The app bundle of what is installed: from a checkout, or from the packages of a wheel."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import server_app
from fedstrata.support.errors import UserError

ROOT = Path(server_app.__file__).resolve().parents[1]
BESIDE = ROOT / "fedstrata" / "app"  # in a wheel: what stands in the root of a checkout
TOP = ("pyproject.toml", "README.md", "LICENSE")


def app_root(root: Path = ROOT) -> Path | None:
    """Return the checkout in which the installed app lies; None where a wheel was installed."""
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text())
    except (OSError, ValueError):
        return None
    return root if project.get("project", {}).get("name") == "fedstrata" else None


def bundle_files(root: Path = ROOT, beside: Path = BESIDE) -> dict[str, bytes | Path]:
    """Return all files that the bundle may have, by their path in it.

    Raises
    ------
    UserError
        What is installed has no description of the app.
    """
    top = app_root(root) or beside
    files: dict[str, bytes | Path] = {name: top / name for name in TOP}
    for pattern in _app_section(top)["fab-include"]:
        if pattern[1:] not in TOP:
            found = root.glob(pattern[1:])
            files |= {path.relative_to(root).as_posix(): path for path in found}
    return files


def default_config(root: Path = ROOT, beside: Path = BESIDE) -> dict[str, str]:
    """Return the run config where nothing is given, such as the experiment that a run plays."""
    return dict(_app_section(app_root(root) or beside)["config"])


def build_bundle(root: Path = ROOT, beside: Path = BESIDE) -> bytes:
    """Return the app bundle (FAB) of what is installed."""
    from flwr.cli.build import build_fab_from_files

    return build_fab_from_files(bundle_files(root, beside))[0]


def _app_section(top: Path) -> dict[str, Any]:
    """Return what the description in ``top`` says of the app, or raise UserError."""
    path = top / "pyproject.toml"
    try:
        section: dict[str, Any] = tomllib.loads(path.read_text())["tool"]["flwr"]["app"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} does not describe the app ({error}); install fedstrata again with "
            "pip install --force-reinstall"
        ) from None
    return section
