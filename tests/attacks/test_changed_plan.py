"""A server cannot change what is signed or approved: not plan, app or start, and not how often."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedstrata.protocol import kinds
from fedstrata.support.ed25519 import public_keys
from site_guard.guard import Guard, make_guard
from site_guard.settings import Bundles
from site_guard.signatures import sign
from tests.helpers.tiny_app import PLAN, ask, bundle, planned, settings

pytestmark = pytest.mark.system  # it starts the app again and again

KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
HARSHER = {
    "longer": {"rounds": 800},
    "other groups": {"groups": {**PLAN["groups"], "common": ["head"]}},
    "less private": {"coding": {"common": {"name": "exact"}}},
    "one epoch more": {"train": {**PLAN["train"], "epochs": 2}},
}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return bundle(tmp_path_factory.mktemp("app") / "app")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guard]:
    trusted = Bundles(signed_by=(PUBLIC,))
    made = make_guard(settings(tmp_path_factory.mktemp("site"), bundles=trusted, threads=1))
    yield made
    made.process.stop()


def order(guard: Guard, app: bytes, plan: str, **more: Any) -> str:
    """Let a lying server order an evaluation with its own plan; return the site's error."""
    given = {"signature": sign(app, planned(), KEY)}
    return ask(guard, app, plan_json=plan, run_config=given, **more).error


@pytest.mark.parametrize("change", HARSHER.values(), ids=HARSHER)
def test_a_signed_app_runs_with_no_other_plan(
    site: Guard, app: bytes, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert order(site, app, planned()) == ""
    assert "is not signed with a key that this site trusts" in order(site, app, planned(**change))
    monkeypatch.setattr(site, "keys", ())  # without signatures the plan is believed
    assert order(site, app, planned(**change)) == ""


@pytest.mark.parametrize("change", HARSHER.values(), ids=HARSHER)
def test_an_approved_run_that_changes_its_plan_waits_again(
    site: Guard, app: bytes, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "keys", ())
    monkeypatch.setattr(site, "settings", msgspec.structs.replace(site.settings, approve="ask"))
    order(site, app, planned())
    asked = next(r for r in site.approvals.requests() if r.plan == planned())
    site.approvals.allow(asked, until=None, rounds=None)
    assert order(site, app, planned()) == ""
    assert order(site, app, planned(**change)).startswith("waiting for approval at a")


def test_an_approved_run_that_changes_its_app_waits_again(
    site: Guard, app: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "keys", ())
    monkeypatch.setattr(site, "settings", msgspec.structs.replace(site.settings, approve="ask"))
    order(site, app, planned())
    asked = next(r for r in site.approvals.requests() if r.plan == planned())
    site.approvals.allow(asked, until=None, rounds=None)
    other = bundle(tmp_path / "app", remark="one line more")
    assert order(site, other, planned()).startswith("waiting for approval at a")


def test_a_signed_app_starts_from_no_other_checkpoint(site: Guard, app: bytes) -> None:
    assert order(site, app, planned()) == ""  # signed for no checkpoint
    assert "starts from checkpoint aaaa" in order(site, app, planned(weights="a" * 64))
    bound = {"signature": sign(app, planned(weights="b" * 64), KEY)}
    for weights, refused in (("a" * 64, True), ("", True), ("b" * 64, False)):
        text = planned(weights=weights)
        error = ask(site, app, plan_json=text, run_config=bound, kind=kinds.TRAIN).error
        assert ("what is signed starts from checkpoint bbbb" in error) == refused


def test_a_signature_of_another_purpose_is_none(site: Guard, app: bytes) -> None:
    stranger = Ed25519PrivateKey.generate()
    given = {"signature": sign(app, planned(), stranger)}
    assert "is not signed with a key" in ask(site, app, run_config=given).error
    assert public_keys([PUBLIC], "here") == site.keys


def test_no_more_rounds_are_trained_than_were_allowed(app: bytes, tmp_path: Path) -> None:
    guard = make_guard(settings(tmp_path, approve="ask", threads=1))
    try:
        ask(guard, app, kind=kinds.TRAIN)
        (asked,) = guard.approvals.requests()
        guard.approvals.allow(asked, until=None, rounds=2)
        errors = [ask(guard, app, kind=kinds.TRAIN).error for _ in range(3)]
        assert ["is used up" in error for error in errors] == [False, False, True]
    finally:
        guard.process.stop()
