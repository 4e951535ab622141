"""The folder of a sweep: written, found by name, and read as a file that anybody could have written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from fedstrata.runs.sweep import FILE, find_sweep, read_sweep, write_sweep
from fedstrata.support import checksums
from fedstrata.support.errors import UserError
from tests.helpers.reports import json_values

RUNS = {"lr_seed-1": ("seed=1",), "lr_seed-2": ("seed=2",)}


def test_a_sweep_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_sweep(tmp_path / "lr", "har", RUNS, {"overrides": ["seed=1,2"], "nodes": 5})
    (tmp_path / "lr_seed-2").mkdir()
    found = read_sweep(tmp_path / "lr")
    assert found is not None
    assert (found.name, found.experiment, dict(found.runs)) == ("lr", "har", RUNS)
    assert (found.given.overrides, found.given.nodes) == (("seed=1,2",), 5)
    assert not found.chosen
    assert found.runs_there() == [tmp_path / "lr_seed-2"]


def test_a_sweep_is_found_by_its_name_or_its_folder(tmp_path: Path) -> None:
    write_sweep(tmp_path / "lr", "har", RUNS, {})
    for wanted, folder in (("lr", tmp_path), (str(tmp_path / "lr"), None)):
        found = find_sweep(wanted, folder)
        assert found is not None
        assert found.path == tmp_path / "lr"
    assert find_sweep("lr_seed-1", tmp_path) is None
    assert find_sweep("..", tmp_path / "lr") is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"experiment": 1, "runs": []},
        {"experiment": "har", "runs": [["../lr", []]], "given": {}, "chosen": False},
        {"experiment": "har", "runs": [["lr", [1]]], "given": {}, "chosen": False},
        {"experiment": "har", "runs": {"lr": []}, "given": {}, "chosen": False},
        {"experiment": "har"},
    ],
)
def test_a_file_that_is_none_of_a_sweep_is_said(wrong: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps(checksums.with_checksum(wrong)))
    with pytest.raises(UserError, match="none of a sweep"):
        read_sweep(tmp_path)


@settings(max_examples=10)
@given(json_values)
def test_any_json_is_a_sweep_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, value: Any
) -> None:
    folder = tmp_path_factory.mktemp("sweep")
    (folder / FILE).write_text(json.dumps(value))
    with pytest.raises(UserError):
        read_sweep(folder)


def test_a_changed_file_is_not_taken(tmp_path: Path) -> None:
    write_sweep(tmp_path, "har", RUNS, {})
    (tmp_path / FILE).write_text((tmp_path / FILE).read_text().replace("seed=2", "seed=3"))
    with pytest.raises(UserError, match="not what was written"):
        read_sweep(tmp_path)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be made"):
        write_sweep(tmp_path / "file" / "lr", "har", RUNS, {})
