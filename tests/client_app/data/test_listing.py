"""Pictures are listed from class folders and domains; every mistake names its file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from client_app.data import listing
from client_app.data.findings import Findings
from client_app.data.listing import Entry, Layout
from fedstrata.support.errors import UserError
from tests.helpers.data_files import fill, picture


def from_folders(root: Path, findings: Findings | None = None, **layout) -> list[Entry]:
    return listing.from_folders(
        root, Findings() if findings is None else findings, Layout(**layout)
    )


def from_domains(root: Path, **layout) -> list[Entry]:
    return listing.from_domains(root, Findings(), Layout(**layout))


def test_a_class_folder_gives_its_pictures_in_order(folders) -> None:
    entries = from_folders(folders)
    assert [entry.cells[0] for entry in entries] == ["cat"] * 20 + ["dog"] * 30
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
    assert [(entry.cells[0], entry.split) for entry in from_folders(tmp_path)] == [
        ("test", None),
        ("train", None),
    ]


def test_domain_folders_give_their_domain(domains) -> None:
    entries = from_domains(domains)
    assert [entry.domain for entry in entries] == [entry.path.parts[-3] for entry in entries]
    assert {entry.cells[0] for entry in entries} == {"dog", "house"}


def test_hidden_folders_are_skipped(folders) -> None:
    """Programs keep originals and thumbnails there: other bytes of the same pictures."""
    for hidden in (".thumbnails", "ward/.originals"):
        fill(folders / "cat" / hidden, 60, 5)
    assert len(from_folders(folders)) == 50


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
    (folders / "cat" / "loop.png").symlink_to(folders / "cat" / "loop.png")
    with pytest.raises(UserError, match=r"loop\.png"):
        from_folders(folders)
