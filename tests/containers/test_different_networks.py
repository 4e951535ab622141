"""`docker/testbed up --networks` in real containers: each hospital trains its own network.

It takes the testbed down before and after, so it runs before the tests that share one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.containers.testbed import engine, inside, results_in, testbed
from tests.helpers.different_networks import FEW, hospitals, overrides

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def different() -> Iterator[dict[str, Any]]:
    if not engine():
        pytest.skip("no Docker engine with compose on this machine")
    testbed("down")
    try:
        run = " ".join([*overrides(), *FEW.split()])
        yield results_in(testbed("up", "--networks", "-c", f"overrides={run}"))
    finally:
        testbed("down")


def test_each_hospital_trains_the_network_of_its_site_yaml(different: dict[str, Any]) -> None:
    models = {name: site["model"] for name, site in different["sites"].items()}
    assert models == {name: settings.model for name, settings in hospitals().items()}
    assert different["participation"] == {name: ["took part"] * 2 for name in models}


def test_class_means_alone_have_left(different: dict[str, Any]) -> None:
    for letter in "abc":
        audit = ("fedstrata", "site", "audit", "--settings", "/site/site.yaml")
        said = inside(f"{letter}-app", *audit)
        assert "prototypes" in said
        assert "common" not in said
