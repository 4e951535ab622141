"""The folder of this machine is the one that the environment names, or one in the user's home."""

from pathlib import Path

import pytest

from fedstrata.support.home import home


def test_the_environment_names_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDSTRATA_HOME", "/srv/fedstrata")
    assert home() == Path("/srv/fedstrata")


@pytest.mark.parametrize("unset", [True, False])
def test_without_it_the_folder_is_in_the_users_home(
    monkeypatch: pytest.MonkeyPatch, unset: bool
) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    if unset:
        monkeypatch.delenv("FEDSTRATA_HOME")
    else:
        monkeypatch.setenv("FEDSTRATA_HOME", "")
    assert home() == Path("/home/ann/.fedstrata")
