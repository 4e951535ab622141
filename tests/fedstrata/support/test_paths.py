"""Paths of other systems are refused with what to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedstrata.support.errors import UserError
from fedstrata.support.paths import absolute_path, of_windows, path_from_here


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("C:\\Pictures", "drive C: is /mnt/c in WSL"),
        ("d:/Pictures", "drive D: is /mnt/d in WSL"),
        ("C:\u2029ictures", "drive C: is /mnt/c in WSL"),  # YAML's reading of "C:\Pictures"
        ("\\\\server\\share", "as in /mnt/share"),
        ("~/pictures", "write the home folder out"),
        ("pictures", "write all of it, as in /srv/pictures"),
    ],
)
def test_a_path_that_is_not_absolute_is_refused_with_what_to_write(written: str, said: str) -> None:
    with pytest.raises(UserError, match="data must be an absolute path, got ") as refused:
        absolute_path(written, "data")
    assert said in str(refused.value)


def test_letters_of_any_case_are_taken() -> None:
    assert absolute_path("/Data/Pictures", "data") == Path("/Data/Pictures")


def test_a_command_takes_paths_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert path_from_here("Pictures", "data-root") == tmp_path / "Pictures"
    assert path_from_here("~/x", "data-root") == Path("/home/me/x")
    with pytest.raises(UserError, match="in WSL"):
        path_from_here("C:\\Pictures", "data-root")
    (tmp_path / "C:").mkdir()  # such a name is possible here
    assert path_from_here("C:", "data-root") == tmp_path / "C:"


@pytest.mark.parametrize("text", ["http://server", "/c:/x", "abc:x", ""])
def test_other_texts_are_no_paths_of_windows(text: str) -> None:
    assert not of_windows(text)
