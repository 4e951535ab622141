"""The benchmark of loading pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import data
from benchmarks.data import (
    CASES,
    COLD,
    NO_MEMORY,
    SECOND,
    TORCHVISION,
    Loading,
    by_ours,
    by_torchvision,
    draw,
    main,
    table,
)
from server_app.compose import compose


def test_all_pictures_are_read_in_each_case(tmp_path: Path) -> None:
    draw(tmp_path / "pictures", 24)
    assert by_torchvision(tmp_path / "pictures", 16, 1).seconds > 0
    options = dict(compose("images", ["data.size=16"]).data)
    first = by_ours(tmp_path / "pictures", tmp_path / "cache", options, 1, False)
    second = by_ours(tmp_path / "pictures", tmp_path / "cache", options, 1, True)
    assert first.digest == second.digest != ""


def test_the_table_is_of_medians() -> None:
    found = {
        TORCHVISION: [Loading(10, 20, 10**6)],
        COLD: [Loading(5, 10, 2 * 10**6), Loading(5, 10, 2 * 10**6)],
        SECOND: [Loading(0.5, 1, 10**6), Loading(9, 1, 10**6), Loading(0.1, 1, 10**6)],
        NO_MEMORY: [Loading(1, 1, 0)],
    }
    rows = table(found, 100, 16, 2).rows
    assert rows[COLD] == ("20", "2.00", "1.0", "100.00", "2")
    assert rows[SECOND] == ("200", "20.00", "10.0", "10.00", "1")


def test_other_numbers_from_the_disk_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = iter("abcd")
    monkeypatch.setattr(data, "in_fresh_process", lambda *_: Loading(1.0, 1.0, 1, next(digests)))
    with pytest.raises(SystemExit, match="not those of the files"):
        main(["--quick", "--output", str(tmp_path)])


def test_results_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "in_fresh_process", lambda *_: Loading(1.0, 1.0, 1, "same"))
    main(["--quick", "--output", str(tmp_path)])
    assert set(json.loads((tmp_path / "data.json").read_text())["loading"]) == set(CASES)
