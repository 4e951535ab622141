"""The difference of two bundles: files and lines, whatever is in them."""

from __future__ import annotations

import io
import warnings
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedstrata.support.errors import UserError
from site_guard.bundle_difference import changes, diff


def bundle(**files: str) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "/"), text)
    return memory.getvalue()


def test_files_and_lines_are_counted() -> None:
    before = bundle(same="x", app__a="one\ntwo\nthree\n", gone="bye\n")
    after = bundle(
        same="x", app__a="one\n2\nthree\nfour\n", new="hello\n", **{".info__CONTENT": "h"}
    )
    assert [(c.path, c.how, c.added, c.removed) for c in changes(before, after)] == [
        ("app/a", "changed", 2, 1),
        ("gone", "gone", 0, 1),
        ("new", "new", 1, 0),
    ]
    assert diff(before, after, "app/a")[3:] == [" one", "-two", "+2", " three", "+four"]


def test_equal_bundles_have_no_difference() -> None:
    assert changes(bundle(a="x"), bundle(a="x")) == []


def test_lines_for_a_terminal_are_printable() -> None:
    lines = diff(bundle(a="x"), bundle(a="\x1b[2J"), "a")
    assert all(line.isprintable() for line in lines)


def test_two_files_of_one_name_cannot_be_compared() -> None:
    memory = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(memory, "w") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("a", "shown")
        archive.writestr("a", "run")
    with pytest.raises(UserError, match="two files of one name"):
        changes(bundle(), memory.getvalue())


@given(st.binary())
def test_any_other_bytes_are_an_error_in_words(data: bytes) -> None:
    with pytest.raises(UserError, match="the bundle cannot be read"):
        changes(bundle(), data)
