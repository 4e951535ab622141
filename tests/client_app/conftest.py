"""For all tests of a site: a plan, and a check that no error of the app has a path in its public text."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedstrata.protocol.plan import Plan
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


@pytest.fixture
def plan(own_home: Path) -> Plan:
    """Return a plan with a frozen prefix, its checkpoint in the cache."""
    # Imported late: the data sets' tests use this folder's fixtures and need no model.
    from tests.helpers.site_contexts import plan_with_checkpoint

    return plan_with_checkpoint(own_home)
