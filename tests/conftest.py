"""Settings for all tests: one torch thread, and folders of their own for what the app keeps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No timing is asserted, by hypothesis neither; how many examples is the default of 100.
settings.register_profile("fedstrata", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fedstrata")

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep caches and runs of a test away from those of the user."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("FEDSTRATA_HOME", str(home))
    return home


@pytest.fixture(autouse=True, scope="session")
def simulated() -> Iterator[None]:
    """Let the app be in a simulation here, where no Ray started it: tests/loopback.py stands in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("client_app.node_config.in_simulation", lambda: True)
        yield


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: sums have the same order everywhere."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def shared_file(name: str) -> Path:
    """Return a file of real data: of ``$FEDSTRATA_DATA``, or kept beside the repository; or skip."""
    path = Path(os.environ.get("FEDSTRATA_DATA") or BESIDE) / name
    if not path.exists():
        pytest.skip(f"there is no {name} in the folder that FEDSTRATA_DATA names")
    return path
