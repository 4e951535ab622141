"""What the app prints reaches the log marked, clean and bounded."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from site_guard.app_log import BURST, MARK, MOST_CHARACTERS, SUSTAINED, Allowance, AppLog, Lines


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def logged(*data: bytes, clock: Clock | None = None) -> list[str]:
    written: list[str] = []
    lines = Lines(written.append, Allowance(clock or Clock()))
    for each in data:
        lines.feed(each)
    lines.finish()
    return written


def test_lines_are_marked_however_the_bytes_arrive() -> None:
    assert logged(b"one\ntw", b"o\nthr", b"ee") == [f"{MARK}{x}" for x in ("one", "two", "three")]


def test_colors_and_controls_are_taken_out() -> None:
    assert logged(b"\x1b[92mINFO\x1b[0m: a\r\n") == [f"{MARK}INFO: a"]
    forged = "\x1b]0;t\x07a\rb\x08\u2028\u202ec\x85".encode()
    assert logged(forged) == [f"{MARK}?]0;t?a?b???c?"]


@given(st.lists(st.binary(max_size=3000), max_size=8))
def test_whatever_comes_is_printable_marked_and_short(data: list[bytes]) -> None:
    for line in logged(*data):
        assert line.startswith(MARK)
        assert line.isprintable()
        assert len(line) <= len(MARK) + MOST_CHARACTERS + 4


def test_a_line_without_an_end_takes_no_memory() -> None:
    lines = Lines(lambda _: None, Allowance(Clock()))
    for _ in range(100):
        lines.feed(bytes(100_000))
    assert len(lines._begun) <= 4 * MOST_CHARACTERS + 4


def test_a_flood_is_dropped_and_counted() -> None:
    clock = Clock()
    written: list[str] = []
    lines = Lines(written.append, Allowance(clock))
    for _ in range(100):
        lines.feed(b"x" * 99 + b"\n" + b"\n" * 9900)
    assert sum(map(len, written)) <= BURST
    before = len(written)
    clock.now = 1.0
    lines.feed(b"later\n" * 1000)
    later = written[before:]
    assert later[0].startswith("the app printed too much: ")
    assert later[1] == f"{MARK}later"
    assert sum(map(len, later[1:])) <= SUSTAINED


def test_a_pipe_is_logged_until_it_closes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    log = AppLog(Allowance())
    theirs = os.dup(log.writer)
    log.started()
    os.write(theirs, b"half a")
    os.write(theirs, b" line")
    os.close(theirs)
    log.finish(30)
    assert f"{MARK}half a line" in caplog.text
