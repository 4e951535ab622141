"""Orders to worker processes and their answers, with threads in the place of the processes."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Client
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode

from fedstrata.engine.channel import Channel
from fedstrata.engine.grid import LocalGrid
from fedstrata.engine.workers import Workers


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="w-") as made:  # a socket's path is short
        yield Path(made)


def order(node: int) -> Message:
    return Message(RecordDict({"config": ConfigRecord({"node": node})}), node, "query")


def answered(message: Message) -> Message:
    return Message(message.content, reply_to=message)


def connected(folder: Path, number: int) -> Channel:
    worker = Channel(Client(str(folder / "socket"), family="AF_UNIX"), folder)
    worker.send(number)
    return worker


def nodes_of(answers: list[Message]) -> list[int]:
    return [int(str(each.content.config_records["config"]["node"])) for each in answers]


def play(worker: Channel, seen: list[int]) -> None:
    """Answer every order until there are no more."""
    with suppress(EOFError):
        while True:
            message = worker.recv()
            seen.append(message.metadata.dst_node_id)
            worker.send(answered(message))


def test_a_node_has_its_worker_and_an_idle_one_helps(folder: Path) -> None:
    workers = Workers(folder / "socket", 2, folder)
    grid = LocalGrid(workers, 6)
    seen: list[int] = []
    ids = list(grid.push_messages([order(node) for node in grid.get_node_ids()]))
    helper = threading.Thread(target=play, args=(connected(folder, 1), seen))
    helper.start()  # alone, it does everything; its own nodes first
    answers: list[Message] = []
    while len(answers) < 6:
        grid.wait(1.0)
        answers += grid.pull_messages(ids)
    assert sorted(nodes_of(answers)) == [1, 2, 3, 4, 5, 6]
    assert seen[:3] == [1, 3, 5]
    assert {each.metadata.reply_to_message_id for each in answers} == set(ids)
    assert list(grid.pull_messages(ids)) == []
    workers.close()
    helper.join(10)
    assert not helper.is_alive()


def test_an_order_that_a_dead_worker_had_is_lost_and_the_next_one_is_not(folder: Path) -> None:
    workers = Workers(folder / "socket", 1, folder)
    grid = LocalGrid(workers, 1)
    dying = connected(folder, 0)
    ids = list(grid.push_messages([order(1)]))
    dying.recv()
    dying.__exit__()
    (lost,) = grid.send_and_receive([], timeout=0) or wait_for(grid, ids)
    assert lost.error.code == ErrorCode.NODE_UNAVAILABLE
    seen: list[int] = []
    thread = threading.Thread(target=play, args=(connected(folder, 0), seen))
    thread.start()
    (answer,) = grid.send_and_receive([order(1)], timeout=10)
    assert nodes_of([answer]) == [1]
    workers.close()
    thread.join(10)


def wait_for(grid: LocalGrid, ids: list[str]) -> list[Message]:
    found: list[Message] = []
    while not found:
        grid.wait(1.0)
        found = list(grid.pull_messages(ids))
    return found


def test_an_order_that_never_reached_a_worker_goes_to_the_next(folder: Path) -> None:
    workers = Workers(folder / "socket", 1, folder)
    grid = LocalGrid(workers, 1)
    first = connected(folder, 0)
    assert wait_until(lambda: bool(workers._idle))
    first.__exit__()
    ids = list(grid.push_messages([order(1)]))
    thread = threading.Thread(target=play, args=(connected(folder, 0), []))
    thread.start()
    assert nodes_of(wait_for(grid, ids)) == [1]
    workers.close()
    thread.join(10)


def test_one_that_has_nothing_to_do_leaves_an_idle_one_its_orders(folder: Path) -> None:
    workers = Workers(folder / "socket", 2, folder)
    grid = LocalGrid(workers, 4)
    seen: list[list[int]] = [[], []]
    threads = [
        threading.Thread(target=play, args=(connected(folder, n), seen[n])) for n in range(2)
    ]
    for thread in threads:
        thread.start()
    assert wait_until(lambda: len(workers._idle) == 2)
    for _ in range(10):
        assert len(grid.send_and_receive([order(2)], timeout=10)) == 1
    assert seen == [[2] * 10, []]
    workers.close()
    for thread in threads:
        thread.join(10)


def test_an_idle_worker_takes_the_last_order_of_one_that_is_busy(folder: Path) -> None:
    workers = Workers(folder / "socket", 2, folder)
    grid = LocalGrid(workers, 4)
    busy, seen = connected(folder, 0), list[int]()
    helper = threading.Thread(target=play, args=(connected(folder, 1), seen))
    helper.start()
    assert wait_until(lambda: len(workers._idle) == 2)
    grid.push_messages([order(2), order(4)])
    assert busy.recv().metadata.dst_node_id == 2  # and answers it never
    assert wait_until(lambda: seen == [4])
    workers.close()
    helper.join(10)


def test_an_order_whose_time_is_over_is_not_worked_on(folder: Path) -> None:
    workers = Workers(folder / "socket", 1, folder)
    grid = LocalGrid(workers, 2)
    late = order(1)
    late.metadata.ttl = 0.0
    grid.push_messages([late, order(2)])
    assert connected(folder, 0).recv().metadata.dst_node_id == 2
    workers.close()


def test_an_answer_for_which_nobody_waits_any_more_is_forgotten(folder: Path) -> None:
    workers = Workers(folder / "socket", 1, folder)
    grid = LocalGrid(workers, 1)
    worker = connected(folder, 0)
    ids = [*grid.push_messages([order(1)]), *grid.push_messages([order(1)])]
    answer = answered(worker.recv())
    answer.metadata.ttl = 0.0
    worker.send(answer)
    worker.send(answered(worker.recv()))
    assert wait_until(lambda: workers._arrived == 2)
    assert [each.metadata.reply_to_message_id for each in grid.pull_messages(ids)] == ids[1:]
    workers.close()


def test_an_answer_that_cannot_be_read_is_lost_and_said(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workers = Workers(folder / "socket", 1, folder)
    grid = LocalGrid(workers, 1)
    worker = connected(folder, 0)
    ids = list(grid.push_messages([order(1)]))
    worker.recv()
    worker._connection.send_bytes(b"")
    worker._connection.send_bytes(b"no pickle")
    (lost,) = wait_for(grid, ids)
    assert "cannot be taken over (UnpicklingError)" in lost.error.reason
    assert "UnpicklingError" in caplog.text
    workers.close()


def test_at_the_end_the_connection_of_a_worker_is_closed(folder: Path) -> None:
    workers = Workers(folder / "socket", 1, folder)
    worker = connected(folder, 0)
    assert wait_until(lambda: bool(workers._idle))
    workers.close()
    with pytest.raises(EOFError):
        worker.recv()


def wait_until(true: Callable[[], bool]) -> bool:
    """Wait until something is so, at most ten seconds; return whether it is."""
    ends = time.monotonic() + 10
    while not true() and time.monotonic() < ends:
        time.sleep(0.01)
    return true()
