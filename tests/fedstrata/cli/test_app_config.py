"""The app's run config is that of its description, also from an installed wheel."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import pytest

from fedstrata.cli.app_config import BESIDE, FILE, ROOT, default_config
from fedstrata.support.errors import UserError

PROJECT = tomllib.loads((ROOT / FILE).read_text())


def test_the_default_config_is_the_apps() -> None:
    assert default_config() == PROJECT["tool"]["flwr"]["app"]["config"]


def test_an_installed_wheel_gives_the_same_config(tmp_path: Path) -> None:
    (where,) = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"].items()
    installed = tmp_path / where[1]
    installed.parent.mkdir(parents=True)
    shutil.copy(ROOT / where[0], installed)
    assert default_config(tmp_path, tmp_path / BESIDE.relative_to(ROOT)) == default_config()


def test_another_project_around_the_packages_is_no_checkout(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('[project]\nname = "other"\n')
    with pytest.raises(UserError, match=r"app/pyproject\.toml does not describe the app"):
        default_config(tmp_path, tmp_path / "app")
