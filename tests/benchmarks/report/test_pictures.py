"""Pictures of curves and of the data of sites are written and have something in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.report.pictures import draw_curves, draw_sites
from models.training.data import ArrayInputs, SiteData, Split


def site(name: str, rows: int, task: str = "t") -> SiteData:
    split = Split(ArrayInputs(np.zeros((rows, 2), np.float32)), np.arange(rows) % 3)
    return SiteData(name, task, tuple("abc"), (2,), split, split, split)


def assert_drawn(path: Path) -> None:
    with Image.open(path) as image:
        assert image.size[0] > 400
        assert len(image.convert("L").getcolors(256) or []) > 20


def test_curves_are_drawn(tmp_path: Path) -> None:
    lines = {"one": [[0.1, 0.5, 0.6], [0.2, 0.4, 0.7]], "two": [[0.3, 0.3, 0.3]]}
    draw_curves(tmp_path / "curves.png", "Title", lines, levels={"majority": 0.25})
    assert_drawn(tmp_path / "curves.png")


def test_sites_are_drawn_with_a_panel_for_each_task(tmp_path: Path) -> None:
    one, two = [site("site-0", 5)], [site("site-0", 5), site("site-1", 6, "u")]
    draw_sites(tmp_path / "one.png", "Title", one)
    draw_sites(tmp_path / "two.png", "Title", two)
    for name in ("one.png", "two.png"):
        assert_drawn(tmp_path / name)
    with Image.open(tmp_path / "one.png") as small, Image.open(tmp_path / "two.png") as large:
        assert large.size[0] > 1.5 * small.size[0]
