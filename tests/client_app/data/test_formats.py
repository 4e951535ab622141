"""Tests of which files are pictures."""

from __future__ import annotations

from pathlib import PurePath

import pytest

from client_app.data.formats import is_picture, suffix_of


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.JPG", ".jpg"),
        ("a.jfif", ".jfif"),
        ("a.b.Dcm", ".dcm"),
        ("a.nii", ".nii"),
        ("a.nii.gz", ".nii.gz"),
        ("a.png.txt", None),
        ("a.gz", None),
        ("png", None),
        ("a.eps", None),
    ],
)
def test_the_suffix_says_what_a_file_is(name: str, suffix: str | None) -> None:
    path = PurePath("folder.png") / name
    assert suffix_of(path) == suffix
    assert is_picture(path) == (suffix is not None)
