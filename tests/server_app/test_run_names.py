"""Names of runs: taken, found, and near to one that is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedstrata.support.errors import UserError
from server_app.run_names import find_run, new_run, resumed_run, unused_folder

CONFIG = {"seed": 1, "strategy": {"deadline": 5.0, "rounds": 3}}


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


def test_a_folder_named_by_the_time_is_never_there_already(tmp_path: Path) -> None:
    for _ in range(3):
        path = unused_folder(tmp_path, "faces")
        assert path.name.startswith("faces-")
        path.mkdir()


def test_only_a_name_that_a_person_chose_leaves_room_for_a_random_part(tmp_path: Path) -> None:
    name = "x" * 60
    with pytest.raises(UserError, match="at most 55"):
        new_run(tmp_path, "faces", name)
    assert new_run(tmp_path, "faces", name, chosen=False).federation == name
    assert new_run(tmp_path, "faces", "march").federation != "march"
