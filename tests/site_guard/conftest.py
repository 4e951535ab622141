"""A guard with a tiny app in its bundle, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from site_guard.guard import Guard, make_guard
from tests.helpers.tiny_app import bundle, settings


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return bundle(tmp_path_factory.mktemp("app") / "app")


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guard]:
    made = make_guard(settings(tmp_path_factory.mktemp("site"), threads=1))
    yield made
    made.process.stop()
