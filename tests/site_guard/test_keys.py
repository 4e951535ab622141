"""The hospital's own keys: made once, private from the first moment, of the kinds that are needed."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from fedstrata.support.ed25519 import private_key, public_keys
from fedstrata.support.errors import UserError
from site_guard.keys import make_keys


def test_both_pairs_can_be_used(tmp_path: Path) -> None:
    made = make_keys(tmp_path / "keys", "north")
    assert isinstance(load_ssh_public_key(made["supernode"].encode()), EllipticCurvePublicKey)
    audit = private_key(tmp_path / "keys" / "audit.key")
    (public,) = public_keys([made["audit"]], "audit.pub")
    public.verify(audit.sign(b"line"), b"line")


def test_private_halves_are_the_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    make_keys(folder, "north")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert modes["supernode.key"] == modes["audit.key"] == 0o600


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    make_keys(folder, "north")
    before = (folder / "audit.key").read_bytes()
    with pytest.raises(UserError, match="never overwritten"):
        make_keys(folder, "north")
    assert (folder / "audit.key").read_bytes() == before


def test_a_command_that_is_killed_leaves_nothing_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, data: bytes, mode: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("site_guard.keys._write", killed)
        with pytest.raises(KeyboardInterrupt):
            make_keys(tmp_path / "keys", "north")
    assert list(tmp_path.iterdir()) == []
    make_keys(tmp_path / "keys", "north")
