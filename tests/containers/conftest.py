"""One testbed for all tests of this folder; without a Docker engine they are skipped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.containers.testbed import ROOT, SMALL, engine, results_in, testbed


@pytest.fixture(scope="session")
def results() -> Iterator[dict[str, Any]]:
    """Bring the testbed up, and give the results of its first run."""
    if not engine():
        pytest.skip("no Docker engine with compose on this machine")
    testbed("down")
    try:
        yield results_in(testbed("up", "-c", f"overrides={SMALL}"))
    finally:
        testbed("down")
        assert not (ROOT / "docker" / "consortium").exists()
