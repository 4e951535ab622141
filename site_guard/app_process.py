"""The process that runs the app's code: orders come in and answers go out over one pipe.

Nothing of this project but this package is imported here before the app. Otherwise the app, which
imports our other packages by name, would get the installed ones in place of those in its bundle.
For the same reason the process is a new interpreter, not a fork of the site's own process.

Flower's own functions load and call the app: its insides, tested with Flower 1.31.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

import msgspec


def main() -> None:
    """Answer orders until the other end is gone; `site_guard.launcher` has confined the process."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    pipe = Connection(int(sys.argv[1]))
    _preload()
    with contextlib.suppress(EOFError, ConnectionResetError):
        while True:
            _answer(pipe)


def _end_with(parent: int) -> None:
    """End this process, and what it started in its session, once the site's process is gone."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os.killpg(0, signal.SIGKILL)


def _preload() -> None:
    """Import what takes seconds, before there is a message that would wait for it."""
    import flwr.clientapp.utils  # noqa: F401
    import torch
    import torchvision  # noqa: F401

    from .framing import unpack_order  # noqa: F401

    share = float(os.environ.get("FEDSTRATA_GPU_MEMORY", "1"))
    if share < 1 and torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            torch.cuda.set_per_process_memory_fraction(share, number)


def _answer(pipe: Connection) -> None:
    """Receive one order, let the app answer it, and send the answer."""
    from flwr.common.logger import log

    from .framing import pack_context, pack_records, unpack_order

    task = msgspec.json.decode(pipe.recv_bytes())
    message, context = unpack_order(pipe.recv_bytes)
    try:
        answer = _load(task)(message=message, context=context)
        content = pack_records(answer.content)
        state = pack_context(context)
    except Exception as error:  # whatever the app raises costs its answer, not the process
        log(40, "the app raised an exception", exc_info=error)
        # The text of the error stays here: it may have something of the site's data in it.
        reason = f"the app raised {type(error).__name__}: see the site's log"
        pipe.send_bytes(msgspec.json.encode({"error": reason}))
        return
    pipe.send_bytes(msgspec.json.encode({"error": ""}))
    for data in (state, *content):
        pipe.send_bytes(data)


_loaded: dict[str, Any] = {}


def _load(task: dict[str, str]) -> Any:
    """Return the app of a bundle, which is imported once."""
    from flwr.clientapp.utils import get_load_client_app_fn

    if task["digest"] not in _loaded:
        load = get_load_client_app_fn(default_app_ref="", app_path=task["app"], multi_app=True)
        _loaded[task["digest"]] = load(task["app_id"], task["version"], task["digest"])
    return _loaded[task["digest"]]


if __name__ == "__main__":
    main()
