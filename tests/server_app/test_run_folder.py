"""A run's folder: checkpoints that are whole, and what a resumed run may change."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedstrata.runs.folder import Given, read_given
from fedstrata.support import checksums, tensor_files
from fedstrata.support.errors import UserError
from server_app.run_folder import (
    PlainRecord,
    RunFolder,
    check_same,
    write_json,
)

CONFIG = {"seed": 1, "strategy": {"deadline": 5.0, "rounds": 3}}


def saved(folder: RunFolder, number: int) -> None:
    tensors = {"common": {"w": torch.full((2,), float(number))}}
    folder.save(number, tensors, {"common": {}}, history(number))


def history(number: int) -> list[dict[str, Any]]:
    return [{"round": each} for each in range(1, number + 1)]


def test_a_checkpoint_is_read_as_it_was_saved_and_the_last_three_stay(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    for number in range(1, 6):
        saved(folder, number)
    assert folder.rounds() == [3, 4, 5]
    latest = folder.latest()
    assert latest is not None
    assert (latest.round, latest.history) == (5, history(5))
    assert torch.equal(latest.states["common"]["w"], torch.full((2,), 5.0))


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    saved(folder, 1)
    saved(folder, 2)
    (folder.path / "checkpoints" / "round-000002" / "state.safetensors").write_bytes(b"cut")
    latest = folder.latest()
    assert latest is not None
    assert latest.round == 1


def at(folder: RunFolder, name: str, number: int = 2) -> Path:
    return folder.path / "checkpoints" / f"round-{number:06d}" / name


def rewritten(folder: RunFolder, **changes: Any) -> None:
    """Write the last round.json anew, with a checksum that fits."""
    path = at(folder, "round.json")
    content = checksums.checked(json.loads(path.read_text()))
    path.write_text(json.dumps(checksums.with_checksum({**content, **changes})))


def history_file(folder: RunFolder) -> Path:
    return folder.path / "checkpoints" / "history.jsonl"


def not_finite(folder: RunFolder) -> None:
    tensors = {"state/common//w": torch.tensor([1.0, float("nan")])}
    tensor_files.save(at(folder, "state.safetensors"), tensors, {"round": "2"})


def unknown(folder: RunFolder) -> None:
    tensors = {"evil/common//w": torch.ones(1)}
    tensor_files.save(at(folder, "state.safetensors"), tensors, {"round": "2"})


def of_another_round(folder: RunFolder) -> None:
    state = at(folder, "state.safetensors", 1).read_bytes()
    at(folder, "state.safetensors").write_bytes(state)


MALFORMED = {
    "cut": lambda f: at(f, "round.json").write_text("{"),
    "no text": lambda f: at(f, "round.json").write_bytes(b"\xff\xfe"),
    "a list": lambda f: at(f, "round.json").write_text("[]"),
    "nested deep": lambda f: at(f, "round.json").write_text("[" * 100_000),
    "without its checksum": lambda f: at(f, "round.json").write_text('{"round": 2}'),
    "another history": lambda f: rewritten(f, history="0" * 64),
    "history no text": lambda f: rewritten(f, history=[1, 2]),
    "history cut": lambda f: history_file(f).write_bytes(history_file(f).read_bytes()[:-1]),
    "history changed": lambda f: history_file(f).write_text('{"round": 1}\n{"round": 3}\n'),
    "round no number": lambda f: rewritten(f, round="x"),
    "another round": lambda f: rewritten(f, round=99999),
    "the other file of another round": of_another_round,
    "an unknown kind": unknown,
    "a state that is not finite": not_finite,
    "gone": lambda f: at(f, "round.json").unlink(),
}


@pytest.mark.parametrize("how", MALFORMED)
def test_a_malformed_checkpoint_gives_way_to_the_one_before_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    folder = RunFolder(tmp_path / "run")
    saved(folder, 1)
    saved(folder, 2)
    MALFORMED[how](folder)
    latest = folder.latest()
    assert latest is not None
    assert latest.round == 1
    assert "the checkpoint of round 2: " in caplog.text
    assert "the run goes on after round 1" in caplog.text


@given(st.data())
def test_random_damage_is_noticed_and_the_round_before_is_used(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    saved(folder, 1)
    saved(folder, 2)
    path = at(folder, data.draw(st.sampled_from(["round.json", "state.safetensors"])))
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        bit = data.draw(st.integers(0, 8 * len(content) - 1))
        content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    latest = folder.latest()
    assert latest is not None
    # A bit in the white space of JSON changes nothing that is read.
    assert latest.history == history(latest.round)
    assert torch.equal(latest.states["common"]["w"], torch.full((2,), float(latest.round)))


@pytest.mark.parametrize(
    "text", ["", "[]", '{"config": 5}', "\xff", "[" * 100_000, '{"config": {}, "checksum": ""}']
)
def test_a_damaged_run_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin(CONFIG, "faces")
    assert folder.begun()["config"] == CONFIG
    (folder.path / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"resume: .*run\.json cannot be read"):
        folder.begun()


def test_only_the_servers_user_may_read_a_run_whatever_the_umask(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / "run")
    before = os.umask(0)
    try:
        with folder.written_here():
            folder.begin(CONFIG, "faces")
            saved(folder, 1)
            write_json(folder.path / "results.json", {})
    finally:
        os.umask(before)
    found = list(tmp_path.rglob("*"))
    assert {path.stat().st_mode & 0o777 for path in found if path.is_file()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in found if path.is_dir()} == {0o700}


def test_a_round_that_is_gone_back_to_is_the_last_one_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    for number in (1, 2, 3):
        saved(folder, number)
    back = folder.go_back(2)
    assert back is not None
    assert (back.round, folder.rounds()) == (2, [1, 2])
    with pytest.raises(UserError, match=r"round 7 of .* cannot be read"):
        folder.go_back(7)
    assert folder.rounds() == [1, 2]
    assert folder.go_back(0) is None
    assert folder.rounds() == []


def test_where_no_checkpoint_is_whole_each_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    saved(folder, 1)
    (folder.path / "checkpoints" / "round-000001" / "round.json").unlink()
    with pytest.raises(UserError, match=r"no checkpoint of .* is whole: round 1"):
        folder.latest()


def test_a_resumed_run_may_change_what_waits_and_nothing_that_learns() -> None:
    check_same(CONFIG, {"seed": 1, "strategy": {"deadline": 9.0, "rounds": 3}})
    with pytest.raises(UserError, match=r"strategy\.rounds: was 3, now 4"):
        check_same(CONFIG, {"seed": 1, "strategy": {"deadline": 5.0, "rounds": 4}})


def test_what_was_given_is_there_for_who_resumes(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "march")
    folder.begin(CONFIG, "faces", {"overrides": ["seed=7"], "data-root": "/data", "nodes": 3})
    assert read_given(folder.path) == Given(("seed=7",), "/data", 3)


def test_json_is_written_as_python_writes_it_and_no_number_that_json_has_not(
    tmp_path: Path,
) -> None:
    content = {
        "none": [[], {}, None],
        "text": 'a "b"\n{}[]: ü',
        "numbers": [1e-05, 1e22, -0.0, True],
    }
    write_json(tmp_path / "a.json", content)
    written = (tmp_path / "a.json").read_text()
    assert written == json.dumps(content, indent=1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert (tmp_path / "a.json").read_text() == written


def test_the_json_of_a_record_is_made_once_and_is_that_of_its_data(tmp_path: Path) -> None:
    plain = {"round": 1, "sites": {"a": {"loss": 0.5, "numerics": [1, None]}}, "kept": {}}
    record = PlainRecord(plain)
    content = {"run": "x", "rounds": [record, PlainRecord(plain)], "none": None}
    for _ in range(2):
        write_json(tmp_path / "a.json", content)
        assert json.loads((tmp_path / "a.json").read_text()) == content
    assert record.json is record.json
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "b.json", {"rounds": [PlainRecord({"loss": float("inf")})]})
