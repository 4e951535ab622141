"""A bundle runs where a trusted key signed it with the plan of the order, and nowhere else."""

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

from fedstrata.protocol.limits import Refused
from site_guard.signatures import key_fingerprint, require_signature, sign

KEY, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
PLAN = json.dumps({"federation": "a", "weights": "", "seed": 1, "train": {"lr": 0.1}})
TRUSTED = (OTHER.public_key(), KEY.public_key())


def openssh(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def test_a_signed_bundle_is_taken_and_another_is_not() -> None:
    require_signature(b"bundle", PLAN, sign(b"bundle", PLAN, KEY), TRUSTED)
    with pytest.raises(Refused, match="not signed with a key"):
        require_signature(b"bundle", PLAN, sign(b"bundle", PLAN, KEY), TRUSTED[:1])
    with pytest.raises(Refused, match="not signed with a key"):
        require_signature(b"bundle!", PLAN, sign(b"bundle", PLAN, KEY), TRUSTED)
    with pytest.raises(Refused, match="is not signed"):
        require_signature(b"bundle", PLAN, None, TRUSTED)
    require_signature(b"bundle", PLAN, None, ())


def test_another_plan_needs_another_signature() -> None:
    signature = sign(b"bundle", PLAN, KEY)
    other = {**json.loads(PLAN), "train": {"lr": 100.0}}
    with pytest.raises(Refused, match="sign it with the experiment and overrides of the run"):
        require_signature(b"bundle", json.dumps(other), signature, TRUSTED)
    both = f"{signature} {sign(b'bundle', json.dumps(other), KEY)}"
    assert require_signature(b"bundle", json.dumps(other), both, TRUSTED) == KEY.public_key()


def test_a_resumed_run_and_its_checkpoint_need_no_other_signature() -> None:
    again = json.dumps({**json.loads(PLAN), "federation": "b", "weights": "c" * 64}, indent=1)
    require_signature(b"bundle", again, sign(b"bundle", PLAN, KEY), TRUSTED)


def test_a_fingerprint_is_the_one_that_ssh_keygen_prints(tmp_path: Path) -> None:
    path = tmp_path / "key.pub"
    path.write_text(openssh(KEY))
    shown = subprocess.run(["ssh-keygen", "-lf", str(path)], capture_output=True, text=True)
    assert shown.stdout.split()[1] == key_fingerprint(KEY.public_key())


def test_the_signature_is_for_this_purpose_alone() -> None:
    import hashlib

    bare = base64.b64encode(KEY.sign(hashlib.sha256(b"bundle").digest())).decode()
    with pytest.raises(Refused):
        require_signature(b"bundle", PLAN, bare, TRUSTED)


@given(st.text() | st.integers() | st.binary().map(lambda b: base64.b64encode(b).decode()))
def test_any_other_text_is_no_signature(signature: object) -> None:
    with pytest.raises(Refused):
        require_signature(b"bundle", PLAN, signature, TRUSTED)
