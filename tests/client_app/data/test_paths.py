"""A file's name from data or configuration leads to a file inside the data folder, or nowhere."""

from __future__ import annotations

import pytest

from client_app.data.paths import (
    describe_folder,
    file_inside,
    reject_escape,
    reject_names_in_a_file,
    require_folder,
)
from fedstrata.support.errors import UserError


def test_a_file_inside_is_found(tmp_path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.csv").touch()
    assert file_inside(tmp_path, "a/b.csv", "data.file") == tmp_path / "a" / "b.csv"


@pytest.mark.parametrize("name", ["", "../b.csv", "a/../../b.csv", "/etc/passwd", "a\0b"])
def test_a_name_that_leads_out_is_rejected(tmp_path, name) -> None:
    (tmp_path.parent / "b.csv").touch()
    with pytest.raises(UserError, match=r"^data\.file: .* must be a path inside"):
        file_inside(tmp_path, name, "data.file")


def test_a_link_may_lead_to_a_file_inside_but_not_outside(tmp_path) -> None:
    (tmp_path / "b.csv").touch()
    (tmp_path / "in.csv").symlink_to(tmp_path / "b.csv")
    (tmp_path / "out.csv").symlink_to("/etc/passwd")
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    assert file_inside(tmp_path, "in.csv", "data.file").read_bytes() == b""
    with pytest.raises(UserError, match="is a link that leaves"):
        file_inside(tmp_path, "out.csv", "data.file")
    with pytest.raises(UserError, match=r"loop\.csv"):
        file_inside(tmp_path, "loop.csv", "data.file")


def test_a_name_of_no_file_is_reported(tmp_path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("none.csv", "folder"):
        with pytest.raises(UserError, match=rf"^data\.file: there is no file '{name}'"):
            file_inside(tmp_path, name, "data.file")
    with pytest.raises(UserError, match="cannot be opened"):
        file_inside(tmp_path, "x" * 5000, "data.file")


def test_a_name_of_windows_is_answered_with_what_to_write(tmp_path) -> None:
    with pytest.raises(UserError, match="path of Windows: write it from that folder on"):
        file_inside(tmp_path, "C:\\Data\\a.png", "manifest.csv line 2")


def test_no_name_leaves_the_site(tmp_path) -> None:
    for name in ("Ann Lee.csv", "../Ann Lee.csv", "Ann" * 2000):
        with pytest.raises(UserError) as raised:
            file_inside(tmp_path, name, "data.file")
        assert "Ann" not in raised.value.public
        assert str(tmp_path) not in raised.value.public
    with pytest.raises(UserError) as raised:
        reject_escape(tmp_path, tmp_path.parent)
    assert str(tmp_path.parent) not in raised.value.public
    assert str(describe_folder(tmp_path, tmp_path)) == "the data folder"
    assert str(describe_folder(tmp_path, tmp_path / "Ann")) == "a folder in the data folder"


def test_a_file_is_no_folder_and_has_no_files_inside(tmp_path) -> None:
    (tmp_path / "b.csv").touch()
    assert require_folder(tmp_path) == tmp_path
    with pytest.raises(UserError, match="must be a folder"):
        require_folder(tmp_path / "b.csv")
    reject_names_in_a_file(tmp_path, {"data.file": "b.csv"})
    reject_names_in_a_file(tmp_path / "b.csv", {"data.file": None})
    with pytest.raises(UserError, match=r"write data\.file=null"):
        reject_names_in_a_file(tmp_path / "b.csv", {"data.file": "b.csv"})
