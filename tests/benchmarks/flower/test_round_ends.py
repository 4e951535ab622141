"""When rounds ended is read from checkpoints, and runs that did not go as planned are not counted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks.flower.round_ends import RoundEnds, note_round_ends, our_rounds


def test_rounds_end_with_their_checkpoints_run_by_run(tmp_path: Path) -> None:
    for run, number, when in (("a", 1, 5.0), ("a", 2, 7.0), ("b", 1, 9.0)):
        folder = tmp_path / run / "checkpoints" / f"round-{number:06d}"
        folder.mkdir(parents=True)
        os.utime(folder, (0, when))
    (tmp_path / "a" / "checkpoints" / ".round-000004.tmp").mkdir()
    expected: RoundEnds = {
        tmp_path / "a": {"round-000001": 5.0, "round-000002": 7.0},
        tmp_path / "b": {"round-000001": 9.0},
    }
    ends: RoundEnds = {}
    note_round_ends(tmp_path, ends)
    assert ends == expected
    (tmp_path / "a" / "checkpoints" / "round-000001" / "new").touch()  # as deleting a file in it
    note_round_ends(tmp_path, ends)
    assert ends == expected


def test_a_run_that_lost_a_site_or_a_round_is_not_counted(tmp_path: Path) -> None:
    fine = {"rounds": [{"round": n, "participants": ["a", "b"]} for n in (1, 2)], "final": {}}
    ends: RoundEnds = {tmp_path: {"round-000002": 7.0, "round-000001": 5.0}}
    with pytest.raises(SystemExit, match="1 began:\nit broke"):
        our_rounds(ends, "exact", 2, lambda: "it broke")
    (tmp_path / "results.json").write_text(json.dumps(fine))
    assert our_rounds(ends, "exact", 2) == (fine, [5.0, 7.0])
    with pytest.raises(SystemExit, match=r"sites missed the rounds \[1, 2\]"):
        our_rounds(ends, "exact", 3)
    with pytest.raises(SystemExit, match="1 of 2 rounds were seen to end"):
        our_rounds({tmp_path: {"round-000002": 7.0}}, "exact", 2)
    with pytest.raises(SystemExit, match="0 began"):
        our_rounds({}, "exact", 2)
