"""What all tests of the site hold: no error that it makes lets out a path."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from fedstrata.support.errors import PrivateText, UserError


@pytest.fixture(autouse=True)
def errors_without_paths(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Look at the public text of every error that client_app makes in a test."""
    made: list[str] = []
    plain = UserError.__init__

    def watched(error: UserError, message: str | PrivateText) -> None:
        plain(error, message)
        if sys._getframe(1).f_globals["__name__"].startswith("client_app"):
            made.append(error.public)

    monkeypatch.setattr(UserError, "__init__", watched)
    yield
    assert not [text for text in made if str(tmp_path_factory.getbasetemp()) in text]
