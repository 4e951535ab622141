"""The records of rounds: what is written stays, what was given up goes, and damage is noticed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedstrata.support.checksums import Damaged
from server_app.history_file import HistoryFile, PlainRecord
from server_app.run_folder import write_json

TEXTS = st.text(max_size=8)
RECORDS = st.dictionaries(
    TEXTS, st.one_of(st.integers(), TEXTS, st.floats(allow_nan=False, allow_infinity=False))
)


def records(last: int, **more: Any) -> list[PlainRecord]:
    return [PlainRecord({"round": number, **more}) for number in range(1, last + 1)]


def at(folder: Path) -> HistoryFile:
    return HistoryFile(folder / "history.jsonl", folder / "results.json")


@pytest.fixture
def file(tmp_path: Path) -> HistoryFile:
    return at(tmp_path)


def test_a_round_adds_a_line_and_every_checkpoint_finds_its_own(file: HistoryFile) -> None:
    history = records(3)
    sums = [file.write(history[:number]) for number in (1, 2, 3)]
    assert file.path.read_text() == '{"round": 1}\n{"round": 2}\n{"round": 3}\n'
    again = at(file.path.parent)
    for number, expected in enumerate(sums, start=1):
        assert again.read(number, expected) == history[:number]


def test_only_what_is_new_is_written(file: HistoryFile) -> None:
    history = records(2)
    file.write(history)
    other = file.path.read_text().replace("1", "7")
    file.path.write_text(other)  # as it would not be, were it written whole
    file.write(records(3))
    assert file.path.read_text() == other + '{"round": 3}\n'


def test_a_resumed_run_goes_on_with_the_file_as_it_is(file: HistoryFile) -> None:
    file.write(records(2))
    before = file.path.stat().st_ino
    last = at(file.path.parent).write(records(3))
    assert file.path.stat().st_ino == before
    assert file.read(3, last) == records(3)


def test_rounds_that_are_given_up_make_way_for_those_that_follow(file: HistoryFile) -> None:
    first = file.write(records(1))
    file.write(records(4))
    other = [*records(1), *records(3, of="another try")[1:]]
    last = file.write(other)
    assert file.read(1, first) == records(1)
    assert file.read(3, last) == other
    assert file.path.read_text().count("\n") == 3


def test_a_line_that_was_cut_off_in_a_crash_is_written_again(file: HistoryFile) -> None:
    first = file.write(records(1))
    with file.path.open("a") as opened:
        opened.write('{"rou')
    again = at(file.path.parent)
    assert again.read(1, first) == records(1)
    second = again.write(records(2))
    assert at(file.path.parent).read(2, second) == records(2)


def test_where_it_is_damaged_results_json_stands_in(
    file: HistoryFile, caplog: pytest.LogCaptureFixture
) -> None:
    history = records(3, measured=0.1 + 0.2, text="ü")
    sums = [file.write(history[:number]) for number in (1, 2, 3)]
    file.path.write_text("damaged\n" + file.path.read_text())
    write_json(file.path.with_name("results.json"), {"rounds": history[:2], "seed": 1})
    again = at(file.path.parent)
    assert again.read(2, sums[1]) == history[:2]
    assert "history.jsonl is damaged; its records are taken from" in caplog.text
    with pytest.raises(Damaged):  # of which results.json has nothing yet
        again.read(3, sums[2])
    assert again.write(history) == sums[2]
    assert at(file.path.parent).read(3, sums[2]) == history


@pytest.mark.parametrize("text", ["", "[]", '{"rounds": 5}', '{"rounds": [5]}', "[" * 100_000])
def test_a_results_json_of_no_use_does_not_stand_in(file: HistoryFile, text: str) -> None:
    expected = file.write(records(2))
    file.path.unlink()
    file.path.with_name("results.json").write_text(text)
    with pytest.raises(Damaged, match="the first 2 lines"):
        file.read(2, expected)


def test_a_history_of_no_round_is_empty(file: HistoryFile) -> None:
    assert file.read(0, file.write([])) == []


@given(st.lists(RECORDS, min_size=1, max_size=4), st.data())
def test_every_record_comes_back_and_damage_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, made: list[dict[str, Any]], data: st.DataObject
) -> None:
    file = at(tmp_path_factory.mktemp("run"))
    expected = file.write(made)
    assert at(file.path.parent).read(len(made), expected) == made
    assert at(file.path.parent).write(made) == expected  # encoded as it was
    content = bytearray(file.path.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    file.path.write_bytes(content)
    with pytest.raises(Damaged, match=r"lines of history\.jsonl are not those"):
        at(file.path.parent).read(len(made), expected)
