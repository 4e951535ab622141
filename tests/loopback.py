"""A stand-in for Flower's transport: calls the real ClientApp in this process, message by message.

Named as a stand-in: real processes and sockets are in tests/system. Here it lets tests reach into
messages, drop and change them, and run many rounds in a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid

from client_app.app import app as client_app
from server_app.app import run
from server_app.compose import RunConfig

Tamper = Callable[[Message, Message], Message | None]


@dataclass
class LoopbackGrid(Grid):
    """Nodes by id, with their node configs; answers are made when the message is pushed."""

    nodes: dict[int, dict[str, Any]]
    run_config: Mapping[str, Any] = field(default_factory=dict)
    tamper: Tamper = lambda _, reply: reply
    sent: list[Message] = field(default_factory=list)
    replies: dict[str, Message] = field(default_factory=dict)

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            message_id = str(uuid4())
            message.metadata.__dict__["_message_id"] = message_id
            self.sent.append(message)
            ids.append(message_id)
            node_id = message.metadata.dst_node_id
            if node_id not in self.nodes:
                continue
            context = Context(
                1, node_id, dict(self.nodes[node_id]), RecordDict(), dict(self.run_config)
            )
            reply = self.tamper(message, client_app(message, context))
            if reply is not None:
                self.replies[message_id] = reply
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self.replies.pop(i) for i in list(message_ids) if i in self.replies]

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
        raise NotImplementedError


def failed(message: Message, code: int = 5, reason: str = "gone") -> Message:
    """Return Flower's own error answer to ``message``."""
    return Message(Error(code=code, reason=reason), reply_to=message)


def simulate(
    output_dir: Path,
    experiment: str,
    overrides: Iterable[str] = (),
    *,
    sites: int = 4,
    resume: str = "",
    name: str = "",
    tamper: Tamper = lambda _, reply: reply,
    grid: LoopbackGrid | None = None,
    data_root: str = "",
) -> tuple[dict[str, Any], LoopbackGrid]:
    """Run the real ServerApp over a loopback grid; return results.json and the grid."""
    import json

    grid = grid or LoopbackGrid(
        {100 + i: {"partition-id": i, "num-partitions": sites} for i in range(sites)},
        {"output-dir": str(output_dir), "data-root": data_root},
        tamper,
    )
    before = set(output_dir.glob("*/results.json"))
    run(grid, RunConfig(experiment, tuple(overrides), output_dir, resume, name))
    after = sorted(set(output_dir.glob("*/results.json")) - before) or sorted(before)
    return json.loads(after[-1].read_text()), grid
