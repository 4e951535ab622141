"""What a run does before its rounds: imports while sites answer, and asks the chosen ones alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from flwr.serverapp import Grid
from flwr.superlink.grid.grpc_grid import GrpcGrid

from fedstrata.support.errors import UserError
from server_app import app
from server_app.compose import RunConfig
from server_app.sites.allowed_keys import AllowedSite, AllowedSites
from tests.helpers.runs import PLAIN, grid_of
from tests.loopback import LoopbackGrid, simulate


@pytest.mark.parametrize(
    ("grid", "imported"),
    [(lambda: GrpcGrid.__new__(GrpcGrid), [{"resnet18"}]), (lambda: LoopbackGrid([]), [])],
    ids=["deployment", "simulation"],
)
def test_a_deployments_server_imports_while_it_asks(
    grid: Callable[[], Grid],
    imported: list[set[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[set[str]] = []
    ahead = threading.Event()

    def note(models: set[str]) -> None:
        done.append(models)
        ahead.set()

    def ask(*_: object, **__: object) -> None:
        assert ahead.wait(30 if imported else 0) is bool(imported)
        raise UserError("asked")

    monkeypatch.setattr(app, "_import_ahead", note)
    monkeypatch.setattr(app, "gather", ask)
    with pytest.raises(UserError, match="asked"):
        app.run(grid(), RunConfig("faces_paper", (), tmp_path, ""))
    assert done == imported


@pytest.mark.parametrize("deployed", [True, False])
def test_a_deployment_says_at_once_that_nothing_is_trained_in_one_place(
    deployed: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grid = GrpcGrid.__new__(GrpcGrid) if deployed else LoopbackGrid({})
    caplog.set_level("INFO", "flwr")
    for pooled in ("true", "false"):
        app._composed(grid, RunConfig("faces", (f"baselines.pooled={pooled}",), tmp_path, ""))
    assert caplog.text.count("training in one place is left out") == deployed


@pytest.mark.parametrize("deployed", [True, False])
def test_the_server_of_a_deployment_keeps_freed_memory(
    deployed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[bool] = []
    monkeypatch.setattr(app, "keep_freed_memory", lambda: kept.append(True))
    for name in ("warn_of_other_owner", "read_run_config", "run_all"):
        monkeypatch.setattr(app, name, lambda *_: None)
    grid = GrpcGrid.__new__(GrpcGrid) if deployed else LoopbackGrid({})
    app.main(grid, SimpleNamespace(run_config={}))  # type: ignore[arg-type]
    assert bool(kept) is deployed


def roster_of(sites: int) -> AllowedSites:
    tasks = ("gender", "pose")
    return AllowedSites(
        AllowedSite(f"site-{i:02d}", tasks[i % 2], 100 + i, "SHA256:x") for i in range(sites)
    )


def test_nobody_but_the_chosen_sites_is_sent_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "find_roster", lambda: roster_of(4))
    chosen = [*PLAIN, "strategy.sites=[site-00,site-03]"]
    results, grid = simulate(tmp_path, "faces", chosen, sites=4)
    assert sorted(results["final"]["sites"]) == ["site-00", "site-03"]
    assert {message.metadata.dst_node_id for message in grid.sent} == {100, 103}
    assert results["rounds"][0]["absent"] == {}


@pytest.mark.parametrize(
    ("roster", "overrides", "words"),
    [
        (
            roster_of(2),
            "strategy.sites=[site-07]",
            "strategy.sites names 'site-07', and the roster",
        ),
        (None, "strategy.sites=[site-00]", "strategy.sites needs the server's roster"),
        (roster_of(2), "strategy.sites=[site-00,site-00]", "names a site twice"),
        (roster_of(2), "strategy.sites=[site-00] strategy.min_sites=2", "strategy.min_sites=2"),
        (
            roster_of(2),
            "strategy.sites=[site-00] deployment.epochs=1 deployment.newcomers=[site-01]",
            "deployment.newcomers names site-01, which strategy.sites leaves out",
        ),
    ],
)
def test_sites_that_cannot_be_chosen_are_an_error_before_anybody_is_asked(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    roster: AllowedSites | None,
    overrides: str,
    words: str,
) -> None:
    monkeypatch.setattr(app, "find_roster", lambda: roster)
    grid = grid_of(tmp_path)
    with pytest.raises(UserError) as error:
        simulate(tmp_path, "faces", [*PLAIN, *overrides.split()], grid=grid)
    assert words in str(error.value)
    assert grid.sent == []
