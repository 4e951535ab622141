"""The site's end of the pipe: it reads what the other end writes, and waits for nothing for ever."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest

from site_guard import pipe
from site_guard.pipe import Pipe, TooLong


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Pipe, Connection]]:
    monkeypatch.setattr(pipe, "STEP", 0.01)
    ours, theirs = socket.socketpair()
    near, far = Pipe(ours), Connection(theirs.detach())
    yield near, far
    near.close()
    if not far.closed:
        far.close()


def wait_on() -> None:
    """Never give up."""


class GivenUp(Exception):
    pass


def give_up() -> None:
    raise GivenUp


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_both_ends_understand_each_other(ends: tuple[Pipe, Connection], size: int) -> None:
    near, far = ends
    sent, got = bytes(size), list[bytes]()
    thread = threading.Thread(target=lambda: got.append(far.recv_bytes()))
    thread.start()
    near.send(sent, wait_on)
    thread.join()
    assert got == [sent]
    thread = threading.Thread(target=far.send_bytes, args=(sent,))
    thread.start()
    assert near.receive(size, wait_on) == sent
    thread.join()


def test_more_than_was_agreed_is_refused_before_it_is_read(ends: tuple[Pipe, Connection]) -> None:
    near, far = ends
    far.send_bytes(bytes(101))
    with pytest.raises(TooLong, match="more than 100 bytes"):
        near.receive(100, wait_on)


@pytest.mark.parametrize("length", [-1, 1 << 30])
def test_a_length_that_is_none_is_refused(ends: tuple[Pipe, Connection], length: int) -> None:
    near, far = ends
    os.write(far.fileno(), struct.pack("!i", length))
    with pytest.raises(TooLong):
        near.receive(100, wait_on)


def test_an_end_that_is_gone_is_noticed(ends: tuple[Pipe, Connection]) -> None:
    near, far = ends
    far.close()
    with pytest.raises(EOFError):
        near.receive(100, wait_on)
    with pytest.raises(OSError, match="pipe"):
        near.send(bytes(10), wait_on)


def test_waiting_can_be_given_up(ends: tuple[Pipe, Connection]) -> None:
    near, _ = ends
    with pytest.raises(GivenUp):
        near.receive(100, give_up)
    looks = iter([wait_on, wait_on, give_up])
    with pytest.raises(GivenUp):  # nobody reads, and the pipe is full before all is sent
        near.send(bytes(50_000_000), lambda: next(looks, give_up)())
