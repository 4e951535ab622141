"""`fedstrata site approvals`: list, show, allow and deny, as a person of the hospital types them."""

from __future__ import annotations

import io
import re
import zipfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedstrata.cli.site import main
from fedstrata.cli.site_approvals import read_time
from fedstrata.protocol import kinds
from fedstrata.support.audit_check import read_and_verify
from fedstrata.support.errors import UserError
from site_guard.approvals import Approvals, Request, Waiting
from site_guard.settings import read_settings
from site_guard.signatures import key_fingerprint
from tests.helpers.plans import plan_of, request


def bundle(code: str) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        archive.writestr("app.py", code)
    return memory.getvalue()


KEY = Ed25519PrivateKey.generate().public_key()
LINE = KEY.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() + " the consortium"


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "site.yaml"
    places = f"state: {tmp_path}/state, cache: {tmp_path}/cache"
    more = f"share: [common], approve: ask, bundles: {{signed-by: [{LINE}]}}"
    path.write_text(f"{{site: north, task: grade, {places}, {more}}}")
    return path


def ask(settings: Path, content: bytes, *overrides: str, **changes: Any) -> Request:
    """Let a run ask at the site."""
    read = read_settings(settings)
    approvals = Approvals(read.guard_folder / "approvals", "north")
    asked = request(plan_of("faces_paper", *overrides), content, **changes)
    with pytest.raises(Waiting):
        approvals.require(asked, content, kinds.QUERY)
    return asked


def typed(settings: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    main(["approvals", "--settings", str(settings), *words])
    return capsys.readouterr().out


def test_a_run_is_listed_shown_and_allowed(
    settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no run has asked" in typed(settings, capsys)
    asked = ask(settings, bundle("one\n"), signer=key_fingerprint(KEY))
    listed = typed(settings, capsys, "list")
    assert f"{asked.id}  17   march-1234  2026-11-30T12:00  resnet18  waiting" in listed
    shown = typed(settings, capsys, "show", "17")
    assert f"signed by        {key_fingerprint(KEY)} the consortium" in shown
    assert "group common     layer4.0.conv1, layer4.0.conv2, " in shown
    assert ": leaves, averaged over all sites (up exact" in shown
    assert "tensors of common in " in shown
    assert "privacy          none" in shown
    assert "no bundle was approved here before" in shown
    allowed = typed(settings, capsys, "allow", "march-1234", "--until", "2126-12-31")
    assert f"{asked.id}: allowed: 0 of 12 rounds used, until 2126-12-31" in allowed or (
        "until 2127-01-01" in allowed
    )


def test_the_groups_are_those_of_the_method(
    settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(settings, bundle("one\n"), "method=fedproto")
    shown = typed(settings, capsys, "show", "17")
    assert "group personal   layer4, head: stays here" in shown
    assert "group common" not in shown
    assert "knowledge prototypes leaves in each round" in shown
    assert "`share` does not name it: this site refuses the run" in shown


def test_the_bytes_of_a_round_are_a_bound_where_the_rank_is_chosen_later(
    settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(settings, bundle("one\n"), "method=fedkd")
    shown = typed(settings, capsys, "show", "17")
    assert re.search(r"tensors of common in at most [\d,]+ bytes", shown)


def test_the_bytes_of_a_shared_perceptron_are_not_known_before_the_inputs_are(
    settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(settings, bundle("one\n"), "method=fml", "method.model=mlp")
    shown = typed(settings, capsys, "show", "17")
    assert "not known before the site has said how large an example is" in shown


def test_the_difference_to_the_last_approved_bundle_is_shown(
    settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(settings, bundle("one\ntwo\n"))
    typed(settings, capsys, "allow", "17")
    asked = ask(settings, bundle("one\n2\n3\n"))
    shown = typed(settings, capsys, "show", asked.id)
    assert "1 files differ" in shown
    assert "changed app.py  +2 -1" in shown
    assert "-two" not in shown
    assert "-two" in typed(settings, capsys, "show", "--diff", asked.id)


def test_a_run_is_denied_with_a_reason(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask(settings, bundle("one\n"))
    assert "denied: not agreed" in typed(settings, capsys, "deny", "17", "--why", "not agreed")
    assert "denied: not agreed" in typed(settings, capsys)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["allow", "18"], "no run '18' has asked here"),
        (["allow", "17", "--rounds", "0"], "--rounds must be at least 1"),
        (["allow", "17", "--until", "tomorrow"], "write a day such as 2026-12-31"),
        (["allow", "17", "--until", "2020-01-01"], "is over already"),
        (["deny", "17", "--why", " "], "--why is empty"),
    ],
)
def test_a_mistake_is_said_in_words(settings: Path, words: list[str], text: str) -> None:
    ask(settings, bundle("one\n"))
    with pytest.raises(SystemExit, match=text):
        main(["approvals", "--settings", str(settings), *words])


def test_a_day_lasts_until_its_end() -> None:
    assert read_time("2126-12-31").astimezone().strftime("%Y-%m-%d %H:%M") == "2127-01-01 00:00"
    assert read_time("2126-12-31T10:00+00:00") == datetime(2126, 12, 31, 10, tzinfo=UTC)
    with pytest.raises(UserError):
        read_time("2126-02-30")


def test_each_decision_is_in_the_audit_log(
    settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ask(settings, bundle("one\n"), signer="SHA256:abc")
    typed(settings, capsys, "allow", "17", "--rounds", "4")
    typed(settings, capsys, "deny", "17", "--why", "not now")
    allowed, denied = read_and_verify(read_settings(settings).audit_log).lines
    assert (allowed.event, allowed.fields["rounds"], allowed.fields["signer"]) == (
        *("allowed", 4, "SHA256:abc"),
    )
    assert (denied.event, denied.fields["why"]) == ("denied", "not now")
    assert denied.fields["bundle"] == asked.bundle


def test_a_decision_that_cannot_be_recorded_is_not_made(settings: Path) -> None:
    asked = ask(settings, bundle("one\n"))
    read = read_settings(settings)
    read.audit_log.mkdir()
    with pytest.raises(SystemExit, match="nothing was decided"):
        main(["approvals", "--settings", str(settings), "allow", "17"])
    assert Approvals(read.guard_folder / "approvals", "north").decision(asked.id) is None


def test_what_a_run_is_bound_to_is_shown(
    settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ask(settings, bundle("one\n"))
    assert "bound to" not in typed(settings, capsys, "show", "17")
    plan = replace(plan_of("faces"), agreed={"mean": [0.0], "std": [1.0]})
    Approvals(read_settings(settings).guard_folder / "approvals", "north").bind(
        msgspec.structs.replace(asked, plan=plan.to_json())
    )
    assert "bound to         the scale " in typed(settings, capsys, "show", "17")
