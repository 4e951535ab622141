"""A run's folder: checkpoints that are whole, names, and what a resumed run may change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedstrata.support.errors import UserError
from server_app.run_folder import RunFolder, check_same, find_run, new_run, resumed_run

CONFIG = {"seed": 1, "strategy": {"deadline": 5.0, "rounds": 3}}


def saved(folder: RunFolder, number: int) -> None:
    tensors = {"common": {"w": torch.full((2,), float(number))}}
    folder.save(number, tensors, {"common": {}}, [{"round": number}])


def test_a_checkpoint_is_read_as_it_was_saved_and_the_last_three_stay(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    for number in range(1, 6):
        saved(folder, number)
    assert folder.rounds() == [3, 4, 5]
    latest = folder.latest()
    assert latest is not None
    assert (latest.round, latest.history) == (5, [{"round": 5}])
    assert torch.equal(latest.states["common"]["w"], torch.full((2,), 5.0))


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    saved(folder, 1)
    saved(folder, 2)
    (folder.path / "checkpoints" / "round-000002" / "state.safetensors").write_bytes(b"cut")
    latest = folder.latest()
    assert latest is not None
    assert latest.round == 1


def test_a_round_that_is_gone_back_to_is_the_last_one_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    for number in (1, 2, 3):
        saved(folder, number)
    back = folder.go_back(2)
    assert back is not None
    assert (back.round, folder.rounds()) == (2, [1, 2])
    with pytest.raises(UserError, match=r"round 7 of .* cannot be gone back to"):
        folder.go_back(7)
    assert folder.rounds() == [1, 2]
    assert folder.go_back(0) is None
    assert folder.rounds() == []


def test_where_no_checkpoint_is_whole_each_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    saved(folder, 1)
    (folder.path / "checkpoints" / "round-000001" / "history.json").unlink()
    with pytest.raises(UserError, match=r"no checkpoint of .* is whole: round 1"):
        folder.latest()


def test_a_resumed_run_may_change_what_waits_and_nothing_that_learns() -> None:
    check_same(CONFIG, {"seed": 1, "strategy": {"deadline": 9.0, "rounds": 3}})
    with pytest.raises(UserError, match=r"strategy\.rounds: was 3, now 4"):
        check_same(CONFIG, {"seed": 1, "strategy": {"deadline": 5.0, "rounds": 4}})


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    folder = new_run(tmp_path, "faces", "march")
    folder.path.mkdir()
    folder.begin(CONFIG, "faces")
    with pytest.raises(UserError, match="holds a run 'march'"):
        new_run(tmp_path, "faces", "march")
    assert resumed_run(tmp_path, "faces", "auto", "march") is not None
    assert resumed_run(tmp_path, "faces", "auto", "april") is None


def test_a_run_that_does_not_exist_is_answered_with_the_nearest(tmp_path: Path) -> None:
    folder = new_run(tmp_path, "faces", "march")
    folder.path.mkdir()
    folder.begin(CONFIG, "faces")
    with pytest.raises(UserError, match="holds no run 'marhc'; nearest: 'march'"):
        find_run(tmp_path, "marhc", "faces")
    assert find_run(tmp_path, "latest", "faces").name == "march"
