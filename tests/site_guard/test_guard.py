"""The site's process around a real app process: crashes, slowness, other bundles, hours, signatures."""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import itertools
import json
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.app import Context, Message, RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.common.typing import Fab, Run

from fedstrata.protocol import answers, kinds, orders
from fedstrata.protocol.answers import RoundReport
from site_guard.answers import AnswerFilter
from site_guard.appio import Work
from site_guard.bundles import MOST_UNPACKED
from site_guard.guard import Guard, make_guard
from site_guard.settings import Bundles, SiteSettings
from site_guard.signatures import sign

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
        "examples": seen, "steps": 0, "planned": 0, "loss": 0.0, "seconds": float(os.getpid()),
        "metrics": METRICS, "error": error, "later": False,
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


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return bundle(tmp_path_factory.mktemp("app") / "app")


def settings(folder: Path, **entries: Any) -> SiteSettings:
    told: dict[str, Any] = {"site": "a", "task": "gender", "share": ("common",)}
    places = {"state": str(folder / "state"), "cache": str(folder / "cache")}
    return SiteSettings(**(told | places | entries))


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guard]:
    made = make_guard(settings(tmp_path_factory.mktemp("site"), threads=1))
    yield made
    made.process.stop()


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


def test_one_process_for_all_messages_under_the_sites_own_name(guard: Guard, tiny: bytes) -> None:
    first, second = ask(guard, tiny), ask(guard, tiny)
    assert (first.site, first.round, first.error) == ("a", 3, "")
    assert second.examples == first.examples + 1  # the module stayed loaded
    assert first.seconds == second.seconds == guard.process.process_id


def test_what_the_app_raises_stays_at_the_site(guard: Guard, tiny: bytes) -> None:
    before = guard.process.process_id
    told = ask(guard, tiny, "raise")
    assert told.error == "the app raised ValueError: see the site's log"
    assert guard.process.process_id == before


def test_a_process_that_dies_is_started_again(guard: Guard, tiny: bytes) -> None:
    told = ask(guard, tiny, "die")
    assert "exit status 3" in told.error
    assert ask(guard, tiny).error == ""
    process = guard.process.process_id
    kill(guard)
    assert ask(guard, tiny).error == ""
    assert guard.process.process_id != process


def test_layers_may_come_that_the_order_did_not_carry(guard: Guard, tiny: bytes) -> None:
    answer = ask_for_layers(guard, tiny, 8_000_000, answered=8_000_000)
    assert answers.read_round_report(answer).error == ""
    assert len(answers.read_payloads(answer)["common"]) > 8_000_000
    told = answers.read_round_report(ask_for_layers(guard, tiny, 8_000_000, answered=9_100_000))
    assert "no answer (more than" in told.error
    told = answers.read_round_report(ask_for_layers(guard, tiny, 8_000_000, answered=8_000_400))
    assert "'body' as" in told.error


def test_the_app_has_no_network(guard: Guard, tiny: bytes) -> None:
    assert ask(guard, tiny, "connect").error == "no network"


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        ("half", "did not answer within"),
        ("no answer", "no answer (DecodeError)"),
        ("large", "no answer (more than 10000 bytes)"),
    ],
)
def test_a_process_out_of_step_is_ended(guard: Guard, tiny: bytes, plan: str, told: str) -> None:
    assert ask(guard, tiny).error == ""
    assert told in ask(guard, tiny, plan, ttl=3.0 if plan == "half" else 60.0).error
    assert guard.process.process_id is None
    assert ask(guard, tiny).error == ""


def test_a_process_that_reads_nothing_holds_nobody_up(guard: Guard, tiny: bytes) -> None:
    assert ask(guard, tiny).error == ""
    process = guard.process.process_id
    assert process is not None
    os.kill(process, signal.SIGSTOP)
    assert "did not answer within" in ask(guard, tiny, "x" * 10_000_000, ttl=2.0).error


def test_what_the_process_started_ends_with_it(
    guard: Guard, tiny: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    before = time.monotonic()
    assert "exit status 3" in ask(guard, tiny, "leave one").error
    assert time.monotonic() - before < 30
    left = re.search(r"left (\d+)", capfd.readouterr().err)
    assert left
    status = Path(f"/proc/{left[1]}/status")
    while status.exists() and "zombie" not in status.read_text():
        assert time.monotonic() - before < 60
        time.sleep(0.1)


def test_the_site_can_end_and_the_supernode_can_give_up(tmp_path: Path, tiny: bytes) -> None:
    touched: list[float] = []
    made = make_guard(settings(tmp_path, threads=1), lambda: touched.append(time.monotonic()))
    try:
        assert ask(made, tiny).error == ""
        assert max(b - a for a, b in itertools.pairwise(touched)) < 5
        threading.Timer(1.0, made.process.stopping.set).start()
        assert "is ending" in ask(made, tiny, "half").error
        made.process.stopping.clear()
        lost = threading.Event()
        threading.Timer(1.0, lost.set).start()
        work = asked(tiny, "half", lost=lost)
        made.handle(work)
        assert not work.answers
        assert "given the task up" in work.failure
    finally:
        made.process.stop()


def test_an_order_that_has_run_out_costs_no_process(guard: Guard, tiny: bytes) -> None:
    assert ask(guard, tiny).error == ""
    before = guard.process.process_id
    assert "is this machine's clock right?" in ask(guard, tiny, ttl=-30.0).error
    assert guard.process.process_id == before


@pytest.mark.parametrize("plan", ["tell", "raise", "other round"])
def test_a_site_that_is_brief_keeps_the_apps_words(
    guard: Guard, tiny: bytes, plan: str, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    full = ask(guard, tiny, plan).error
    told = full.removeprefix("refused by the site: ")
    assert told in caplog.text
    brief = AnswerFilter(msgspec.structs.replace(guard.settings, errors="brief"))
    monkeypatch.setattr(guard, "answer_filter", brief)
    monkeypatch.setattr(guard, "settings", brief.settings)
    caplog.clear()
    less = ask(guard, tiny, plan).error
    assert less.removeprefix("refused by the site: ") == "the app failed: see the site's log"
    assert told in caplog.text


def test_every_process_runs_files_of_its_own(tmp_path: Path, tiny: bytes) -> None:
    made = make_guard(settings(tmp_path, threads=1))
    bundles = tmp_path / "cache" / "bundles"
    try:
        assert ask(made, tiny).error == ""
        (folder,) = (bundles / "a").iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        for path in folder.rglob("app.py"):
            path.write_text("raise ValueError")
        kill(made)
        assert ask(made, tiny).error == ""
        (after,) = (bundles / "a").iterdir()
        assert after != folder
        made.process.stop()
        assert not list((bundles / "a").iterdir())
        (bundles / "a" / "left").mkdir()
        make_guard(made.settings)
        assert not (bundles / "a").exists()
    finally:
        made.process.stop()


def test_a_process_that_cannot_be_started_leaves_no_files(
    tmp_path: Path, tiny: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_guard(settings(tmp_path))

    def full(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(tmp_path))

    monkeypatch.setattr(subprocess, "Popen", full)
    told = ask(made, tiny).error
    assert told == f"the app's process cannot be started: {os.strerror(errno.EAGAIN)}"
    assert not list((tmp_path / "cache" / "bundles" / "a").iterdir())


def test_who_takes_too_long_is_ended(guard: Guard, tiny: bytes) -> None:
    assert ask(guard, tiny).error == ""  # it is loaded: what follows is slow for its own sake
    told = ask(guard, tiny, "sleep", ttl=2.0)
    assert "did not answer within" in told.error
    assert guard.process.process_id is None


def test_another_bundle_gets_a_process_of_its_own(
    guard: Guard, tiny: bytes, tmp_path: Path
) -> None:
    before = ask(guard, tiny)
    other = bundle(tmp_path / "app", "another one")
    after = ask(guard, other)
    assert (after.error, after.examples) == ("", 1)
    assert after.seconds != before.seconds


def test_a_bundle_that_is_none_is_refused(guard: Guard) -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(MOST_UNPACKED + 1))
    cache = Path(guard.settings.cache)
    before = guard.process.started, set(cache.rglob("pyproject.toml"))
    for content, told in (
        (b"no zip at all", "BadZipFile"),
        (bomb.getvalue(), "bytes unpacked"),
        (packed("no toml"), "ValueError"),
        (packed(PYPROJECT.replace("1.0.0", OUTSIDE)), "outside its folder"),
        (packed(PYPROJECT.replace("1.0.0", r"1\\2")), "outside its folder"),
        (packed(PYPROJECT.replace("somebody", "../../../some")), "outside its folder"),
        (packed(PYPROJECT.replace("tiny", "../../../tiny")), "outside its folder"),
        (packed(PYPROJECT, PYPROJECT.replace("1.0.0", OUTSIDE)), "empty, '.' or '..'"),
    ):
        error = ask(guard, content).error
        assert error.startswith("refused by the site: the app bundle")
        assert told in error
        assert tempfile.gettempdir() not in error
    assert (guard.process.started, set(cache.rglob("pyproject.toml"))) == before


def packed(pyproject: str, again: str | None = None) -> bytes:
    """Return a bundle that holds this file alone, which `build_fab_from_disk` might not take.

    With ``again`` the same file follows under another name, and is what is unpacked.
    """
    last = pyproject if again is None else again
    listed = f"pyproject.toml,{hashlib.sha256(last.encode()).hexdigest()},8"
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("pyproject.toml", pyproject)
        if again is not None:
            archive.writestr("./pyproject.toml", again)
        archive.writestr(".info/CONTENT", listed)
    return made.getvalue()


def test_memory_is_given_back_after_a_time_without_work(guard: Guard, tiny: bytes) -> None:
    assert ask(guard, tiny).error == ""
    guard.process.stop_if_idle()
    assert guard.process.process_id is not None
    guard.process.keep_warm = 0.0
    guard.process.stop_if_idle()
    assert guard.process.process_id is None
    guard.process.keep_warm = 600.0
    assert ask(guard, tiny).error == ""


def test_outside_the_hours_only_training_is_refused(
    guard: Guard, tiny: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.localtime()
    later = f"{(now.tm_hour + 2) % 24:02d}:00-{(now.tm_hour + 3) % 24:02d}:00"
    closed = msgspec.structs.replace(guard.settings, hours=(later,))
    monkeypatch.setattr(guard, "settings", closed)
    assert later in ask(guard, tiny, kind=kinds.ALONE).error
    assert ask(guard, tiny).error == ""


def test_only_signed_bundles_run_where_the_site_asks_for_it(tmp_path: Path, tiny: bytes) -> None:
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    strict = make_guard(settings(tmp_path, bundles=Bundles(signed_by=(public,)), threads=1))
    try:
        assert "is not signed" in ask(strict, tiny).error
        forged = base64.b64encode(os.urandom(64)).decode()
        told = ask(strict, tiny, run_config={"signature": forged}).error
        assert "not signed with a key that this site trusts" in told
        assert strict.process.started == 0
        assert ask(strict, tiny, run_config={"signature": sign(tiny, key)}).error == ""
    finally:
        strict.process.stop()
