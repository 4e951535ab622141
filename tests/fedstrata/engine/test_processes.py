"""What a process of a simulation does with an order, and with what goes wrong."""

from __future__ import annotations

import os
import signal
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode

from client_app import app as client
from fedstrata.engine import processes
from fedstrata.engine.processes import Simulation, _answered


@pytest.fixture
def simulation(tmp_path: Path) -> Simulation:
    config = {"experiment": "faces", "overrides": ""}
    return Simulation(tmp_path, tmp_path, tmp_path / "log", config, nodes=3, workers=1)


def asked(simulation: Simulation) -> Message:
    return _answered(Message(RecordDict(), 2, "query"), simulation)


def test_a_node_is_a_partition_as_in_flowers_simulation(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def app(message: Message, context: Any) -> Message:
        seen.append(context)
        return Message(RecordDict(), reply_to=message)

    monkeypatch.setattr(client, "app", app)
    assert not asked(simulation).has_error()
    (context,) = seen
    assert context.node_config == {"partition-id": 1, "num-partitions": 3}
    assert context.run_config == simulation.run_config


def test_an_app_that_fails_answers_with_its_error(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def app(message: Message, context: Any) -> Message:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(client, "app", app)
    answer = asked(simulation)
    assert answer.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert answer.error.reason == "RuntimeError: no such thing"


def test_a_process_whose_command_was_killed_removes_the_folders_and_ends(
    simulation: Simulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, of_command = socket.socketpair()
    folders = [tmp_path / "sockets", tmp_path / "memory"]
    for folder in folders:
        folder.mkdir()
        (folder / "file").write_bytes(b"x")
    ended: list[tuple[int, int]] = []
    monkeypatch.setattr(processes, "parent_process", lambda: SimpleNamespace(sentinel=mine))
    monkeypatch.setattr(processes.os, "kill", lambda *what: ended.append(what))
    of_command.close()
    processes._end_with_parent(replace(simulation, folder=folders[0], shared=folders[1]))
    assert not any(folder.exists() for folder in folders)
    assert ended == [(os.getpid(), signal.SIGTERM)]
    mine.close()


def test_the_socket_and_what_is_said_lie_in_the_folder(simulation: Simulation) -> None:
    assert {simulation.address.parent, simulation.said.parent} == {simulation.folder}
