"""What a ServerApp says goes to a file, where one is named, and is read while that grows."""

from __future__ import annotations

from pathlib import Path

from fedstrata.support.said_lines import VARIABLE, Said, SaidLines, note_said


def test_nothing_is_written_where_nobody_reads(tmp_path: Path) -> None:
    note_said("line", "hello", {})
    assert list(tmp_path.iterdir()) == []


def test_each_thing_is_read_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "said"
    lines = SaidLines(path)
    assert list(lines.new()) == []
    note_said("run", "/runs/märz", {VARIABLE: str(path)})
    note_said("line", "two\nlines", {VARIABLE: str(path)})
    assert list(lines.new()) == [Said("run", "/runs/märz"), Said("line", "two\nlines")]
    with path.open("a") as file:
        file.write('["error", "no')
    assert list(lines.new()) == []
    with path.open("a") as file:
        file.write(' room"]\n')
    assert list(lines.new()) == [Said("error", "no room")]


def test_other_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "said"
    path.write_text('{}\n["line"]\n["exec", "x"]\n["line", 3]\n[[[\n["line", "good"]\n')
    assert list(SaidLines(path).new()) == [Said("line", "good")]
