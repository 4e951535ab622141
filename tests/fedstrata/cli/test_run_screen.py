"""The run in a terminal: a view that is read from its folder, and plain lines elsewhere."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedstrata.cli.run_screen import LiveScreen, Screen, make_screen, view
from fedstrata.protocol.progress import Progress, SiteProgress
from fedstrata.runs.folder import RunView
from fedstrata.support.errors import UserError


def a_run(**changes: Any) -> RunView:
    sites = {
        "north": SiteProgress(task="age", state="trained"),
        "south": SiteProgress(task="age", state="late", reason="no answer\x1b[31m within 9 s"),
        "west": SiteProgress(task="age", state="waiting for approval", reason="request 7"),
    }
    rows = [{"kind": "classes", "accuracy": 0.5 + n / 10} for n in range(3)]
    given: dict[str, Any] = {
        "path": Path("/runs/march"),
        "state": "running",
        "reason": "",
        "began": 100.0,
        "round": 3,
        "rounds": 8,
        "experiment": "faces",
        "progress": Progress(
            state="running",
            round=4,
            rounds=8,
            began=100.0,
            updated=190.0,
            seconds_left=130.0,
            sites=sites,
            bytes_down=12_000_000,
            bytes_up=5_000_000,
        ),
        "results": {"rounds": [{"tasks": {"age[bold]": row}} for row in rows], "final": None},
    }
    return RunView(**{**given, **changes})


def rendered(run: RunView, *, utf8: bool = True) -> str:
    console = Console(file=io.StringIO(), width=120, force_terminal=False)
    console.print(view(run, utf8=utf8, now=200.0))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_view_says_how_the_run_stands() -> None:
    text = rendered(a_run())
    head = text.splitlines()[0]
    assert head == (
        "march: running, round 4 of 8, 1 min 40 s so far, about 2 min 0 s left, "
        "12.0 MB down, 5.0 MB up"
    )
    assert "age[bold]" in text  # names are printed as they are
    assert "70.00 %" in text
    assert "▁" in text
    assert "●●●" in text
    assert "sites: 1 late, 1 trained, 1 waiting for approval" in text
    assert "south: late: no answer?[31m within 9 s" in text


def test_a_terminal_without_utf8_gets_no_other_letters() -> None:
    assert rendered(a_run(), utf8=False).isascii()


def test_a_run_before_its_first_round_says_what_it_waits_for() -> None:
    progress = Progress(state="waiting", began=190.0, updated=199.0)
    waiting = a_run(
        state="waiting", reason="2 of 3 sites", progress=progress, results=None, round=0
    )
    text = rendered(waiting)
    assert "march: waiting, round 0 of 8, 10 s so far" in text
    assert "(2 of 3 sites)" in text


def test_many_sites_are_not_all_drawn() -> None:
    sites = {f"site-{n}": SiteProgress(task="age", state="late", reason="slow") for n in range(500)}
    text = rendered(a_run(progress=Progress(state="running", sites=sites)))
    assert "and 300 more" in text
    assert "and 492 more" in text


def test_without_a_terminal_there_are_plain_lines(tmp_path: Path) -> None:
    out, errors = io.StringIO(), io.StringIO()
    with Screen(out, errors) as screen:
        screen.say("round 1/8: 3 of 3 sites")
        screen.show(tmp_path)
        screen.error("no room")
    assert (out.getvalue(), errors.getvalue()) == ("round 1/8: 3 of 3 sites\n", "no room\n")
    assert type(make_screen()) is Screen  # pytest's output is no terminal


def test_a_large_folder_is_read_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def slow(folder: Path) -> RunView:
        looks.append(folder)
        time.sleep(0.02)
        raise UserError("not yet")

    monkeypatch.setattr("fedstrata.cli.run_screen.read_run", slow)
    screen = LiveScreen(Console(file=io.StringIO(), force_terminal=True, width=100))
    for _ in range(5):
        screen.show(tmp_path)
    assert looks == [tmp_path]


def test_the_live_view_takes_the_place_of_the_lines_of_rounds(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    screen = LiveScreen(console)
    with screen:
        screen.say("round 1/8: 3 of 3 sites")
        screen.say("3 sites")
        screen.show(tmp_path)  # no run's folder, not yet
        screen.show(None)
    screen.say("round 9/9 is over")
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "round 1/8" not in text
    assert "3 sites" in text
    assert "round 9/9 is over" in text
