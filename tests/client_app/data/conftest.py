"""What the tests of the data sets share: the configuration's own options, site infos, real data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from client_app.data.site_info import SiteInfo
from tests.helpers.data_files import fill
from tests.helpers.real_data import shared_file
from tests.helpers.text_models import WORDS, tiny_bert

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


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Return a folder with 20 pictures of cats and 30 of dogs."""
    root = tmp_path / "pictures"
    fill(root / "cat", 0, 20)
    fill(root / "dog", 20, 30)
    return root


@pytest.fixture
def domains(tmp_path: Path) -> Path:
    """Return folders as those of PACS: three domains with class folders."""
    root = tmp_path / "pacs"
    for number, domain in enumerate(("sketch", "photo", "cartoon")):
        fill(root / domain / "dog", 100 * number, 10)
        fill(root / domain / "house", 100 * number + 50, 20)
    return root


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of models with a ``tiny-bert`` that knows `WORDS`."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("models")
    tiny_bert(folder, WORDS)
    return folder
