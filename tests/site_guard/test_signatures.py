"""A bundle runs where a trusted key signed it with the order's plan and start, and nowhere else."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from fedstrata.protocol import kinds
from fedstrata.protocol.limits import Refused
from site_guard.signatures import Signed, agreed_digests, key_fingerprint, require_signature, sign

KEY, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
PLAN = json.dumps({"federation": "a", "weights": "", "seed": 1, "train": {"lr": 0.1}})
ONE, TWO = "1" * 64, "2" * 64
TRUSTED = (OTHER.public_key(), KEY.public_key())


def openssh(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def test_a_signed_bundle_is_taken_and_another_is_not() -> None:
    require_signature(b"bundle", PLAN, sign(b"bundle", PLAN, KEY), TRUSTED, kinds.TRAIN)
    with pytest.raises(Refused, match="not signed with a key"):
        require_signature(b"bundle", PLAN, sign(b"bundle", PLAN, KEY), TRUSTED[:1], kinds.TRAIN)
    with pytest.raises(Refused, match="not signed with a key"):
        require_signature(b"bundle!", PLAN, sign(b"bundle", PLAN, KEY), TRUSTED, kinds.TRAIN)
    with pytest.raises(Refused, match="is not signed"):
        require_signature(b"bundle", PLAN, None, TRUSTED, kinds.TRAIN)
    require_signature(b"bundle", PLAN, None, (), kinds.TRAIN)


def test_another_plan_needs_another_signature() -> None:
    signature = sign(b"bundle", PLAN, KEY)
    other = {**json.loads(PLAN), "train": {"lr": 100.0}}
    with pytest.raises(Refused, match="sign it with the experiment and overrides of the run"):
        require_signature(b"bundle", json.dumps(other), signature, TRUSTED, kinds.TRAIN)
    both = f"{signature} {sign(b'bundle', json.dumps(other), KEY)}"
    found = require_signature(b"bundle", json.dumps(other), both, TRUSTED, kinds.TRAIN)
    assert found == Signed(KEY.public_key(), "none")


def test_a_resumed_run_or_one_with_an_agreed_scale_needs_no_other_signature() -> None:
    changed = {
        "federation": "b",
        "agreed": {"mean": [1.0], "std": [2.0]},
        "categories": {"c": ["a"]},
    }
    again = json.dumps({**json.loads(PLAN), **changed}, indent=1)
    require_signature(b"bundle", again, sign(b"bundle", PLAN, KEY), TRUSTED, kinds.TRAIN)


def starting(weights: str) -> str:
    return json.dumps({**json.loads(PLAN), "weights": weights})


@pytest.mark.parametrize(
    ("signed", "weights", "kind", "refusal"),
    [
        (ONE, ONE, kinds.TRAIN, ""),
        (ONE, TWO, kinds.TRAIN, "from checkpoint 2222222222222222, .* from checkpoint 1111"),
        (ONE, TWO, kinds.QUERY, "from checkpoint 2222"),
        (ONE, "", kinds.TRAIN, "from no checkpoint, .* from checkpoint 1111"),
        (ONE, "", kinds.WEIGHTS, "from no checkpoint"),
        (ONE, "", kinds.QUERY, ""),  # before the server has read it
        ("", "", kinds.TRAIN, ""),
        ("", ONE, kinds.TRAIN, "from checkpoint 1111111111111111, .* from no checkpoint"),
        ("any", ONE, kinds.TRAIN, ""),
        ("any", "", kinds.TRAIN, ""),
    ],
)
def test_a_run_starts_from_the_checkpoint_that_was_signed(
    signed: str, weights: str, kind: str, refusal: str
) -> None:
    signature = sign(b"bundle", starting(signed), KEY)
    if not refusal:
        assert require_signature(b"bundle", starting(weights), signature, TRUSTED, kind)
        return
    with pytest.raises(Refused, match=refusal):
        require_signature(b"bundle", starting(weights), signature, TRUSTED, kind)


def test_runs_that_differ_in_their_start_alone_have_a_signature_each() -> None:
    both = " ".join(sign(b"bundle", starting(each), KEY) for each in (ONE, TWO))
    found = require_signature(b"bundle", starting(TWO), both, TRUSTED, kinds.TRAIN)
    assert found == Signed(KEY.public_key(), TWO)


def of_models(**starts: str) -> str:
    return json.dumps({**json.loads(PLAN), "models": ["big", "edge"], "starts": starts})


def test_the_starts_of_several_networks_are_signed_together() -> None:
    signature = sign(b"bundle", of_models(big=ONE, edge=TWO), KEY)
    for kind, plan in (
        (kinds.TRAIN, of_models(big=ONE, edge=TWO)),
        (kinds.QUERY, of_models()),
    ):
        assert require_signature(b"bundle", plan, signature, TRUSTED, kind)
    for other in (of_models(big=TWO, edge=ONE), of_models(big=ONE), of_models()):
        with pytest.raises(Refused, match="sign it again with the checkpoint of the run"):
            require_signature(b"bundle", other, signature, TRUSTED, kinds.TRAIN)
    left_open = sign(b"bundle", of_models(big="any", edge=TWO), KEY)
    assert require_signature(b"bundle", of_models(big=ONE), left_open, TRUSTED, kinds.TRAIN)


@pytest.mark.parametrize("start", ["any", "none", ONE, ""])
def test_what_a_signature_says_of_the_start_cannot_be_changed(start: str) -> None:
    _, _, signature = sign(b"bundle", starting(TWO), KEY).partition(":")
    with pytest.raises(Refused):
        require_signature(b"bundle", starting(TWO), f"{start}:{signature}", TRUSTED, kinds.TRAIN)


def test_a_fingerprint_is_the_one_that_ssh_keygen_prints(tmp_path: Path) -> None:
    path = tmp_path / "key.pub"
    path.write_text(openssh(KEY))
    shown = subprocess.run(["ssh-keygen", "-lf", str(path)], capture_output=True, text=True)
    assert shown.stdout.split()[1] == key_fingerprint(KEY.public_key())


def test_the_signature_is_for_this_purpose_alone() -> None:
    import hashlib

    bare = base64.b64encode(KEY.sign(hashlib.sha256(b"bundle").digest())).decode()
    with pytest.raises(Refused, match="not signed with a key"):
        require_signature(b"bundle", PLAN, f"none:{bare}", TRUSTED, kinds.TRAIN)


@given(
    st.text()
    | st.integers()
    | st.binary().map(lambda b: base64.b64encode(b).decode())
    | st.binary().map(lambda b: f"any:{base64.b64encode(b).decode()}")
)
def test_any_other_text_is_no_signature(signature: object) -> None:
    with pytest.raises(Refused):
        require_signature(b"bundle", PLAN, signature, TRUSTED, kinds.TRAIN)


def test_what_sites_agree_on_has_digests_of_its_own() -> None:
    assert agreed_digests(PLAN) == {}
    scale = json.dumps({**json.loads(PLAN), "agreed": {"mean": [1.0]}, "categories": None})
    other = json.dumps({**json.loads(PLAN), "agreed": {"mean": [2.0]}})
    assert agreed_digests(scale).keys() == {"agreed"}
    assert agreed_digests(scale) != agreed_digests(other)
