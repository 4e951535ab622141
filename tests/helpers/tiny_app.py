"""A tiny app that misbehaves as its plan says, and a guard's work with it."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.common.typing import Fab, Run

from fedstrata.protocol import answers, kinds, orders
from fedstrata.protocol.answers import RoundReport
from site_guard.appio import Work
from site_guard.guard import Guard
from site_guard.settings import SiteSettings

METRICS = {
    split: {"examples": 2.0, "loss": 0.5, "accuracy": 0.5, "balanced_accuracy": 0.5, "auroc": None}
    for split in answers.MEASURED
}
# An app that does what its plan says; not ours, so that it can misbehave.
APP = """
import json, os, socket, struct, subprocess, sys, time
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()
seen = 0

@app.train()
@app.evaluate()
def evaluate(message, context):
    global seen
    seen += 1
    wanted = message.content["plan"]["json"]
    if wanted == "raise":
        raise ValueError("Jane Doe")
    if wanted == "die":
        os._exit(3)
    if wanted == "sleep":
        time.sleep(60)
    pipe = int(sys.argv[1])
    layers = {}
    if wanted.startswith("{"):
        head = json.dumps(json.loads(wanted)["head"]).encode()
        data = struct.pack("<Q", len(head)) + head + bytes(json.loads(wanted)["size"])
        layers["common"] = Array("uint8", (len(data),), "safetensors", data)
    if wanted == "half":
        os.write(pipe, bytes(2))
        time.sleep(60)
    if wanted == "no answer":
        os.write(pipe, struct.pack("!i", 5) + b"hello")
    if wanted == "large":
        os.write(pipe, struct.pack("!i", 1 << 30))
    if wanted == "leave one":
        print("left", subprocess.Popen(["sleep", "600"], pass_fds=[pipe]).pid, file=sys.stderr)
        sys.stderr.flush()
        os._exit(3)
    error = "the words of the app" if wanted == "tell" else ""
    if wanted == "connect":
        try:
            socket.create_connection(("127.0.0.1", 9), timeout=5)
        except PermissionError:
            error = "no network"
    if wanted == "other round":
        message.content["order"]["round"] = 77
    report = {
        "site": context.node_config["site"], "round": message.content["order"]["round"],
        "examples": 24, "steps": 0, "planned": 0, "loss": float(seen), "seconds": float(os.getpid()),
        "metrics": METRICS, "error": error, "later": False,
        "numerics": {"threads": 5},
    }
    content = RecordDict({
        "report": ConfigRecord({"json": json.dumps(report)}), "layers": ArrayRecord(layers),
    })
    return Message(content, reply_to=message)
"""
PYPROJECT = """
[project]
name = "tiny"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "somebody"
[tool.flwr.app.components]
serverapp = "app:app"
clientapp = "app:app"
"""
OUTSIDE = "1/../../../../1"  # a version that makes a path out of the bundle's own folder


@dataclass
class Pushed(Work):
    """Work whose answer is kept, instead of going to a SuperNode."""

    answers: list[Message] = field(default_factory=list)

    def push(self, answer: Message) -> None:
        self.answers.append(answer)


def bundle(folder: Path, remark: str = "") -> bytes:
    folder.mkdir(parents=True)
    code = f"# {remark}\nMETRICS = {METRICS!r}\n{APP}"
    (folder / "app.py").write_text(code)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    return build_fab_from_disk(folder)


def settings(folder: Path, **entries: Any) -> SiteSettings:
    names: dict[str, Any] = {"site": "a", "task": "gender", "share": ("common",)}
    places = {"state": str(folder / "state"), "cache": str(folder / "cache")}
    return SiteSettings(**(names | places | entries))


def asked(
    content: bytes,
    plan: str = "",
    *,
    kind: str = kinds.EVALUATE,
    ttl: float = 120.0,
    run_config: dict[str, Any] | None = None,
    **more: Any,
) -> Pushed:
    """Return an order with the app bundle ``content``, whose plan says how the app behaves."""
    message = orders.order(kind, 7, plan=plan, round_number=3, layers={}, ttl=120.0)
    message.metadata.ttl = ttl
    context = Context(1, 7, {"site": "somebody else"}, RecordDict(), run_config or {})
    run = Run.create_empty(run_id=1)
    run.fab_id, run.fab_version = "somebody/tiny", "1.0.0"
    return Pushed(None, message, context, run, Fab("", content, {}), **more)  # type: ignore[arg-type]


def ask(guard: Guard, content: bytes, plan: str = "", **more: Any) -> RoundReport:
    """Let the guard handle an order; return the report that leaves."""
    work = asked(content, plan, **more)
    guard.handle(work)
    (answer,) = work.answers
    assert work.context.node_config == {"site": "somebody else"}
    return answers.read_round_report(answer)


def ask_for_layers(guard: Guard, content: bytes, size: int, *, answered: int) -> Message:
    """Order an update of ``size`` bytes as a difference to what the site holds; the order has none."""
    described = {"body": f"float32[{size // 4}]"}
    head = {"body": {"dtype": "F32", "shape": [answered // 4], "data_offsets": [0, answered]}}
    work = asked(content, json.dumps({"head": head, "size": answered}), kind=kinds.TRAIN)
    coded = {"common": orders.CodedGroup("a" * 64, "a" * 64, 0, described)}
    plan = work.message.content["plan"]["json"]
    work.message = orders.order(
        kinds.TRAIN, 7, plan=plan, round_number=3, layers={}, ttl=120.0, coded=coded
    )
    guard.handle(work)
    (answer,) = work.answers
    return answer


def kill(guard: Guard) -> None:
    """Kill the app's process, and wait until it is dead."""
    process, before = guard.process.process_id, time.monotonic()
    assert process is not None
    os.kill(process, signal.SIGKILL)
    while guard.process.process_id is not None:
        assert time.monotonic() - before < 60
        time.sleep(0.01)
