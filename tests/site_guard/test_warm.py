"""One warm process for the app: it survives what the app does, and ends when it must."""

from __future__ import annotations

import errno
import itertools
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from fedstrata.support import freed_memory
from site_guard.guard import Guard, make_guard
from tests.helpers.tiny_app import (
    ask,
    asked,
    bundle,
    kill,
    settings,
)


def test_one_process_answers_all_messages_under_the_sites_name(guard: Guard, tiny: bytes) -> None:
    first, second = ask(guard, tiny), ask(guard, tiny)
    assert (first.site, first.round, first.error) == ("a", 3, "")
    assert second.loss == first.loss + 1  # the module stayed loaded
    assert first.seconds == second.seconds == guard.process.process_id


@pytest.mark.long
def test_the_app_keeps_freed_memory_unless_the_site_says_otherwise(
    guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert guard.process._environment().items() >= freed_memory.VARIABLES.items()
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    assert guard.process._environment()["MALLOC_TRIM_THRESHOLD_"] == "1"


def test_a_process_that_dies_is_started_again(guard: Guard, tiny: bytes) -> None:
    report = ask(guard, tiny, "die")
    assert "exit status 3" in report.error
    assert ask(guard, tiny).error == ""
    process = guard.process.process_id
    kill(guard)
    assert ask(guard, tiny).error == ""
    assert guard.process.process_id != process


def test_the_app_has_no_network(guard: Guard, tiny: bytes) -> None:
    assert ask(guard, tiny, "connect").error == "no network"


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        ("half", "did not answer within"),
        ("no answer", "no answer (DecodeError)"),
        ("large", "no answer (more than 10000 bytes)"),
    ],
)
def test_a_process_that_breaks_the_protocol_is_ended(
    guard: Guard, tiny: bytes, plan: str, reason: str
) -> None:
    assert ask(guard, tiny).error == ""
    assert reason in ask(guard, tiny, plan, ttl=3.0 if plan == "half" else 60.0).error
    assert guard.process.process_id is None
    assert ask(guard, tiny).error == ""


def test_a_process_that_reads_nothing_is_given_up(guard: Guard, tiny: bytes) -> None:
    assert ask(guard, tiny).error == ""
    process = guard.process.process_id
    assert process is not None
    os.kill(process, signal.SIGSTOP)
    assert "did not answer within" in ask(guard, tiny, "x" * 10_000_000, ttl=2.0).error


def test_what_the_process_started_ends_with_it(
    guard: Guard, tiny: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    before = time.monotonic()
    assert "exit status 3" in ask(guard, tiny, "leave one").error
    assert time.monotonic() - before < 30
    left = re.search(r"left (\d+)", caplog.text)
    assert left
    status = Path(f"/proc/{left[1]}/status")
    while status.exists() and "zombie" not in status.read_text():
        assert time.monotonic() - before < 60
        time.sleep(0.1)


def test_waiting_ends_when_the_site_ends_or_the_supernode_gives_up(
    tmp_path: Path, tiny: bytes
) -> None:
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


def test_a_process_that_cannot_be_started_leaves_no_files(
    tmp_path: Path, tiny: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_guard(settings(tmp_path))

    def full(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(tmp_path))

    monkeypatch.setattr(subprocess, "Popen", full)
    report = ask(made, tiny).error
    assert report == f"the app's process cannot be started: {os.strerror(errno.EAGAIN)}"
    assert not list((tmp_path / "cache" / "bundles" / "a").iterdir())


def test_a_process_that_takes_too_long_is_ended(guard: Guard, tiny: bytes) -> None:
    assert ask(guard, tiny).error == ""  # it is loaded: what follows is slow for its own sake
    report = ask(guard, tiny, "sleep", ttl=2.0)
    assert "did not answer within" in report.error
    assert guard.process.process_id is None


def test_another_bundle_gets_a_process_of_its_own(
    guard: Guard, tiny: bytes, tmp_path: Path
) -> None:
    before = ask(guard, tiny)
    other = bundle(tmp_path / "app", "another one")
    after = ask(guard, other)
    assert (after.error, after.loss) == ("", 1)
    assert after.seconds != before.seconds


@pytest.mark.long
def test_an_idle_process_is_ended_after_keep_warm_seconds(guard: Guard, tiny: bytes) -> None:
    assert ask(guard, tiny).error == ""
    guard.process.stop_if_idle()
    assert guard.process.process_id is not None
    guard.process.keep_warm = 0.0
    guard.process.stop_if_idle()
    assert guard.process.process_id is None
    guard.process.keep_warm = 600.0
    assert ask(guard, tiny).error == ""


@pytest.mark.long
def test_each_process_runs_freshly_unpacked_files(tmp_path: Path, tiny: bytes) -> None:
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
