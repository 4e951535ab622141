"""What the tests of the data sets share: the configuration's own options, site infos, real data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from client_app.data import SiteInfo
from tests.conftest import shared_file

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def options() -> Callable[..., dict[str, Any]]:
    """Return the options of conf/data/<name>.yaml, with some of them replaced."""

    def read(name: str, **changes: object) -> dict[str, Any]:
        loaded = yaml.safe_load((ROOT / "conf" / "data" / f"{name}.yaml").read_text())
        if loaded.get("folder") == "${model.folder}":
            loaded["folder"] = "tiny-bert"
        return {**loaded, **changes}

    return read


@pytest.fixture
def real() -> Callable[[str], Path]:
    """Return the path of a real data file, or skip where there is none."""
    return shared_file


@pytest.fixture
def info() -> Callable[..., SiteInfo]:
    """Return a site info made of what a test gives."""

    def make(
        index: int | None = None,
        count: int | None = None,
        root: Path | None = None,
        site: str | None = None,
        task: str | None = None,
    ) -> SiteInfo:
        return SiteInfo(site=site, task=task, index=index, count=count, root=root)

    return make
