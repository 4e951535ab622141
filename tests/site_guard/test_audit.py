"""The audit log around an app: every order has a line, and nothing leaves that has none."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedstrata.protocol import answers, kinds
from fedstrata.protocol.categories import CategoriesReport
from fedstrata.protocol.sums import ColumnSums, SumsReport
from fedstrata.support.audit import Line
from fedstrata.support.audit_check import read_and_verify
from fedstrata.support.ed25519 import public_keys
from fedstrata.support.errors import UserError
from site_guard.audit import SiteAudit, settings_hash
from site_guard.guard import Guard, make_guard
from site_guard.keys import make_keys
from site_guard.settings import Audit, Bundles
from site_guard.signatures import key_fingerprint, sign
from tests.helpers.keys import public_line
from tests.helpers.tiny_app import Pushed, ask, ask_for_layers, asked, planned, settings


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guard]:
    """Return a guard whose audit log is signed."""
    folder = tmp_path_factory.mktemp("audited")
    make_keys(folder / "keys", "a")
    audit = Audit(key=str(folder / "keys" / "audit.key"))
    made = make_guard(settings(folder, threads=1, audit=audit))
    yield made
    made.process.stop()


def lines(guard: Guard) -> list[Line]:
    key = Path(guard.settings.audit.key).with_suffix(".pub")
    found = read_and_verify(guard.audit.log.path, public_keys([key.read_text()], "here"))
    assert found.problems == []
    return found.lines


def test_an_order_and_what_left_are_a_line_each(audited: Guard, tiny: bytes) -> None:
    assert ask(audited, tiny).error == ""
    order, left = lines(audited)[-2:]
    assert order.event == "order"
    assert order.fields == {
        "run": order.fields["run"],
        "kind": kinds.EVALUATE,
        "round": 3,
        "app": "somebody/tiny 1.0.0",
        "bundle": hashlib.sha256(tiny).hexdigest(),
        "signer": "",
        "plan": hashlib.sha256(planned().encode()).hexdigest(),
        "received": 0,
    }
    assert left.event == "left"
    assert left.fields["read"] == {"validation": 2, "test": 2}
    assert left.fields["layers"] == {}


def test_an_order_of_a_table_names_whose_layers_are_measured(tmp_path: Path, tiny: bytes) -> None:
    audit = SiteAudit(settings(tmp_path))
    work = asked(tiny)
    work.message.content[kinds.ORDER]["of"] = "north"  # type: ignore[index]
    audit.ordered(work)
    audit.ordered(asked(tiny))
    found = [line.fields.get("of") for line in read_and_verify(audit.log.path).lines]
    assert found == ["north", None]


def test_the_key_that_signed_is_named_and_no_other(tmp_path: Path, tiny: bytes) -> None:
    key = Ed25519PrivateKey.generate()
    trusted = Bundles(signed_by=(public_line(key),))
    audit = SiteAudit(settings(tmp_path, bundles=trusted))
    signed = sign(tiny, planned(), key)
    audit.ordered(asked(tiny, run_config={"signature": signed}))
    audit.ordered(asked(tiny, run_config={"signature": "of nobody"}))
    audit.ordered(asked(tiny, plan_json="[[", run_config={"signature": signed}))
    found = [line.fields["signer"] for line in read_and_verify(audit.log.path).lines]
    assert found == [key_fingerprint(key.public_key()), "", ""]


def test_what_left_has_the_hash_of_what_was_pushed(audited: Guard, tiny: bytes) -> None:
    answer = ask_for_layers(audited, tiny, 8_000, answered=8_000)
    data = answers.read_payloads(answer)["common"]
    left = lines(audited)[-1]
    expected = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert left.fields["layers"] == {"common": expected}
    assert left.fields["tensors"] == {"common": 1}
    text = str(answer.content[kinds.REPORT]["json"]).encode()
    assert left.fields["report"]["sha256"] == hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize(
    ("kind", "report", "read"),
    [
        (kinds.CATEGORIES, CategoriesReport("a", {"ward": ("x", "y")}), {"categories of ward": 2}),
        (kinds.SUMS, SumsReport("a", ColumnSums((40, 38), (2.0,) * 2, (3.0,) * 2)), {"train": 40}),
    ],
)
def test_what_leaves_before_the_rounds_is_recorded_too(
    audited: Guard, tiny: bytes, kind: str, report: answers.AnyReport, read: dict[str, int]
) -> None:
    work = asked(tiny, kind=kind)
    audited.audit.send(work, answers.answer(work.message, report, {}))
    assert len(work.answers) == 1
    assert (lines(audited)[-1].event, lines(audited)[-1].fields["read"]) == ("left", read)


@pytest.mark.parametrize(
    ("plan", "event", "why"), [("raise", "failed", "ValueError"), ("other round", "refused", "77")]
)
def test_a_refusal_and_a_failure_have_their_reason(
    audited: Guard, tiny: bytes, plan: str, event: str, why: str
) -> None:
    ask(audited, tiny, plan)
    last = lines(audited)[-1]
    assert last.event == event
    assert why in last.fields["why"]
    assert "Jane Doe" not in audited.audit.log.path.read_text()


def test_the_apps_own_error_is_a_failure(audited: Guard, tiny: bytes) -> None:
    ask(audited, tiny, "tell")
    assert (lines(audited)[-1].event, lines(audited)[-1].fields["why"]) == (
        "failed",
        "the words of the app",
    )


def test_an_answer_that_nobody_waits_for_has_not_left(audited: Guard, tiny: bytes) -> None:
    work = asked(tiny)
    work.lost.set()
    audited.handle(work)
    assert work.answers == []
    assert lines(audited)[-1].event == "not sent"


def test_an_answer_that_the_supernode_did_not_take_has_not_left(
    audited: Guard, tiny: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(work: Pushed, answer: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(Pushed, "push", away)
    with pytest.raises(ConnectionError):
        audited.handle(asked(tiny))
    assert [line.event for line in lines(audited)[-3:]] == ["order", "left", "not sent"]


@pytest.mark.parametrize("fails_at", [1, 2], ids=["the order", "the answer"])
def test_nothing_leaves_that_cannot_be_recorded(
    audited: Guard, tiny: bytes, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    real, calls = os.fsync, 0
    path = audited.audit.log.path

    def full(file: int) -> None:
        nonlocal calls
        if Path(f"/proc/self/fd/{file}").readlink() == path:
            calls += 1
            if calls >= fails_at:
                raise OSError(28, "No space left on device")
        real(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        report = ask(audited, tiny)
    assert report.error == "refused by the site: this site's audit log cannot be written"
    assert report.later
    assert ask(audited, tiny).error == ""
    assert lines(audited)[-1].event == "left"


def test_the_start_names_the_settings(audited: Guard, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "flwr"):
        audited.audit.started()
    audited.audit.stopped()
    start, stop = lines(audited)[-2:]
    assert (start.event, stop.event) == ("start", "stop")
    assert start.fields["settings"] == settings_hash(audited.settings)
    assert "not signed" not in caplog.text


def test_a_log_without_a_key_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    audit = SiteAudit(settings(tmp_path))
    audit.started()
    assert "the audit log is not signed" in caplog.text
    assert (
        audit.log.path == tmp_path / "guard" / "a" / "audit.jsonl"
    )  # not in state, where the app may write


def test_a_log_that_cannot_be_written_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    audit = SiteAudit(settings(tmp_path, audit=Audit(log=str(tmp_path / "file" / "audit.jsonl"))))
    with pytest.raises(UserError, match="give it another place in site"):
        audit.started()


def test_the_hash_is_of_the_settings(tmp_path: Path) -> None:
    assert settings_hash(settings(tmp_path)) == settings_hash(settings(tmp_path))
    assert settings_hash(settings(tmp_path)) != settings_hash(settings(tmp_path, share=("task",)))
