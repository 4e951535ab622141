"""A manifest names pictures; every mistake names its line, and what it does not name is counted."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_app.data import manifest
from client_app.data.findings import Findings
from client_app.data.listing import Entry
from client_app.data.manifest import ManifestColumns
from fedstrata.support.errors import UserError
from tests.helpers.data_files import fill

HEADER = "path,animal,age,ward"
PARTS = [
    "path,animal,split\n",
    "cat/000.png,cat,train\n",
    "dog/020.png,dog,test\n",
    "../x,cat,\n",
    '"',
    ",",
    "\n",
    "\r",
    "\0",
    "é",
    "\ud7ff",
    "cat/000.png",
    "path",
    "\x1c",
]


def write_manifest(root: Path, content: str) -> None:
    (root / "all.csv").write_text(content, encoding="utf-8", newline="")


@pytest.fixture(scope="module")
def two_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    fill(root / "cat", 0, 1)
    fill(root / "dog", 20, 1)
    return root


def from_manifest(root, name, task, column, findings=None, **more) -> list[Entry]:
    columns = ManifestColumns((task,), column, **more)
    return manifest.from_manifest(root, name, columns, Findings() if findings is None else findings)


def test_a_manifest_gives_label_split_and_domain(two_pictures) -> None:
    write_manifest(two_pictures, "path,animal,split,ward\ncat/000.png,cat,val,w1\ndog/020.png,,,w2")
    entries = from_manifest(two_pictures, "all.csv", "animal", "ward")
    # the dog has no label for this task
    assert entries == [Entry(two_pictures / "cat" / "000.png", ("cat",), "validation", "w1")]


def test_what_the_manifest_does_not_name_is_counted(folders) -> None:
    (folders / "notes.txt").touch()
    (folders / "cat" / ".hidden.png").touch()
    write_manifest(folders, "path,animal\ncat/000.png,cat\ndog/020.png,dog\ncat/002.png,\n")
    found = Findings()
    assert len(from_manifest(folders, "all.csv", "animal", None, found)) == 2
    assert found.left_out == {"not in the manifest": 47, "suffix": 1, "hidden": 1, "no label": 1}


def test_paths_may_be_written_as_windows_and_macos_do(tmp_path) -> None:
    fill(tmp_path / "O\u0308dem", 0, 3)
    write_manifest(tmp_path, "path,animal\nÖdem\\000.png,a\n./Ödem/001.jpg,b\nÖdem//002.png,c")
    with pytest.raises(UserError, match="line 4"):  # that one is written as no system does
        from_manifest(tmp_path, "all.csv", "animal", None)
    write_manifest(tmp_path, "path,animal\nÖdem\\000.png,a\n./Ödem/001.jpg,b\n")
    assert len(from_manifest(tmp_path, "all.csv", "animal", None)) == 2


def test_a_manifest_may_lie_in_a_folder_and_name_groups(tmp_path) -> None:
    fill(tmp_path / "in" / "cat", 0, 1)
    (tmp_path / "in" / "list.csv").write_text("path,animal,patient\ncat/000.png,cat,P1 \n")
    (entry,) = from_manifest(tmp_path, "in/list.csv", "animal", None, group="patient")
    assert entry == Entry(tmp_path / "in" / "cat" / "000.png", ("cat",), None, "", "P1")


def test_all_missing_files_are_named_at_once(two_pictures) -> None:
    write_manifest(two_pictures, "path,animal\nx.png,cat\ncat/000.png,cat\ny.png,dog\n")
    with pytest.raises(UserError, match=r"line 2: there is no file 'x.png'.*line 4.*'y.png'"):
        from_manifest(two_pictures, "all.csv", "animal", None)


def test_a_manifest_that_is_a_link_out_of_the_root_is_rejected(folders, tmp_path) -> None:
    (folders / "out.csv").symlink_to(tmp_path / "out.csv")
    (tmp_path / "out.csv").write_text("path,label\n")
    with pytest.raises(UserError, match="a link that leaves"):
        from_manifest(folders, "out.csv", "label", None)


def test_an_absolute_path_of_a_file_in_the_folder_is_that_file(two_pictures, tmp_path) -> None:
    root = two_pictures
    write_manifest(root, f"path,animal\n{root}/cat/000.png,cat\n")
    assert [entry.path for entry in from_manifest(root, "all.csv", "animal", None)] == [
        root / "cat" / "000.png"
    ]
    write_manifest(root, f"path,animal\n{root}/cat/000.png,cat\ncat/000.png,dog\n")
    with pytest.raises(UserError, match="listed twice"):
        from_manifest(root, "all.csv", "animal", None)
    for outside in (f"{root}/../secret.png", f"{root}x/secret.png", f"{root}//etc/passwd"):
        write_manifest(root, f"path,animal\n{outside},cat\n")
        with pytest.raises(UserError, match=r"must be a path inside|there is no file"):
            from_manifest(root, "all.csv", "animal", None)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("../secret.png,cat,old,w0", "line 3: '../secret.png' must be a path inside"),
        ("cat/../../secret.png,cat,old,w0", "without '..'"),
        ("/etc/passwd,cat,old,w0", "line 3: '/etc/passwd' must be a path inside"),
        (",cat,old,w0", "line 3: '' must be"),
        ("cat/\0.png,cat,old,w0", "line 3"),
        (f"{'x' * 5000},cat,old,w0", "line 3"),
        ("cat/none.png,cat,old,w0", "line 3: there is no file 'cat/none.png'"),
        ("cat,cat,old,w0", "there is no file 'cat'"),
        ("cat/000.png,cat,old,w0", "line 3: 'cat/000.png' is listed twice"),
        ("dog/020.png,cat,old", "line 3: 3 cells, but the header has 4"),
        ('dog/020.png,"cat,old,w0', "cannot be read"),
    ],
)
def test_a_wrong_row_is_reported_with_its_line(two_pictures, row, message) -> None:
    write_manifest(two_pictures, f"{HEADER}\ncat/000.png,cat,old,w0\n{row}")
    with pytest.raises(UserError, match=message) as error:
        from_manifest(two_pictures, "all.csv", "animal", None)
    assert "all.csv" in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,animals\n", "no column 'animal'; there is 'animals'"),
        ("file,animal\n", "no column 'path'"),
        ("path,animal\n", "no picture has a label"),
        ("path,animal,split\ncat/000.png,cat,night\n", "line 2: split 'night' is not train"),
    ],
)
def test_a_wrong_manifest_is_reported(two_pictures, content, message) -> None:
    write_manifest(two_pictures, content)
    with pytest.raises(UserError, match=message) as error:
        from_manifest(two_pictures, "all.csv", "animal", None)
    assert "all.csv" in str(error.value)


@given(content=st.lists(st.sampled_from(PARTS), max_size=6).map("".join))
def test_any_manifest_gives_entries_or_a_user_error(two_pictures, content) -> None:
    write_manifest(two_pictures, content)
    with contextlib.suppress(UserError):
        entries = from_manifest(two_pictures, "all.csv", "animal", None)
        assert {entry.path.parent for entry in entries} <= {
            two_pictures / "cat",
            two_pictures / "dog",
        }
