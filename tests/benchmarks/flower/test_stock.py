"""What the stock app wrote counts only where every site took part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.flower.stock import copy_app, stock_summary


def test_a_run_that_lost_a_site_is_not_counted(tmp_path: Path) -> None:
    rounds = [{"worked": 1.0, "ended": 2.0, "replies": n} for n in (3, 2)]
    with pytest.raises(SystemExit, match="left no results:\nit broke"):
        stock_summary(tmp_path, 3, lambda: "it broke")
    path = tmp_path / "rounds.json"
    path.write_text(json.dumps({"rounds": rounds, "model": 7}))
    with pytest.raises(SystemExit, match=r"sites missed the rounds \[2\]"):
        stock_summary(tmp_path, 3)
    path.write_text(json.dumps({"rounds": rounds[:1], "model": 7}))
    assert stock_summary(tmp_path, 3) == (rounds[:1], 7)


def test_the_app_is_copied_once(tmp_path: Path) -> None:
    app = copy_app(tmp_path)
    assert (app / "stock" / "server_app.py").exists()
    (app / "built.fab").touch()
    assert copy_app(tmp_path) == app
    assert (app / "built.fab").exists()
