"""Settings for all tests: one torch thread, few examples, and folders of their own."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Few examples as `pytest` is typed, more in CI, which sets CI=true or asks for the profile `ci`.
# No test asserts a time, so none has a deadline.
settings.register_profile(
    "quick", max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("ci", settings.get_profile("quick"), max_examples=100)
settings.load_profile("ci" if os.environ.get("CI") else "quick")

# Flower asks a server of its own whether there is a newer version, and reports each run to it. A
# test needs neither, and where the network is closed `flwr` waits seconds for the first. These two
# are all that the tests set for the processes that they start.
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")


def pytest_xdist_auto_num_workers() -> int:
    """Return half as many workers again as there are cores.

    Many tests wait: for a process, for a deadline, for an answer that does not come. Another worker
    can compute meanwhile.
    """
    return len(os.sched_getaffinity(0)) * 3 // 2 or 1


# The folders with the longest files, those that wait for processes first: none is left to the end.
LONGEST_FIRST = ("system", "site_guard", "attacks", "server_app")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first, so that no worker ends long after the others."""
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    here = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        return places.get(item.path.relative_to(here).parts[0], len(places))

    items.sort(key=place)


DISK = SimpleNamespace(total=2**40, used=2**39, free=2**39)


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep caches and runs of a test away from those of the user."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("FEDSTRATA_HOME", str(home))
    return home


@pytest.fixture(autouse=True)
def free_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let half of a disk be free: what is kept there must not depend on that of this machine."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DISK)


@pytest.fixture(autouse=True, scope="session")
def simulated() -> Iterator[None]:
    """Let the app be in a simulation here, where no Ray started it: tests/loopback.py stands in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("client_app.node_config.in_simulation", lambda: True)
        yield


@pytest.fixture(autouse=True, scope="session")
def nodes_that_are_there_at_once() -> Iterator[None]:
    """Take a roster for complete sooner: in the loopback all nodes are there from the beginning.

    Each of some three hundred runs would otherwise wait for a second.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server_app.sites.joining.SETTLE", 0.05)
        yield


@pytest.fixture(autouse=True, scope="session")
def faces_drawn_once() -> Iterator[None]:
    """Draw each face once a worker: most runs of the tests begin with the same ones.

    The same arguments give the same bytes (tests/fedstrata/drawn_faces); each caller gets a copy.
    """
    import fedstrata.drawn_faces as painter

    drawn = lru_cache(maxsize=512)(painter.draw)

    def draw(n: int, **options: Any) -> painter.Drawn:
        return deepcopy(drawn(n, **options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("client_app.data.faces.draw", draw)
        yield


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Keep torch to one thread in this process, fixtures of modules included.

    Sums then have one order everywhere, and the workers of pytest do not fight for the cores.
    Processes that a test starts do not inherit it: they take the threads that a user's would.
    """
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_thread_again(one_thread: None) -> Iterator[None]:
    """Go back to one thread after a test that took more."""
    import torch

    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def flower_logs_as_before() -> Iterator[None]:
    """Give Flower's logger its level back: what a test silences, the next one may look for."""
    logger = logging.getLogger("flwr")
    level, propagates = logger.level, logger.propagate
    yield
    logger.setLevel(level)
    logger.propagate = propagates
