"""The app bundle is that of `flwr run .`, also from an installed wheel."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from fedstrata.cli.app_bundle import (
    BESIDE,
    ROOT,
    TOP,
    app_root,
    build_bundle,
    bundle_files,
    default_config,
)
from fedstrata.support.errors import UserError
from tests.helpers.source import PRODUCT, imports, modules


def test_it_is_what_flower_makes_of_the_checkout() -> None:
    assert build_bundle() == build_fab_from_disk(ROOT)


def test_an_installed_wheel_gives_the_same_bundle(tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    for package in wheel["packages"]:
        shutil.copytree(ROOT / package, tmp_path / package)
    beside = tmp_path / BESIDE.relative_to(ROOT)
    beside.mkdir()
    assert set(wheel["force-include"]) == set(TOP)
    for name, where in wheel["force-include"].items():
        shutil.copy(ROOT / name, tmp_path / where)
    assert app_root(tmp_path) is None
    assert build_bundle(tmp_path, beside) == build_bundle()


def test_what_the_apps_import_of_ours_is_in_the_bundle() -> None:
    files = bundle_files()
    names = {str(path).removesuffix(".py").removesuffix("/__init__") for path in files}
    names |= {path.rpartition("/")[0] for path in files}  # a folder without __init__.py
    bundled = {name.replace("/", ".") for name in names if name}
    every = [module for module in modules(*PRODUCT) if module.name in bundled]
    assert {"server_app.app", "client_app.app"} <= {module.name for module in every}
    existing = {module.name for module in modules(*PRODUCT)}
    missing = {
        f"{module.name} imports {name}"
        for module in every
        for name in imports(module) & existing - bundled
    }
    assert sorted(missing) == []


def test_the_default_config_is_the_apps() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert default_config() == project["tool"]["flwr"]["app"]["config"]


def test_another_project_around_the_packages_is_no_checkout(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "other"\n')
    assert app_root(tmp_path) is None
    with pytest.raises(UserError, match="does not describe the app"):
        bundle_files(tmp_path, tmp_path / "app")
