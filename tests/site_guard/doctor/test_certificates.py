"""Keys and certificates that Flower would not take, and what the doctor says."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from site_guard.doctor.certificates import check_authority, check_key
from site_guard.doctor.checks import OK, PROBLEM, Check
from site_guard.keys import make_keys
from tests.helpers.fleet import DAY, Authority


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    make_keys(tmp_path / "keys", "a")
    return tmp_path / "keys"


def problems(path: Path) -> dict[str, Check]:
    return {check.name: check for check in check_key(path) if check.state == PROBLEM}


def test_keys_of_keygen_are_right(keys: Path) -> None:
    assert problems(keys / "supernode.key") == {}


def test_a_key_that_others_can_read(keys: Path) -> None:
    (keys / "supernode.key").chmod(0o644)
    found = problems(keys / "supernode.key")["key"]
    assert "mode 644" in found.text
    assert found.mend == f"chmod 600 {keys}/supernode.key"
    (keys / "supernode.key").chmod(0o640)  # root's, and a group of the node's user alone
    assert problems(keys / "supernode.key") == {}


def test_a_key_that_is_not_there(keys: Path) -> None:
    assert "No such file" in problems(keys / "absent.key")["key"].text


@pytest.mark.parametrize("kind", ["another kind", "another curve", "passphrase"])
def test_a_key_that_flower_does_not_take(keys: Path, kind: str) -> None:
    curve = ec.SECP256K1() if kind == "another curve" else ec.SECP384R1()
    key = (
        ed25519.Ed25519PrivateKey.generate()
        if kind == "another kind"
        else ec.generate_private_key(curve)
    )
    secret = BestAvailableEncryption(b"secret") if kind == "passphrase" else NoEncryption()
    form = PrivateFormat.OpenSSH if kind == "another kind" else PrivateFormat.PKCS8
    path = keys / "supernode.key"
    path.write_bytes(key.private_bytes(Encoding.PEM, form, secret))
    assert "is no ECDSA key" in problems(path)["key's kind"].text


def test_a_public_key_of_another_pair(keys: Path, tmp_path: Path) -> None:
    make_keys(tmp_path / "others", "b")
    (keys / "supernode.pub").write_bytes((tmp_path / "others" / "supernode.pub").read_bytes())
    assert "is of another key" in problems(keys / "supernode.key")["key's pair"].text
    (keys / "supernode.pub").unlink()
    assert "ssh-keygen -y" in problems(keys / "supernode.key")["key's pair"].mend


def test_the_certificate_of_an_authority(tmp_path: Path) -> None:
    path = Authority("consortium").write(tmp_path / "ca.crt")
    assert check_authority(path).state == OK
    later = datetime.now(UTC) + 200 * DAY
    assert "ran out on" in check_authority(path, later).text
    assert "clock says" in check_authority(path, later - 400 * DAY).text
    path.write_text("nothing")
    assert "no certificate in PEM" in check_authority(path).text
    assert "No such file" in check_authority(tmp_path / "absent").text
