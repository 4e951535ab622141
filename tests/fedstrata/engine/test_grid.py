"""Flower's grid as our engine has it."""

from __future__ import annotations

from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID

from fedstrata.engine.grid import RUN_ID, LocalGrid


class Noted:
    """Workers that note orders, and never answer."""

    def __init__(self) -> None:
        self.orders: list[Message] = []
        self.waited = 0.0

    def order(self, message: Message) -> None:
        self.orders.append(message)

    def answers(self, ids: object) -> list[Message]:
        return []

    def wait(self, seen: int, seconds: float) -> int:
        self.waited += seconds
        return seen


def test_an_order_is_addressed_as_flowers_grids_do(monkeypatch: Any) -> None:
    workers = Noted()
    grid = LocalGrid(workers, 2)  # type: ignore[arg-type]
    content = RecordDict({"config": ConfigRecord({"round": 1})})
    message = grid.create_message(content, "train", 2, "1", ttl=60.0)
    (sent,) = grid.push_messages([message])
    (order,) = workers.orders
    known = order.metadata
    assert (known.run_id, known.src_node_id, known.dst_node_id) == (RUN_ID, SUPERLINK_NODE_ID, 2)
    assert known.message_id == sent
    assert grid.run.run_id == RUN_ID
    assert list(grid.get_node_ids()) == [1, 2]


def test_nobody_waits_longer_than_asked() -> None:
    grid = LocalGrid(Noted(), 1)  # type: ignore[arg-type]
    message = Message(RecordDict(), 1, "query")
    assert list(grid.send_and_receive([message], timeout=0.05)) == []
