"""The process that runs the app's code: messages come in and answers go out over one pipe.

Nothing of this project but this package is imported here before the app: what the app imports
under our other packages' names must be the bundle's own. Flower's own functions load and call it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from .no_network import take_network


def main() -> None:
    """Serve messages, without a network, until the other end is gone."""
    kept = take_network()
    from flwr.common.logger import log
    from flwr.supercore.app_utils import start_parent_process_monitor

    if kept:
        log(40, "the app's process KEEPS THE NETWORK and can reach what this machine can: %s", kept)
    start_parent_process_monitor(os.getppid())
    pipe = Connection(int(sys.argv[1]))
    _preload()
    with contextlib.suppress(EOFError, ConnectionResetError):
        while True:
            _serve(pipe)


def _preload() -> None:
    """Import what takes seconds, before there is a message that would wait for it."""
    import torch
    import torchvision  # noqa: F401

    share = float(os.environ.get("FEDSTRATA_GPU_MEMORY", "1"))
    if share < 1 and torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            torch.cuda.set_per_process_memory_fraction(share, number)


def _serve(pipe: Connection) -> None:
    from flwr.app.message import make_message
    from flwr.common.logger import log
    from flwr.common.serde import context_from_proto, context_to_proto
    from flwr.common.serde_utils import metadata_from_proto
    from flwr.proto.message_pb2 import Context, Message

    from .framing import pack, unpack

    task = msgspec.json.decode(pipe.recv_bytes())
    metadata = metadata_from_proto(Message.FromString(pipe.recv_bytes()).metadata)
    context = context_from_proto(Context.FromString(pipe.recv_bytes()))
    message = make_message(metadata=metadata, content=unpack(pipe.recv_bytes))
    try:
        answer = _load(task)(message=message, context=context)
        content = pack(answer.content)
        kept = context_to_proto(context).SerializeToString()
    except Exception as error:  # whatever the app raises costs its answer, not the process
        log(40, "the app raised an exception", exc_info=error)
        told = f"the app raised {type(error).__name__}: see the site's log"
        pipe.send_bytes(msgspec.json.encode({"error": told}))
        return
    pipe.send_bytes(msgspec.json.encode({"error": ""}))
    for data in (kept, *content):
        pipe.send_bytes(data)


_loaded: dict[str, Any] = {}


def _load(task: dict[str, str]) -> Any:
    from flwr.clientapp.utils import get_load_client_app_fn

    if task["digest"] not in _loaded:
        load = get_load_client_app_fn(default_app_ref="", app_path=task["app"], multi_app=True)
        _loaded[task["digest"]] = load(task["app_id"], task["version"], task["digest"])
    return _loaded[task["digest"]]


if __name__ == "__main__":
    main()
