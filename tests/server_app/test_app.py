"""While sites of a deployment answer, the server imports what it will need; in a simulation not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.serverapp import Grid
from flwr.superlink.grid.grpc_grid import GrpcGrid

from fedstrata.support.errors import UserError
from server_app import app
from server_app.compose import RunConfig
from tests.loopback import LoopbackGrid


@pytest.mark.parametrize(
    ("grid", "imported"),
    [(lambda: GrpcGrid.__new__(GrpcGrid), ["resnet18"]), (lambda: LoopbackGrid([]), [])],
    ids=["deployment", "simulation"],
)
def test_a_deployments_server_imports_while_it_asks(
    grid: Callable[[], Grid], imported: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    ahead = threading.Event()

    def note(model: str) -> None:
        done.append(model)
        ahead.set()

    def ask(*_: object, **__: object) -> None:
        assert ahead.wait(30 if imported else 0) is bool(imported)
        raise UserError("asked")

    monkeypatch.setattr(app, "_import_ahead", note)
    monkeypatch.setattr(app, "gather", ask)
    with pytest.raises(UserError, match="asked"):
        app.run(grid(), RunConfig("faces", (), tmp_path, ""))
    assert done == imported
