"""A folder is walked once, and whatever is not used is counted with its reason."""

from __future__ import annotations

import pytest

from client_app.data import walking
from client_app.data.findings import Findings
from client_app.data.walking import follow, leave_links, walk
from fedstrata.support.errors import UserError


def test_what_is_hidden_or_the_systems_own_is_counted(tmp_path) -> None:
    for name in (
        "a/x.png",
        "a/.y.png",
        "a/Thumbs.db",
        ".DS_Store",
        "__MACOSX/a/z",
        ".git/1",
        ".h/2",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = Findings()
    top = walk(tmp_path, tmp_path, found)
    assert dict(top.below()) == {"a/x.png": True}
    assert found.left_out == {"hidden": 2, "system file": 2, "system folder": 2}


def test_files_come_in_the_order_of_their_paths(tmp_path) -> None:
    for name in ("b/1", "a.x", "a/2", "a/10", "c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    top = walk(tmp_path, tmp_path, Findings())
    expected = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert [tmp_path / name for name, _ in top.below()] == expected
    assert top.count == 5


def test_links_to_folders_are_followed_only_where_that_is_asked_for(tmp_path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").touch()
    (tmp_path / "a" / "circle").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "link").symlink_to(tmp_path / "a" / "x")
    top = walk(tmp_path, tmp_path, Findings())
    assert dict(top.below()) == {"a/x": True, "a/link": False}
    found = Findings()
    follow(tmp_path, top, found)
    assert "b/x" in dict(top.below())
    follow(tmp_path, top.folders["a"], found)  # a circle
    leave_links(top, found)
    assert found.left_out == {"link": 2}


def test_a_link_out_of_the_root_and_endless_folders_are_refused(tmp_path, monkeypatch) -> None:
    (tmp_path / "data" / "1" / "2" / "3").mkdir(parents=True)
    (tmp_path / "data" / "out").symlink_to(tmp_path)
    top = walk(tmp_path / "data", tmp_path / "data", Findings())
    with pytest.raises(UserError, match="a link that leaves"):
        follow(tmp_path / "data", top, Findings())
    monkeypatch.setattr(walking, "DEEPEST", 2)
    with pytest.raises(UserError, match="deeper than 2"):
        walk(tmp_path / "data", tmp_path / "data", Findings())
