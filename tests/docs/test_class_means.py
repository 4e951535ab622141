"""docs/class-means.png is made by a command that works, and is small."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from tests.helpers import site_models

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = DOCS / "generate_class_means.py"
    spec = importlib.util.spec_from_file_location("generate_class_means", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "generate_class_means", made)  # dataclasses look there
    spec.loader.exec_module(made)
    return made


def test_the_picture_shows_both_runs_of_two_sites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generator: ModuleType
) -> None:
    monkeypatch.setenv("FEDSTRATA_HOME", str(tmp_path / "home"))
    model = site_models.SITES["drawn faces"](tmp_path).store.deployed
    asked = []

    def find(named: str, folders: object) -> Path:
        asked.append(named)
        return Path(model)

    monkeypatch.setattr(generator, "find_model", find)
    generator.main(["alone", "together", "a", "b", "--output", str(tmp_path / "made.png")])
    assert asked == ["alone:a:last", "alone:b:last", "together:a:last", "together:b:last"]
    with Image.open(DOCS / "class-means.png") as kept, Image.open(tmp_path / "made.png") as drawn:
        assert kept.size == drawn.size
    assert (DOCS / "class-means.png").stat().st_size < 100_000


def test_the_plane_is_that_of_the_largest_variance(generator: ModuleType) -> None:
    rng = np.random.default_rng(1)
    points = 7 + rng.normal(size=(200, 5)) * [0.01, 3.0, 0.01, 1.0, 0.01]
    center, plane = generator.plane_of(points)
    assert center == pytest.approx(points.mean(axis=0))
    assert np.abs(plane[1, 0]) > 0.99
    assert np.abs(plane[3, 1]) > 0.99


def test_a_run_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], generator: ModuleType
) -> None:
    with pytest.raises(SystemExit, match="no run of this name"):
        generator.main(["nothing", "nothing", "a", "b", "--runs", str(tmp_path)])
