"""docs/heat-maps.png is made by a command that works, and is small."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers import site_models

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_picture_shows_examples_with_their_heat_maps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDSTRATA_HOME", str(tmp_path / "home"))
    path = DOCS / "generate_heat_maps.py"
    spec = importlib.util.spec_from_file_location("generate_heat_maps", path)
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    model = site_models.SITES["drawn faces"](tmp_path).store.deployed
    generator.main([str(model), str(model), "--output", str(tmp_path / "maps.png")])
    drawn = Image.open(tmp_path / "maps.png")
    with Image.open(DOCS / "heat-maps.png") as kept:
        assert kept.size == drawn.size
    colors = drawn.convert("RGB").crop((4, 104, 100, 200)).getcolors(100_000)
    assert colors is not None
    assert any(r > g == b for _, (r, g, b) in colors)  # red over gray
    assert (DOCS / "heat-maps.png").stat().st_size < 100_000
