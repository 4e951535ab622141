"""What the benchmarks of deployed sites share."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy.central import sites_data
from benchmarks.flower.deployment import Ended, draw, note_rounds, our_rounds, stock_rounds
from benchmarks.rounds import DATA, SITES, TEST, TRAIN
from server_app.compose import compose


def test_stock_flower_gets_the_very_pictures_that_ours_draws(tmp_path: Path) -> None:
    config = compose("faces", DATA)
    draw(config, SITES, None, tmp_path)
    for index, data in enumerate(sites_data(config, SITES, None)):
        kept = np.load(tmp_path / f"{index}.npz", allow_pickle=False)
        assert len(kept["train_y"]) == TRAIN
        assert len(kept["test_y"]) == TEST
        assert np.array_equal(kept["train_x"], data.train.inputs.values)  # type: ignore[attr-defined]
        assert np.array_equal(kept["test_y"], data.test.labels)


def test_rounds_end_with_their_checkpoints_run_by_run(tmp_path: Path) -> None:
    for run, number, when in (("a", 1, 5.0), ("a", 2, 7.0), ("b", 1, 9.0)):
        folder = tmp_path / run / "checkpoints" / f"round-{number:06d}"
        folder.mkdir(parents=True)
        os.utime(folder, (0, when))
    (tmp_path / "a" / "checkpoints" / ".round-000004.tmp").mkdir()
    expected: Ended = {
        tmp_path / "a": {"round-000001": 5.0, "round-000002": 7.0},
        tmp_path / "b": {"round-000001": 9.0},
    }
    ended: Ended = {}
    note_rounds(tmp_path, ended)
    assert ended == expected
    (tmp_path / "a" / "checkpoints" / "round-000001" / "new").touch()  # as deleting what is in it
    note_rounds(tmp_path, ended)
    assert ended == expected


def test_a_run_that_lost_a_site_or_that_nobody_saw_is_not_counted(tmp_path: Path) -> None:
    fine = {"rounds": [{"round": n, "participants": ["a", "b"]} for n in (1, 2)], "final": {}}
    ended: Ended = {tmp_path: {"round-000002": 7.0, "round-000001": 5.0}}
    with pytest.raises(SystemExit, match="1 began:\nit broke"):
        our_rounds(ended, "exact", 2, lambda: "it broke")
    (tmp_path / "results.json").write_text(json.dumps(fine))
    assert our_rounds(ended, "exact", 2) == (fine, [5.0, 7.0])
    with pytest.raises(SystemExit, match=r"sites missed the rounds \[1, 2\]"):
        our_rounds(ended, "exact", 3)
    with pytest.raises(SystemExit, match="1 of 2 rounds were seen to end"):
        our_rounds({tmp_path: {"round-000002": 7.0}}, "exact", 2)
    with pytest.raises(SystemExit, match="0 began"):
        our_rounds({}, "exact", 2)


def test_a_run_of_stock_flower_that_lost_a_site_is_not_counted(tmp_path: Path) -> None:
    rounds = [{"worked": 1.0, "ended": 2.0, "replies": n} for n in (3, 2)]
    output = tmp_path / "rounds.json"
    with pytest.raises(SystemExit, match="left no results:\nit broke"):
        stock_rounds(output, 3, lambda: "it broke")
    output.write_text(json.dumps({"rounds": rounds}))
    with pytest.raises(SystemExit, match=r"sites missed the rounds \[2\]"):
        stock_rounds(output, 3)
    output.write_text(json.dumps({"rounds": rounds[:1]}))
    assert stock_rounds(output, 3) == rounds[:1]
