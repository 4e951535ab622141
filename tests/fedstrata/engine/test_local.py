"""Processes of a simulation: how many, on which devices, and what happens when one ends."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedstrata.engine import local
from fedstrata.engine.local import COMPLETED, FAILED, RUNNING, LocalEngine, worker_count
from fedstrata.support.errors import UserError


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "devices", "expected"),
    [
        (10, 1, 0.0, 0, 8),
        (3, 1, 0.0, 0, 3),
        (10, 2, 0.0, 0, 4),
        (10, 16, 0.0, 0, 1),
        (10, 1, 0.5, 2, 4),
        (10, 1, 1.0, 1, 1),
        (10, 1, 0.7, 2, 2),
        (10, 1, 0.4, 3, 6),
    ],
)
def test_there_are_as_many_workers_as_have_room(
    nodes: int,
    cpus: int,
    gpus: float,
    devices: int,
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local, "cores", lambda: 8)
    assert worker_count(nodes, cpus, gpus, devices) == expected


def test_workers_share_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert [LocalEngine(1, 0.5)._devices_of(n) for n in range(4)] == ["4", "4", "7", "7"]
    assert [LocalEngine(1, 0.7)._devices_of(n) for n in range(2)] == ["4", "7"]
    assert LocalEngine(1)._devices_of(0) == ""


@pytest.mark.parametrize(
    ("gpus", "visible", "message"),
    [
        (0.5, "", "has no CUDA device"),
        (2.0, "0,1", "a share of one GPU"),
        (-1, "0", "a share"),
        (float("nan"), "0", "a share"),
    ],
)
def test_gpus_that_cannot_be_had_are_said(
    gpus: float, visible: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(UserError, match=message):
        LocalEngine(1, gpus)


def test_a_folder_in_which_no_socket_can_be_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError("AF_UNIX path too long")

    monkeypatch.setattr(local.forkserver, "ensure_running", refuse)
    with pytest.raises(UserError, match=r"path too long.*: set TMPDIR to another"), LocalEngine():
        pass


class Processes:
    """Stands for multiprocessing's context: processes that a test ends."""

    def __init__(self) -> None:
        self.made: list[Any] = []

    def Process(self, target: Any, args: Any) -> Any:
        process = SimpleNamespace(target=target, args=args, exitcode=None, ended="")
        process.start = lambda: None
        process.terminate = lambda: setattr(process, "exitcode", process.exitcode or -15)
        process.join = lambda *_: None
        self.made.append(process)
        return process


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[LocalEngine, Processes]:
    monkeypatch.setattr(local, "cores", lambda: 2)
    engine, processes = LocalEngine(), Processes()
    engine.folder = engine._shared = tmp_path
    engine._context = processes  # type: ignore[assignment]
    engine.start({"experiment": "har"}, 4, tmp_path / "log")
    return engine, processes


def test_a_worker_that_ends_is_replaced_and_writes_where_the_log_is_now(
    started: tuple[LocalEngine, Processes], tmp_path: Path
) -> None:
    engine, processes = started
    _server, first, second = processes.made
    engine._workers[1]._begun -= 60  # it has worked for a while
    second.exitcode = -9
    (tmp_path / "logs").mkdir()
    engine.write_to(tmp_path / "logs" / "log")
    assert engine.status() == RUNNING
    said = (tmp_path / "logs" / "log").read_text()
    assert said == "a worker process ended with exit code -9\n"
    replaced = processes.made[-1]
    assert replaced.args[1:] == second.args[1:]
    assert replaced.args[0].log == tmp_path / "logs" / "log"
    assert first.exitcode is None


def test_workers_that_never_begin_end_the_run(started: tuple[LocalEngine, Processes]) -> None:
    engine, processes = started
    seen = []
    for _ in range(4):
        processes.made[-1].exitcode = 1
        seen.append(engine.status())
    assert seen == [RUNNING, RUNNING, FAILED, FAILED]


@pytest.mark.parametrize(("code", "status"), [(0, COMPLETED), (1, FAILED), (-9, FAILED)])
def test_the_run_has_ended_as_its_server_has(
    code: int, status: str, started: tuple[LocalEngine, Processes]
) -> None:
    engine, processes = started
    processes.made[0].exitcode = code
    assert engine.status() == status
    engine.close()
    assert all(each.exitcode is not None for each in processes.made)
    assert not engine.folder.exists()
