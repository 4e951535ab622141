"""The coordinator's log of a run: on in a deployment or with a key, and written before it goes on."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict

from fedstrata.protocol import kinds, orders
from fedstrata.support.audit_check import read_and_verify
from fedstrata.support.errors import UserError
from server_app.audit import VARIABLE, RunAudit, find_audit

RECORD = {
    "round": 1,
    "participants": ["a", "b"],
    "late": {"c": "no answer within 9 s"},
    "refused": {"d": "sends\nnothing"},
    "absent": {},
    "unauthorized": {"77": "is nobody"},
}


def answer(**records: ConfigRecord) -> Message:
    order = orders.order(kinds.TRAIN, 7, plan="", round_number=3, layers={}, ttl=60.0)
    return Message(RecordDict(records), reply_to=order)  # type: ignore[arg-type]


@pytest.fixture
def audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunAudit:
    monkeypatch.delenv(VARIABLE, raising=False)
    return find_audit(tmp_path, deployed=True)


def events(audit: RunAudit) -> list[tuple[str, str]]:
    assert audit.log is not None
    found = read_and_verify(audit.log.path)
    assert found.problems == []
    return [(line.event, str(line.fields.get("site", ""))) for line in found.lines]


def test_a_simulation_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    audit = find_audit(tmp_path, deployed=False)
    with audit.recorded("run", {}, "{}"):
        audit.arrived(kinds.TRAIN, 1, ["a"], answer())
        audit.played(RECORD, [])
        audit.saved(RECORD, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_round_has_its_sites_and_its_checkpoint(audit: RunAudit, tmp_path: Path) -> None:
    state = tmp_path / "checkpoints" / "round-000001" / "state.safetensors"
    state.parent.mkdir(parents=True)
    state.write_bytes(b"layers")
    with audit.recorded("run", {"experiment": "faces"}, "{}"):
        audit.arrived(kinds.TRAIN, 1, ["a"], answer(report=ConfigRecord({"json": "{}"})))
        audit.played(RECORD, [])
        audit.saved(RECORD, tmp_path)
    assert events(audit) == [
        *(("submitted", ""), ("arrived", "a"), ("late", "c"), ("refused", "d")),
        *(("unauthorized", "77"), ("checkpoint", ""), ("ended", "")),
    ]


def test_a_run_that_fails_says_why(audit: RunAudit) -> None:
    with pytest.raises(UserError), audit.recorded("run", {}, "{}"):
        raise UserError("too few sites")
    assert [event for event, _ in events(audit)] == ["submitted", "failed"]


def test_what_happens_before_the_run_has_a_folder_is_written_when_it_has(
    audit: RunAudit, tmp_path: Path
) -> None:
    audit.arrived(kinds.QUERY, 0, ["a"], answer(report=ConfigRecord({"json": "{}"})))
    audit.not_awaited(kinds.QUERY, 0, ["b"], "its node is gone")
    assert list(tmp_path.iterdir()) == []
    with audit.recorded("run", {}, "{}"):
        pass
    assert events(audit) == [
        *(("submitted", ""), ("arrived", "a"), ("not awaited", "b"), ("ended", "")),
    ]


def test_an_error_of_flower_has_not_arrived(audit: RunAudit) -> None:
    order = orders.order(kinds.TRAIN, 7, plan="", round_number=3, layers={}, ttl=60.0)
    with audit.recorded("run", {}, "{}"):
        audit.arrived(kinds.TRAIN, 1, ["a"], Message(Error(5, "gone"), reply_to=order))
    assert [event for event, _ in events(audit)] == ["submitted", "ended"]


def test_a_log_that_cannot_be_written_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    audit = find_audit(tmp_path / "file", deployed=True)
    with pytest.raises(UserError, match="make room there"), audit.recorded("run", {}, "{}"):
        pass


def test_it_says_whether_it_is_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with caplog.at_level(logging.INFO, "flwr"):
        find_audit(tmp_path, deployed=True)
    assert f"not signed ({VARIABLE} is not set)" in caplog.text
    monkeypatch.setenv(VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(UserError, match="absent"):
        find_audit(tmp_path, deployed=False)
