"""A disk that is full at the server is known before training, or said in words."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from fedstrata.support.errors import UserError
from server_app import disk_room
from server_app.disk_room import MARGIN, require_room, writing
from server_app.rounds.state import GroupCheckpoint
from tests.helpers.runs import SMALL
from tests.loopback import simulate

STATE = {"common": GroupCheckpoint({"w": torch.zeros(250_000)}, {"m": torch.zeros(250_000)}, {})}


class Usage:
    def __init__(self, free: int) -> None:
        self.free = free


def test_too_little_room_is_an_error_with_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 4 * 2_000_000 + MARGIN
    monkeypatch.setattr(disk_room.shutil, "disk_usage", lambda _: Usage(needed))
    require_room(tmp_path / "not" / "there", STATE, 4)
    monkeypatch.setattr(disk_room.shutil, "disk_usage", lambda _: Usage(needed - 1))
    with pytest.raises(UserError, match=r"4 checkpoints of 2 MB and the results need 25 MB"):
        require_room(tmp_path / "not" / "there", STATE, 4)


def test_a_run_without_room_ends_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_room.shutil, "disk_usage", lambda _: Usage(0))
    with pytest.raises(UserError, match="make room"):
        simulate(tmp_path, "faces", [*SMALL, "strategy.rounds=1", "weights=none"])
    assert not list(tmp_path.rglob("run.json"))


def test_what_could_not_be_written_says_how_to_go_on(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=f'No space left on device.*resume="{tmp_path.name}"'),
        writing("the checkpoint of round 3", tmp_path),
    ):
        raise OSError(errno.ENOSPC, "x")
