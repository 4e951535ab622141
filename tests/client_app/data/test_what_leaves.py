"""An error about a deployed site's data leaves it with the line, but without names and values."""

from __future__ import annotations

import csv
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import conf
from client_app.context import DataKey, read_site_data
from client_app.data.formats import SUFFIXES
from client_app.data.har_files import ACTIVITIES
from client_app.data.registry import load
from client_app.data.site_info import SiteInfo, require_root
from client_app.data.site_split import Rank, SiteSplit, rows_of_site
from client_app.data.tables import describe_line
from client_app.data.tokens import token_ids
from client_app.failures import public_reason
from client_app.node_config import read_node_settings
from fedstrata.support.errors import UserError
from fedstrata.support.frozen import frozen
from tests.helpers.data_files import fill, medmnist_arrays, picture

PATIENT = "Ann Lee: 'Zoë' 1961"
NAMED = {"label": ["cat", "dog"]}
Make = Callable[[Path], dict[str, Any]]


def leaves(error: UserError, root: Path) -> str:
    site = read_node_settings({"site": "clinic", "data-root": str(root)}, {})
    return public_reason(error, site, simulated=False)


def check(error: UserError, root: Path, message: str) -> None:
    """Assert that ``message``, with any file as FILE, is all that leaves of the error."""
    expected = message.replace("FILE", "a file in the data folder")
    assert leaves(error, root) == f"{expected}; see the site's log"
    assert leaves(error, root) != str(error)
    assert not re.search(f"Ann|Lee|Zoë|61|{re.escape(str(root))}", leaves(error, root))


def write(path: Path, rows: Sequence[Sequence[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened).writerows(rows)


def manifest(*rows: Sequence[str], header: Sequence[str] = ("path", "label"), **more: Any) -> Make:
    """Return a function that writes a manifest and returns the options to read it with."""

    def make(root: Path) -> dict[str, Any]:
        fill(root / PATIENT, 0, 1)
        (root / PATIENT / "broken.png").write_bytes(b"no picture")
        (root / PATIENT / "out.png").symlink_to("/etc/passwd")
        write(root / "list.csv", [header, *rows])
        return {"manifest": "list.csv", **more}

    return make


def folders(*paths: str, **more: Any) -> Make:
    """Return a function that makes pictures at these paths, or folders where one ends in a slash."""

    def make(root: Path) -> dict[str, Any]:
        root.mkdir()
        for number, path in enumerate(paths):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            if path.endswith("/"):
                (root / path).mkdir()
            elif path.endswith("broken.png"):
                (root / path).write_bytes(b"no picture")
            else:
                picture(number).save(root / path)
        return more

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            manifest([f"{PATIENT}/none.png", "cat"]),
            "FILE, line 2: there is no such file in the data folder",
        ),
        (
            manifest([f"../{PATIENT}.png", "cat"]),
            "FILE, line 2: it must be a path inside the data folder, without '..'",
        ),
        (
            manifest([f"/{PATIENT}.png", "cat"]),
            "FILE, line 2: it must be a path inside the data folder, without '..'",
        ),
        (
            manifest(*[[f"{PATIENT}/000.png", "cat"]] * 2),
            "FILE, line 3: its file is listed twice",
        ),
        (
            manifest([f"{PATIENT}/out.png", "cat"]),
            "FILE is a link that leaves the data folder: put the file itself there",
        ),
        (
            manifest([f"{PATIENT}/broken.png", "cat"], [f"{PATIENT}/000.png", "dog"]),
            "FILE: not a readable picture; mend or remove it",
        ),
        (
            manifest([f"{PATIENT}/000.png", "cat", PATIENT], header=["path", "label", "split"]),
            "FILE, line 2: the split is not train, validation or test",
        ),
        (
            manifest([f"{PATIENT}/000.png", PATIENT], classes=NAMED),
            "FILE, line 2: a class is not among data.classes of task 'label'; "
            "add it there at every site, or leave it out here",
        ),
        (
            manifest([f"{PATIENT}/000.png", PATIENT]),
            "task 'label': two classes or more are needed, and here is only one; for a site with "
            "examples of one class alone name all of them, as in data.classes={label:[cat,dog]}",
        ),
        (manifest(header=[f"{PATIENT}/000.png", "cat"]), "FILE: no column 'path'"),
        (manifest([PATIENT]), "FILE, line 2: 1 cells, but the header has 2"),
        (manifest(['x"y' * 50_000, "cat"]), "FILE: cannot be read after line 1"),
        (
            lambda root: manifest()(root) | {"manifest": f"{PATIENT}.csv"},
            "data.manifest: there is no such file in the data folder",
        ),
        (
            folders(f"{PATIENT}/"),
            f"a folder in the data folder: no pictures in this class folder ({', '.join(SUFFIXES)})"
            "; remove it, or name all classes in data.classes. A DICOM file needs the ending .dcm, "
            "or a line in a manifest",
        ),
        (
            folders(f"{PATIENT}/1.png"),
            "task 'label': two classes or more are needed, and here is only one; for a site with "
            "examples of one class alone name all of them, as in data.classes={label:[cat,dog]}",
        ),
        (
            folders("cat/1.png", f"{PATIENT}.png"),
            "FILE: lies beside the class folders; move it into one of them",
        ),
        (
            folders("train/cat/1.png", f"{PATIENT}/1.png"),
            "the data folder: 'train' has class folders but another folder is not such a split; "
            "use train, validation and test, each with class folders, or class folders alone",
        ),
        (
            folders(f"cat/{PATIENT} broken.png", "dog/1.png"),
            "FILE: not a readable picture; mend or remove it",
        ),
        (
            folders(f"{PATIENT}/", domains=True),
            "a folder in the data folder: has no class folders; put pictures into <class>/",
        ),
        (
            folders("cat/1.png", "dog/1.png"),
            "no examples in validation and test (train, validation and test have 2, 0, 0): give "
            "this site more examples, or change the fractions or the split among sites in data",
        ),
    ],
)
def test_errors_about_pictures_name_nothing_private(tmp_path, options, make, message) -> None:
    root = tmp_path / PATIENT
    changes = make(root)
    info = SiteInfo("clinic", None, None, None, root)
    with pytest.raises(UserError) as raised:
        load("images", options("images", size=8, **changes), info, seed=1)
    check(raised.value, root, message)


@pytest.mark.parametrize(
    ("changes", "chosen", "message"),
    [
        (
            {"train_labels": np.full(40, 61)},
            {"classes": {"lung": ["a", "b"]}},
            "FILE: has a higher label, but data.classes of task 'lung' ends at 1 ('b')",
        ),
        (
            {},
            {"classes": {PATIENT: ["a", "b"]}},
            "data.classes: this site's task is missing",
        ),
        (
            {"val_labels": np.full(10, -1961)},
            {},
            "FILE, val_labels: row 1 is not a whole number from 0 to 9999",
        ),
        (
            {"train_images": np.zeros(40, np.dtype([(PATIENT, "u1")]))},
            {},
            "FILE: array 'train_images' holds a type, which is not read because it could run code; "
            "save it as plain numbers",
        ),
        (
            {"test_images": np.zeros((19, 8, 8), np.uint8)},
            {},
            "FILE: 19 test_images but 20 test_labels",
        ),
    ],
)
def test_errors_about_arrays_name_nothing_private(
    tmp_path, options, changes, chosen, message
) -> None:
    path = tmp_path / f"{PATIENT}.npz"
    np.savez(path, **medmnist_arrays(**changes))
    info = SiteInfo("clinic", "lung", None, None, path)
    with pytest.raises(UserError) as raised:
        load("medmnist", options("medmnist", **chosen), info, seed=1)
    check(raised.value, tmp_path, message)


def test_errors_about_an_npz_file_name_nothing_private(tmp_path, options) -> None:
    path = tmp_path / f"{PATIENT}.npz"
    info = SiteInfo("clinic", None, None, None, tmp_path)
    for name, content, message in [
        ("medmnist", {}, "FILE: not a readable npz file"),
        ("medmnist", {PATIENT: np.zeros(3)}, "FILE: no array 'train_images'"),
        ("har", {PATIENT: np.zeros(3)}, "FILE: no array 'x'"),
    ]:
        path.write_bytes(b"no zip")
        if content:
            np.savez(path, **content)
        with pytest.raises(UserError) as raised:
            load(name, options(name), info, seed=1)
        check(raised.value, tmp_path, message)


def test_errors_about_several_files_name_nothing_private(tmp_path, options) -> None:
    for name in (PATIENT, f"{PATIENT} 2"):
        np.savez(tmp_path / f"{name}.npz", **medmnist_arrays())
    info = SiteInfo("clinic", None, None, None, tmp_path)
    with pytest.raises(UserError) as raised:
        load("medmnist", options("medmnist"), info, seed=1)
    message = (
        "the data folder: has 2 npz files: name this site's in its node config, as in "
        "--node-config 'task=\"...\"', or give data.file"
    )
    check(raised.value, tmp_path, message)


def test_errors_about_subjects_name_nothing_private(tmp_path, options) -> None:
    path = tmp_path / f"{PATIENT}.npz"
    subject = np.repeat([1961, 61], 30)
    content = {"x": np.zeros((60, 561)), "y": np.arange(60) % 6 + 1, "subject": subject}
    several = (
        "this site's data has 2 subjects: name its own in the node config, as in "
        "--node-config 'task=\"...\"'"
    )
    for task, chosen, more, message in [
        (None, None, {}, several),
        ("subject-08", None, {}, "no task 'subject-08' here"),
        (None, [8], {}, "data.subjects: no subject 8 here"),
        (None, None, {"subject": subject + 1e-3}, "FILE, subject: row 1 is not a whole number from "
            "1 to 10000"),
        (None, None, {"activity_names": np.array([PATIENT])}, f"FILE: activity_names must be "
            f"{', '.join(ACTIVITIES)}, in this order"),
    ]:  # fmt: skip
        np.savez(path, **{**content, **more})
        info = SiteInfo("clinic", task, None, None, tmp_path)
        with pytest.raises(UserError) as raised:
            load("har", options("har", subjects=chosen), info, seed=1)
        check(raised.value, tmp_path, message)


def test_errors_about_the_official_folder_name_nothing_private(tmp_path, options) -> None:
    for half in ("train", "test"):
        (tmp_path / half).mkdir()
        for kind in ("X", "y", "subject"):
            (tmp_path / half / f"{kind}_{half}.txt").touch()
    (tmp_path / "train" / "X_train.txt").write_text(f"{'0.5 ' * 560}Lee1961\n")
    info = SiteInfo("clinic", None, None, None, tmp_path)
    with pytest.raises(UserError, match="'Lee1961', not a number") as raised:
        load("har", options("har"), info, seed=1)
    check(raised.value, tmp_path, "X_train.txt: line 1 has a word, not a number")
    (tmp_path / "train" / "X_train.txt").write_text(f"{'0.5 ' * 560}1_961\n")
    with pytest.raises(UserError, match="1_961") as raised:
        load("har", options("har"), info, seed=1)
    check(raised.value, tmp_path, "X_train.txt: not a table of numbers")
    (tmp_path / "train" / "y_train.txt").unlink()
    with pytest.raises(UserError) as raised:
        load("har", options("har"), info, seed=1)
    check(raised.value, tmp_path, "y_train.txt is missing: the official folder has it")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[PATIENT, "cat"]], "FILE: no column 'text'"),
        ([["text", "label"], ["", PATIENT]], "FILE, line 2: the column 'text' is empty"),
        ([["text", "label"], [PATIENT, ""]], "FILE: no text has a label in column 'label'"),
        (
            [["text", "label"], [PATIENT, PATIENT]],
            "task 'label': two classes or more are needed, and here is only one; for a site with "
            "examples of one class alone name all of them, as in data.classes={label:[cat,dog]}",
        ),
        (
            [["text", "label"], [PATIENT, "cat"], ["x", "dog"]],
            "there is no folder 'tiny-bert' in the models folder that can be used as data.folder",
        ),
    ],
)
def test_errors_about_texts_name_nothing_private(tmp_path, options, rows, message) -> None:
    write(tmp_path / f"{PATIENT}.csv", rows)
    info = SiteInfo("clinic", None, None, None, tmp_path, tmp_path / "models")
    with pytest.raises(UserError) as raised:
        load("text", options("text"), info, seed=1)
    check(raised.value, tmp_path, message)


def test_errors_of_a_tokenizer_name_nothing_private(tmp_path) -> None:
    class Tokenizer:
        def encode(self, text: str) -> list[str]:
            return list(text)

        def __call__(self, texts: list[str], **_: object) -> None:
            raise ValueError(f"cannot encode {texts[0]!r}")

    with pytest.raises(UserError, match=r"cannot encode .*1961") as raised:
        token_ids(Tokenizer(), [PATIENT], [describe_line(tmp_path, 7)], length=4, vocabulary=9)
    message = "FILE, line 7 and 0 more: the tokenizer fails with ValueError"
    check(raised.value, tmp_path, message)


def test_errors_about_shares_name_nothing_private(tmp_path) -> None:
    options = SiteSplit("dirichlet", 1.0, 3, 2, None)
    with pytest.raises(UserError, match="attempts") as raised:
        rows_of_site(options, np.zeros(9, np.int64), Rank(0, 3), 1)
    check(
        raised.value,
        tmp_path,
        "data.site_split (dirichlet): these data cannot be split like this; lower data.site_split."
        "smallest, raise data.site_split.alpha, or start fewer sites",
    )


def test_errors_about_domains_name_nothing_private(tmp_path) -> None:
    options = SiteSplit("domain", 1.0, 1, 2, "ward")
    values = np.array([PATIENT, PATIENT, "w", "w", "w"])
    with pytest.raises(UserError, match="1961") as raised:
        rows_of_site(options, np.zeros(5, np.int64), Rank(0, 5), 1, values)
    message = (
        "data.site_split: a domain has 2 examples for the 3 sites that share it: start fewer sites, "
        "or add examples to it"
    )
    check(raised.value, tmp_path, message)


def test_an_error_about_a_missing_data_folder_names_nothing_private(tmp_path) -> None:
    root = tmp_path / PATIENT
    with pytest.raises(UserError, match="1961") as raised:
        require_root(SiteInfo("clinic", None, None, None, root))
    check(raised.value, root, "data-root does not exist on this site's machine")


# What leaves instead of class names that only the site's own folders and files have.
UNNAMED = (
    "data.classes=null: the classes would be called as in this site's own files, and those names "
    "do not leave it; write the names that all sites agreed on, as in data.classes={label:[cat,dog]}"
)


def sentences(root: Path) -> dict[str, Any]:
    write(root / "notes.csv", [["text", "label"], ["x", PATIENT], ["y", f"{PATIENT} 2"]])
    return {}


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("images", folders(f"{PATIENT}/1.png", f"{PATIENT} 2/2.png", size=8)),
        ("images", folders(f"a/{PATIENT}/1.png", f"a/{PATIENT} 2/2.png", size=8, domains=True)),
        ("images", manifest([f"{PATIENT}/000.png", PATIENT], ["list.csv", "dog"], size=8)),
        ("text", sentences),
    ],
)
def test_classes_that_nobody_configured_are_not_sent(tmp_path, options, name, make) -> None:
    """The server gets no class names where it configured none."""
    changes = make(tmp_path / "data")
    chosen = options(name, **changes)
    site = read_node_settings({"site": "clinic", "data-root": str(tmp_path / "data")}, {})
    with pytest.raises(UserError) as raised:
        read_site_data(DataKey(frozen(chosen), 1, chosen), site)
    assert public_reason(raised.value, site, simulated=False) == UNNAMED


SEVERAL = (
    "column 'label': a cell has several labels; write data.tasks.label.kind=labels, or name it in "
    "data.classes"
)


# Every text that may leave about an entry of a manifest, without the number of its line.
KNOWN = {
    f"a file in the data folder{text}; see the site's log"
    for text in (
        ", line N: there is no such file in the data folder",
        ", line N: it must be a path inside the data folder, without '..'",
        ", line N: the file cannot be opened (File name too long)",
        ", line N: its file is listed twice",
        ": not a readable picture; mend or remove it",
        " is a link that leaves the data folder: put the file itself there",
        ": cannot be read after line N",
        ", line N: a class is not among data.classes of task 'label'; add it there at every site, or "
        "leave it out here",
    )
} | {UNNAMED, f"{SEVERAL}; see the site's log"}
LETTERS = st.text(
    st.one_of(st.sampled_from(":'\"/\\\n\r, ;%{}\u2028\x1b"), st.characters(codec="utf-8"))
)


@given(
    before=LETTERS,
    after=LETTERS,
    kind=st.sampled_from(["missing", "broken", "twice", "link", "class", "null"]),
)
def test_no_name_in_a_manifest_leaves_the_site(before: str, after: str, kind: str) -> None:
    name = f"{before}LEE1961{after}"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rows = [["path", "label"], [name, name if kind == "class" else "cat"]]
        options = OPTIONS
        if kind == "null":
            rows[1:] = [["0.png", name]]
            options = OPTIONS | {"classes": None}
            (root / "0.png").touch()
        write(root / "list.csv", rows + rows[1:] * (kind == "twice"))
        if kind != "missing":
            put_file(root, name, link=kind == "link")
        with pytest.raises(UserError) as raised:
            load(
                "images", options, SiteInfo("clinic", None, None, None, root, deployed=True), seed=1
            )
        left = leaves(raised.value, root)
    assert re.sub(r"line \d+", "line N", left) in KNOWN
    assert "LEE1961" not in left


def put_file(root: Path, name: str, *, link: bool) -> None:
    """Put a file that is no picture where the manifest's entry is, if it can be there."""
    path = root / name.strip()
    try:
        if ".." in path.parts or root not in path.parents:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if link:
            path.symlink_to("/etc/passwd")
        else:
            path.write_bytes(b"no picture")
    except (OSError, ValueError):
        return


OPTIONS = {
    **yaml.safe_load((Path(conf.__file__).parent / "data" / "images.yaml").read_text("utf-8")),
    "manifest": "list.csv", "classes": NAMED, "size": 8, "memory_mb": 0,
}  # fmt: skip
