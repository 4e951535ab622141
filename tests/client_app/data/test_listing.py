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


def test_a_domain_may_have_one_class_with_folders_in_it(tmp_path) -> None:
    for name in ("a/glioma/patient1/1.png", "b/notumor/patient2/2.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    found = {(entry.domain, *entry.cells) for entry in from_domains(tmp_path)}
    assert found == {("a", "glioma"), ("b", "notumor")}


@pytest.mark.parametrize(
    "names",
    [
        {"Training": "train", "Testing": "test"},
        {"train_set": "train", "Valid": "validation", "test-images": "test"},
        {"TRAIN": "train", "dev": "validation", "TEST": "test"},
    ],
)
def test_split_folders_have_many_names(tmp_path, names) -> None:
    for name in names:
        fill(tmp_path / name / "cat", 0, 1)
    found = Findings()
    entries = from_folders(tmp_path, found)
    assert {entry.path.parts[-3]: entry.split for entry in entries} == names
    assert {entry.cells for entry in entries} == {("cat",)}
    assert "is train" in found.notes[0].whole


def test_split_folders_may_have_names_of_the_users_own(tmp_path) -> None:
    for name in ("train", "holdout"):
        fill(tmp_path / name / "cat", 0, 1)
    entries = from_folders(tmp_path, split_names={"holdout": "test"})
    assert [entry.split for entry in entries] == ["test", "train"]


def test_folders_named_as_splits_that_are_classes_are_a_warning(tmp_path) -> None:
    for name in ("train", "test"):
        fill(tmp_path / name, 0, 1)
    found = Findings()
    from_folders(tmp_path, found)
    assert "'test', 'train' are taken as classes" in found.warnings[0].whole


def test_an_empty_split_folder_is_no_fault(tmp_path) -> None:
    for name in ("train", "test"):
        fill(tmp_path / name / "cat", 0, 1)
    (tmp_path / "val").mkdir()
    assert [entry.split for entry in from_folders(tmp_path)] == ["test", "train"]


def two_levels(root: Path) -> None:
    for number, upper in enumerate(("north", "south")):
        for more, lower in enumerate(("glioma", "notumor")):
            fill(root / upper / lower, 10 * number + 5 * more, 2)


def test_two_levels_that_could_be_two_things_are_refused(tmp_path) -> None:
    two_levels(tmp_path)
    with pytest.raises(UserError) as raised:
        from_folders(tmp_path)
    for reading in (
        "data.domains=true (classes glioma: 4, notumor: 4)",
        "data.levels=class (classes north: 4, south: 4)",
        "data.split_names={north: train}",
    ):
        assert reading in str(raised.value)
    assert "north" not in raised.value.public


def test_an_option_or_the_names_of_the_classes_decide_the_levels(tmp_path) -> None:
    two_levels(tmp_path)
    found = Findings()
    classes = {entry.cells[0] for entry in from_folders(tmp_path, found, levels="class")}
    assert classes == {"north", "south"}
    assert "folders inside class folders" in found.notes[0].whole
    assert len(from_folders(tmp_path, classes=("north", "south", "east"))) == 8
    assert {entry.cells[0] for entry in from_domains(tmp_path)} == {"glioma", "notumor"}
    with pytest.raises(UserError, match=r"data\.levels=split/class, and no folder is a split"):
        from_folders(tmp_path, levels="split/class")
    with pytest.raises(UserError, match=r"data\.levels: class or split/class"):
        from_folders(tmp_path, levels="class/split")


def test_folders_of_patients_in_class_folders_are_no_second_level(tmp_path) -> None:
    for number, folder in enumerate(("cat/p1", "cat/p2", "dog/p3")):
        fill(tmp_path / folder, number, 1)
    assert [entry.cells[0] for entry in from_folders(tmp_path)] == ["cat", "cat", "dog"]


def test_a_folder_that_holds_everything_is_named(tmp_path) -> None:
    fill(tmp_path / "archive" / "cat", 0, 1)
    fill(tmp_path / "archive" / "dog", 1, 1)
    with pytest.raises(UserError, match=r"everything lies in one folder; give that .*archive"):
        from_folders(tmp_path)


def test_an_empty_folder_of_a_configured_class_is_no_fault(tmp_path) -> None:
    fill(tmp_path / "benign", 0, 2)
    (tmp_path / "malignant").mkdir()
    assert len(from_folders(tmp_path, classes=("benign", "malignant"))) == 2
    with pytest.raises(UserError, match="no pictures in this class folder"):
        from_folders(tmp_path, classes=("benign", "other"))


def test_what_is_no_picture_is_counted(folders) -> None:
    for name in ("cat/notes.txt", "readme.md", "cat/Thumbs.db", "dog/.x.png"):
        (folders / name).touch()
    (folders / "dog" / "link").symlink_to(folders / "cat")
    found = Findings()
    assert len(from_folders(folders, found)) == 50
    assert found.left_out == {"suffix": 2, "system file": 1, "hidden": 1, "link": 1}


def test_names_of_classes_are_composed(tmp_path) -> None:
    fill(tmp_path / "O\u0308dem", 0, 1)
    fill(tmp_path / "it's", 1, 1)
    assert [entry.cells[0] for entry in from_folders(tmp_path)] == ["\u00d6dem", "it's"]
