"""comparison.md and comparison.json, and what is not compared."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from fedstrata.comparison.files import (
    NOT_ENDED,
    compare,
    to_json,
    to_markdown,
    to_plain,
    write_comparison,
)
from fedstrata.support.errors import UserError
from tests.helpers.comparisons import a_run

VALUES = {"north": 0.5, "south": 0.6}


def test_both_files_say_the_same_and_are_the_owners(tmp_path: Path) -> None:
    found = compare([a_run(1, VALUES), a_run(1, VALUES, method="ditto")])
    text, data = write_comparison(found, tmp_path / "new")
    assert text.stat().st_mode & 0o077 == 0
    assert "method=ditto" in text.read_text()
    (part,) = json.loads(data.read_text())["parts"]
    assert [row["name"] for row in part["rows"]] == ["method=fedavg", "method=ditto"]
    assert part["scopes"][0]["last"][0]["value"]["values"] == [0.55]
    assert part["results"].keys() == {"fedavg-1", "ditto-1"}


def test_runs_that_have_not_ended_are_named() -> None:
    running = msgspec.structs.replace(a_run(2, VALUES), final=None)
    found = compare([a_run(1, VALUES), running], left_out={"gone": "it failed"})
    assert found.left_out == {"gone": "it failed", "fedavg-2": NOT_ENDED}
    assert f"left out: fedavg-2: {NOT_ENDED}" in to_markdown(found)
    assert "left out: gone: it failed" in to_plain(found)
    with pytest.raises(UserError, match="no run has ended"):
        compare([running])


def test_runs_on_other_data_are_refused_or_have_tables_apart() -> None:
    runs = [a_run(1, VALUES), a_run(1, VALUES, method="ditto", digests={"north": "x"})]
    with pytest.raises(UserError, match="cannot be paired"):
        compare(runs)
    found = compare(runs, apart=True)
    assert len(found.parts) == 2
    assert "## data 2: 1 runs, paired with no other part" in to_markdown(found)


def test_the_target_of_the_runs_counts_where_none_is_given() -> None:
    with_target = a_run(1, VALUES, config={"compare": {"target": 0.5}})
    assert compare([with_target]).parts[0].scopes[0].target == 0.5
    assert compare([with_target], {"": 0.6}).parts[0].scopes[0].target == 0.6
    other = a_run(2, VALUES, config={"compare": {"target": 0.7}})
    assert compare([with_target, other]).parts[0].scopes[0].target is None


def test_a_target_of_no_task_is_a_mistake() -> None:
    with pytest.raises(UserError, match=r"--target sex=.*there is grade"):
        compare([a_run(1, VALUES)], {"sex": 0.5})


def test_copies_of_a_run_with_another_seed_keep_their_names_apart() -> None:
    again = msgspec.structs.replace(a_run(2, VALUES), run="fedavg-1")
    (part,) = compare([a_run(1, VALUES), again]).parts
    assert part.rows[0].runs == ["fedavg-1", "fedavg-1 (2)"]
    assert "fedavg-1 (2)" in to_json(compare([a_run(1, VALUES), again]))


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_comparison(compare([a_run(1, VALUES)]), tmp_path / "file")
