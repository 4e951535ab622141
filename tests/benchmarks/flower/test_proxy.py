"""A line that is cut stays cut."""

from __future__ import annotations

import socket

import pytest

from benchmarks.flower.proxy import Proxy

PATIENCE = 60  # seconds


def test_a_connection_that_comes_about_while_the_line_is_cut_is_broken_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connect = socket.create_connection
    with socket.create_server(("127.0.0.1", 0)) as server, Proxy(server.getsockname()[1]) as proxy:
        server.settimeout(PATIENCE)

        def cut_before(address: tuple[str, int], timeout: float) -> socket.socket:
            proxy.cut()
            return connect(address, timeout)

        monkeypatch.setattr(socket, "create_connection", cut_before)
        with connect(("127.0.0.1", proxy.port), PATIENCE) as near:
            far, _ = server.accept()
            with far:
                assert near.recv(1) == b""
        monkeypatch.undo()
        proxy.mend()
        with connect(("127.0.0.1", proxy.port), PATIENCE) as near:
            far, _ = server.accept()
            with far:
                near.sendall(b"x")
                assert far.recv(1) == b"x"
