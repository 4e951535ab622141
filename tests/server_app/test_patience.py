"""How long the server waits, and what it says meanwhile: with a clock of the test's own."""

from __future__ import annotations

import pytest

from server_app import patience
from server_app.patience import Backoff, Patience, pause_length


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(patience, "time", clock)
    return clock


def test_each_pause_is_twice_as_long_up_to_half_a_minute() -> None:
    assert [pause_length(n, 0.5, closed=False) for n in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_closed_sites_are_waited_for_up_to_ten_minutes() -> None:
    assert pause_length(9, 0.5, closed=True) == 256
    assert pause_length(10**9, 0.5, closed=True) == 600


def test_the_time_runs_from_the_first_begin(clock: Clock) -> None:
    waiting = Patience(lambda _: None, 10)
    clock.sleep(60)
    assert not waiting.is_over()
    waiting.begin()
    clock.sleep(6)
    waiting.begin()
    clock.sleep(6)
    assert waiting.is_over()
    assert not waiting.is_over(extra=5)


def test_a_line_is_said_at_once_and_then_now_and_then(clock: Clock) -> None:
    lines: list[str] = []
    waiting = Patience(lines.append, 100)
    for second in range(62):
        waiting.remind(str(second))
        clock.sleep(1)
    assert lines == ["0", "30", "60"]


def test_nothing_is_said_during_the_silence(clock: Clock) -> None:
    lines: list[str] = []
    waiting = Patience(lines.append, 100, silent=1.0)
    waiting.remind("early")
    clock.sleep(1)
    waiting.remind("late")
    assert lines == ["late"]


def test_a_pause_ends_with_the_wait(clock: Clock) -> None:
    waiting = Patience(lambda _: None, 7).begin()
    waiting.pause(20, 1.0, closed=True, interrupted=lambda: False)
    assert clock.now == 107


def test_a_pause_ends_when_somebody_joins(clock: Clock) -> None:
    looks = iter([False, False, True])
    Patience(lambda _: None, 1000).begin().pause(
        5, 1.0, closed=False, interrupted=lambda: next(looks)
    )
    assert clock.now == 106


def test_a_node_is_asked_again_later_each_time(clock: Clock) -> None:
    again = Backoff(most=100)
    pauses = []
    for _ in range(4):
        again.postpone(1)
        before = clock.now
        while not again.due():
            clock.sleep(1)
        pauses.append(clock.now - before)
    assert pauses == [30, 60, 100, 100]


def test_a_node_that_is_forgotten_is_not_due(clock: Clock) -> None:
    again = Backoff(most=100)
    for node in (1, 2, 3):
        again.postpone(node)
    again.forget(1)
    again.retain({1, 2})
    clock.sleep(30)
    assert again.due() == {2}
