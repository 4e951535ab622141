"""A tiny app that misbehaves as its plan says, and a guard's work with it."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.common.typing import Fab, Run

from fedstrata.protocol import answers, kinds, orders
from fedstrata.protocol.answers import RoundReport
from site_guard.appio import Work
from site_guard.confinement import Confinement
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
@app.train("cross")
@app.evaluate()
def evaluate(message, context):
    global seen
    seen += 1
    wanted = json.loads(message.content["plan"]["json"])["method"]["wanted"]
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
    if wanted == "daemon":
        reader, writer = os.pipe()
        if not os.fork():
            os.setsid()
            if not os.fork():
                print("daemon", os.getpid())
                os.write(writer, b"!")
                time.sleep(600)
            os._exit(0)
        os.read(reader, 1)
    if wanted == "flood":
        print("flood\\n" * 100_000)
    if wanted.startswith("print "):
        print(wanted.removeprefix("print "))
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
        "examples": 24, "steps": 3 * bool(layers),
        "planned": 3 * bool(layers), "loss": float(seen), "seconds": float(os.getpid()),
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
PLAN: dict[str, Any] = {
    "federation": "march-1234",
    "seed": 1,
    "rounds": 8,
    "fraction": 1.0,
    "coding": {},
    "coding_down": {},
    "model": {"name": "small_cnn", "head": [], "dropout": 0.0},
    "weights": "",
    "data": {"name": "faces"},
    "groups": {"pretrained": [], "common": ["..."], "task": [], "personal": []},
    "train": {
        "epochs": 1,
        "steps": None,
        "batch_size": 8,
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0},
        "clip": 5.0,
        "augment": "none",
        "schedule": "constant",
        "class_weights": "none",
        "cache_features": True,
        "feature_dtype": "float16",
        "precision": "auto",
        "threads": None,
        "compile": False,
        "evaluation_batch_size": 256,
    },
    "tuning": {"epochs": 0, "groups": [], "lr_factor": 1.0},
    "cohort": {"sites": 1, "batched": True},
}
MOST_WANTED = 10_000  # characters
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


def confinement(folder: Path, **entries: Any) -> Confinement:
    """Return what an app's process needs at least, with its folders in ``folder``."""
    places = {"temporary": folder / "tmp", "bundles": folder / "bundles"}
    return Confinement(**(places | {"write": (folder / "bundles",)} | entries))


def settings(folder: Path, **entries: Any) -> SiteSettings:
    names: dict[str, Any] = {"site": "a", "task": "gender", "share": ("common",)}
    places = {"state": str(folder / "state"), "cache": str(folder / "cache")}
    return SiteSettings(**(names | places | entries))


def planned(wanted: str = "", **changes: Any) -> str:
    """Return a plan that every site accepts by default; the tiny app does what is ``wanted``."""
    made = {**PLAN, "method": {"name": "layers", "wanted": wanted}, **changes}
    return json.dumps(made)


def asked(
    content: bytes,
    plan: str = "",
    *,
    kind: str = kinds.EVALUATE,
    ttl: float = 120.0,
    run_config: dict[str, Any] | None = None,
    plan_json: str = "",
    **more: Any,
) -> Pushed:
    """Return an order with the app bundle ``content``, whose plan says how the app behaves."""
    made = plan_json or planned("" if len(plan) > MOST_WANTED else plan)
    message = orders.order(kind, 7, plan=made, round_number=3, layers={}, ttl=120.0)
    if len(plan) > MOST_WANTED:  # no plan is so long: it makes the order long
        message.content["padding"] = ConfigRecord({"text": plan})
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
