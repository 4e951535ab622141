"""The guard around an app: hours, signatures, what may leave of an error, orders that came too late."""

from __future__ import annotations

import base64
import os
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedstrata.protocol import answers, kinds
from site_guard.answers import AnswerFilter
from site_guard.guard import Guard, make_guard
from site_guard.settings import Bundles
from site_guard.signatures import sign
from tests.helpers.tiny_app import (
    ask,
    ask_for_layers,
    planned,
    settings,
)


def test_the_text_of_an_exception_stays_at_the_site(guard: Guard, tiny: bytes) -> None:
    assert ask(guard, tiny).error == ""
    before = guard.process.process_id
    report = ask(guard, tiny, "raise")
    assert report.error == "the app raised ValueError: see the site's log"
    assert guard.process.process_id == before


def test_layers_may_be_larger_than_the_order_that_asked_for_them(guard: Guard, tiny: bytes) -> None:
    answer = ask_for_layers(guard, tiny, 8_000_000, answered=8_000_000)
    assert answers.read_round_report(answer).error == ""
    assert len(answers.read_payloads(answer)["common"]) > 8_000_000
    report = answers.read_round_report(ask_for_layers(guard, tiny, 8_000_000, answered=9_100_000))
    assert "no answer (more than" in report.error
    report = answers.read_round_report(ask_for_layers(guard, tiny, 8_000_000, answered=8_000_400))
    assert "'body' as" in report.error


def test_an_order_that_came_too_late_starts_nothing(guard: Guard, tiny: bytes) -> None:
    assert ask(guard, tiny).error == ""
    before = guard.process.process_id
    assert "is this machine's clock right?" in ask(guard, tiny, ttl=-30.0).error
    assert guard.process.process_id == before


@pytest.mark.parametrize("plan", ["tell", "raise", "other round"])
def test_with_errors_brief_the_words_of_the_app_stay_at_the_site(
    guard: Guard, tiny: bytes, plan: str, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    full = ask(guard, tiny, plan).error
    words = full.removeprefix("refused by the site: ")
    assert words in caplog.text
    brief = AnswerFilter(msgspec.structs.replace(guard.settings, errors="brief"))
    monkeypatch.setattr(guard, "answer_filter", brief)
    monkeypatch.setattr(guard, "settings", brief.settings)
    caplog.clear()
    less = ask(guard, tiny, plan).error
    assert less.removeprefix("refused by the site: ") == "the app failed: see the site's log"
    assert words in caplog.text


def test_outside_the_hours_only_training_is_refused(
    guard: Guard, tiny: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.localtime()
    later = f"{(now.tm_hour + 2) % 24:02d}:00-{(now.tm_hour + 3) % 24:02d}:00"
    closed = msgspec.structs.replace(guard.settings, hours=(later,))
    monkeypatch.setattr(guard, "settings", closed)
    assert later in ask(guard, tiny, kind=kinds.ALONE).error
    assert ask(guard, tiny).error == ""


def test_only_signed_bundles_run_where_the_site_asks_for_it(tmp_path: Path, tiny: bytes) -> None:
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    strict = make_guard(settings(tmp_path, bundles=Bundles(signed_by=(public,)), threads=1))
    try:
        assert "is not signed" in ask(strict, tiny).error
        forged = base64.b64encode(os.urandom(64)).decode()
        error = ask(strict, tiny, run_config={"signature": forged}).error
        assert "not signed with a key that this site trusts" in error
        assert strict.process.started == 0
        assert ask(strict, tiny, run_config={"signature": sign(tiny, planned(), key)}).error == ""
    finally:
        strict.process.stop()
