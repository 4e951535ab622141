"""Pictures are listed from class folders, domains or a manifest; every mistake names its file."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_app.data.listing import Entry, from_domains, from_folders, from_manifest
from fedstrata.support.errors import UserError
from tests.helpers.data_files import fill, picture

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


def test_a_class_folder_gives_its_pictures_in_order(folders) -> None:
    entries = from_folders(folders)
    assert [entry.label for entry in entries] == ["cat"] * 20 + ["dog"] * 30
    assert [entry.path for entry in entries] == sorted(entry.path for entry in entries)
    assert {(entry.split, entry.domain) for entry in entries} == {(None, "")}


def test_split_folders_give_their_split(tmp_path) -> None:
    for name in ("train", "val", "test"):
        fill(tmp_path / name / "cat", 0, 1)
    splits = {entry.path.parts[-3]: entry.split for entry in from_folders(tmp_path)}
    assert splits == {"train": "train", "val": "validation", "test": "test"}


def test_a_class_may_be_called_as_a_split(tmp_path) -> None:
    for name in ("train", "test"):  # of a railway, without class folders inside
        fill(tmp_path / name, 0, 1)
    assert [(entry.label, entry.split) for entry in from_folders(tmp_path)] == [
        ("test", None),
        ("train", None),
    ]


def test_domain_folders_give_their_domain(domains) -> None:
    entries = from_domains(domains)
    assert [entry.domain for entry in entries] == [entry.path.parts[-3] for entry in entries]
    assert {entry.label for entry in entries} == {"dog", "house"}


def test_hidden_folders_are_skipped(folders) -> None:
    """Programs keep originals and thumbnails there: other bytes of the same pictures."""
    for hidden in (".thumbnails", "ward/.originals"):
        fill(folders / "cat" / hidden, 60, 5)
    assert len(from_folders(folders)) == 50


def test_a_manifest_gives_label_split_and_domain(two_pictures) -> None:
    write_manifest(two_pictures, "path,animal,split,ward\ncat/000.png,cat,val,w1\ndog/020.png,,,w2")
    entries = from_manifest(two_pictures, "all.csv", "animal", "ward")
    # the dog has no label for this task
    assert entries == [Entry(two_pictures / "cat" / "000.png", "cat", "validation", "w1")]


def test_wrong_domain_folders_are_reported(domains, tmp_path) -> None:
    def check(match: str) -> None:
        with pytest.raises(UserError, match=match):
            from_domains(domains)

    def link(where: Path, target: Path, match: str) -> None:
        where.symlink_to(target)
        check(match)
        where.unlink()

    fill(tmp_path / "secret" / "dog", 90, 1)
    link(domains / "art", tmp_path / "secret", "art is a link that leaves")
    link(domains / "photo" / "cat", tmp_path / "secret" / "dog", "cat is a link that leaves")
    secret = tmp_path / "secret" / "dog" / "090.png"
    link(domains / "photo" / "dog" / "x.png", secret, r"x\.png is a link that leaves")
    loop = domains / "photo" / "dog" / "loop.png"
    link(loop, loop, r"loop\.png")
    picture(1).save(domains / "stray.png")
    check(r"stray\.png: lies beside")
    (domains / "stray.png").rename(domains / "photo" / "stray.png")
    check(r"photo/stray\.png: lies beside the class folders")
    (domains / "photo" / "stray.png").unlink()
    (domains / "art").mkdir()
    check("art: has no class folders; put pictures into .*art/<class>/")
    (domains / "art" / "dog").mkdir()
    check("art/dog: no pictures in this class folder")
    shutil.rmtree(domains / "art")
    (domains / "cartoon").rename(domains / "train")
    check("train: is the name of a split, not of a domain")
    shutil.rmtree(domains)
    domains.mkdir()
    check("has no domain folders")


def test_wrong_class_folders_are_reported(folders) -> None:
    def check(match: str) -> None:
        with pytest.raises(UserError, match=match):
            from_folders(folders)

    (folders / "bird").mkdir()
    check("bird: no pictures in this class folder")
    (folders / "bird").rmdir()
    picture(1).save(folders / "stray.png")
    check(r"stray\.png: lies beside the class folders")
    (folders / "stray.png").unlink()
    fill(folders / "train" / "cat", 0, 2)
    check("'train' has class folders but 'cat' is not such a split")
    shutil.rmtree(folders)
    folders.mkdir()
    check("has no class folders")


def test_links_out_of_the_root_are_rejected(folders, tmp_path) -> None:
    fill(tmp_path / "secret" / "cat", 90, 1)
    for link, target in [
        (folders / "cat" / "link.png", tmp_path / "secret" / "cat" / "090.png"),
        (folders / "bird", tmp_path / "secret" / "cat"),
    ]:
        link.symlink_to(target)
        with pytest.raises(UserError, match="a link that leaves"):
            from_folders(folders)
        link.unlink()
    (folders / "out.csv").symlink_to(tmp_path / "out.csv")
    (tmp_path / "out.csv").write_text("path,label\n")
    with pytest.raises(UserError, match="a link that leaves"):
        from_manifest(folders, "out.csv", "label", None)
    (folders / "cat" / "loop.png").symlink_to(folders / "cat" / "loop.png")
    with pytest.raises(UserError, match=r"loop\.png"):
        from_folders(folders)


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
        ("path,animal,split\ncat/000.png,cat,dev\n", "line 2: split 'dev' is not train"),
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
