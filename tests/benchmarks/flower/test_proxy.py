"""A line that is cut stays cut, and a meter counts every byte."""

from __future__ import annotations

import socket
import time

import pytest

from benchmarks.flower.proxy import DOWN, UP, Meter, Proxy

PATIENCE = 60  # seconds


def test_a_connection_that_is_made_while_the_line_is_cut_is_broken_too(
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
        proxy.restore()
        with connect(("127.0.0.1", proxy.port), PATIENCE) as near:
            far, _ = server.accept()
            with far:
                near.sendall(b"x")
                assert far.recv(1) == b"x"


def test_every_byte_of_a_connection_is_counted_with_its_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, Meter(server.getsockname()[1]) as meter:
        server.settimeout(PATIENCE)
        before = time.time()
        with socket.create_connection(("127.0.0.1", meter.port), PATIENCE) as near:
            far, _ = server.accept()
            with far:
                near.sendall(b"x" * 1000)
                taken = 0
                while taken < 1000:
                    taken += len(far.recv(1000))
                far.sendall(b"yy")
                assert near.recv(1) == b"y"
        after = time.time()
    assert meter.between(before, after, UP) == 1000
    assert meter.between(before, after, DOWN) == 2
    assert meter.between(after, after + 1, UP) == 0
