"""Values between two ends of a connection, large bytes in a file of a shared folder."""

from __future__ import annotations

import threading
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict

from fedstrata.engine.channel import LARGE, Channel
from tests.helpers.file_limits import largest_file


def ends(shared: Path) -> tuple[Channel, Channel]:
    one, other = Pipe()
    return Channel(one, shared), Channel(other, shared)


def order() -> Message:
    """Return a message with a small tensor between two large ones."""
    sizes = (LARGE, 8, LARGE // 8 + 1)
    arrays = {f"t{n}": Array(np.arange(float(size))) for n, size in enumerate(sizes)}
    return Message(RecordDict({"state": ArrayRecord(arrays)}), 1, "train")


def same(one: Message, other: Message) -> bool:
    mine, theirs = (each.content.array_records["state"] for each in (one, other))
    return [(n, a.data) for n, a in mine.items()] == [(n, a.data) for n, a in theirs.items()]


def test_large_tensors_go_through_a_file_that_is_gone_after_reading(tmp_path: Path) -> None:
    one, other = ends(tmp_path)
    sent = order()
    one.send(sent)
    (file,) = tmp_path.iterdir()
    arrays = sent.content.array_records["state"].values()
    assert file.stat().st_size == sum(len(a.data) for a in arrays if len(a.data) >= LARGE)
    assert same(other.recv(), sent)
    assert list(tmp_path.iterdir()) == []


def test_what_is_small_leaves_no_file(tmp_path: Path) -> None:
    one, other = ends(tmp_path)
    one.send(7)
    assert list(tmp_path.iterdir()) == []
    assert other.recv() == 7


def test_without_room_everything_goes_through_the_socket(tmp_path: Path) -> None:
    one, other = ends(tmp_path)
    sent, got = order(), list[Message]()
    reader = threading.Thread(target=lambda: got.append(other.recv()))
    reader.start()  # a pipe holds less than the message
    with largest_file(LARGE):
        one.send(sent)
    reader.join(10)
    assert list(tmp_path.iterdir()) == []
    assert same(got[0], sent)


def test_nothing_is_left_of_what_the_other_end_never_read(tmp_path: Path) -> None:
    one, other = ends(tmp_path)
    with one:
        one.send(order())
        assert len(list(tmp_path.iterdir())) == 1
        with other:  # and it ends without a look
            pass
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_what_could_not_be_sent(tmp_path: Path) -> None:
    one, other = ends(tmp_path)
    with other:
        pass
    with pytest.raises(OSError, match="pipe"):
        one.send(order())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises((EOFError, OSError)):
        one.recv()
