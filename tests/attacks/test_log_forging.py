"""What the app prints cannot pass for a line of the guard, nor control who reads the log."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from site_guard.app_log import BURST, MARK
from site_guard.guard import make_guard
from tests.helpers.tiny_app import ask, bundle, settings

FORGED = "site a: answers train, round 3"
# Clears the line and the mark before it, writes in the guard's color, and rings.
PRINTED = f"x\n\x1b[2K\r\x1b[92mINFO\x1b[0m : {FORGED}\x07\n\x9b2K\u2028{FORGED}"


def test_forged_lines_and_floods_are_marked_clean_and_bounded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    made = make_guard(settings(tmp_path, threads=1))
    content = bundle(tmp_path / "app")
    try:
        assert ask(made, content, f"print {PRINTED}").error == ""
        assert ask(made, content, "flood").error == ""
    finally:
        made.process.stop()
    lines = [record.getMessage() for record in caplog.records]
    assert all(line.isprintable() for line in lines)
    with_forged = [line for line in lines if FORGED in line]
    assert len(with_forged) == 2
    assert all(line.startswith(MARK) for line in with_forged)
    assert sum(len(line) for line in lines if line.startswith(MARK)) < BURST * 1.5
    assert any("lines of it are dropped" in line for line in lines)


def test_a_process_that_shares_the_guards_output_forges_its_lines() -> None:
    code = f"import sys; sys.stdout.reconfigure(encoding='utf-8'); print({PRINTED!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert f"\x1b[2K\r\x1b[92mINFO\x1b[0m : {FORGED}".encode() in done.stdout
