"""The live page says what the run's folder says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedstrata.protocol.progress import Progress, SiteProgress, write_progress
from fedstrata.watch import live
from tests.helpers.run_results import HOSTILE, run_results, typed, write_run


def test_a_run_that_goes_on_is_shown(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", final=None)
    sites = {
        "north": SiteProgress(task="grade", state="trained"),
        "south": SiteProgress(task="grade", state="late", reason=f"no answer {HOSTILE}"),
    }
    progress = Progress(
        state="complete", round=3, rounds=8, seconds_left=90, sites=sites, bytes_up=2_000_000
    )
    write_progress(folder, progress)
    shown = live.fragment(folder)
    for text in (
        "complete",
        "3 of 8",
        "2 MB",
        "<strong>south</strong> late",
        "46.88 %",
        "+3.12 points",
    ):
        assert text in shown, text
    assert "1 min 30 s" not in shown  # it has ended
    assert "<script" not in shown


def test_the_gain_over_alone_is_shown_while_the_rounds_go_on(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", final=None)
    assert "over alone</th>" in live.fragment(folder)
    before = live.fragment(folder)
    write_progress(folder, Progress(state="running", alone={"north": 0.125, "south": 0.125}))
    added = re.findall(r"[+-][\d.]+ points", live.fragment(folder))
    for text in re.findall(r"[+-][\d.]+ points", before):
        added.remove(text)
    assert added == ["+34.38 points"]  # 46.88 % less 12.5 %


def test_a_run_before_round_1_is_shown(tmp_path: Path) -> None:
    write_progress(tmp_path, Progress(state="waiting", reason="2 of 3 sites", rounds=4))
    (tmp_path / ".lock").touch()
    shown = live.fragment(tmp_path)
    assert "0 of 4" in shown
    assert "2 of 3 sites" in shown
    assert "interrupted" in shown  # nobody holds the lock


@pytest.mark.parametrize("name", ["results.json", "progress.json"])
def test_a_file_that_cannot_be_read_is_said(tmp_path: Path, name: str) -> None:
    folder = write_run(tmp_path / "run")
    (folder / name).write_text(f'{{"run": "{HOSTILE}')
    shown = live.fragment(folder)
    assert "Cannot be read" in shown
    assert "<script" not in shown


def test_of_many_sites_those_that_need_a_look_are_shown(tmp_path: Path) -> None:
    states = {f"s{n:03}": SiteProgress(task="t", state="trained") for n in range(200)}
    states["zz"] = SiteProgress(task="t", state="refused")
    write_progress(tmp_path, Progress(state="failed", sites=states))
    shown = live.fragment(tmp_path)
    assert "<strong>zz</strong> refused" in shown
    assert "81 sites more are not shown." in shown
    assert "<strong>200</strong><span>trained</span>" in shown


def test_the_change_is_against_the_measurement_before() -> None:
    assert live.trend(typed(run_results(final=None)), "grade") == 1 / 32
    assert live.trend(typed(run_results(1, final=None)), "grade") is None


def test_the_page_holds_what_there_is_now_and_names_the_run(tmp_path: Path) -> None:
    whole = live.page(write_run(tmp_path / "run"))
    assert "<title>run - fedstrata watch</title>" in whole
    assert "60.94 %" in whole
