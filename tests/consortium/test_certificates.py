"""Keys of a consortium: made once, private, and good for a real TLS connection."""

from __future__ import annotations

import itertools
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from consortium import certificates
from consortium.certificates import (
    add_hospital,
    create_consortium,
    hospitals_in,
    renew_certificate,
)
from consortium.members import Hospital
from fedstrata.support.ed25519 import private_key, public_keys
from fedstrata.support.errors import UserError

HOSPITALS = (Hospital("hospital-a", "gender"), Hospital("hospital-b", "pose"))


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = tmp_path / "consortium"
    create_consortium(folder, ["localhost", "127.0.0.1"], HOSPITALS)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def handshake(server: Path, authority: Path, name: str) -> str:
    """Return the TLS version that a client agrees on with the server; raise where it does not."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(server / "server.crt", server / "server.key")
    client = ssl.create_default_context(cafile=str(authority))
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            serving.wrap_socket(theirs, server_side=True).close()
        except (ssl.SSLError, OSError):
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=name) as connection:
            return str(connection.version())
    finally:
        ours.close()
        thread.join()


def test_a_hospital_trusts_the_server_by_name_and_by_address(made: Path) -> None:
    authority = made / "hospitals" / "hospital-a" / "ca.crt"
    for name in ("localhost", "127.0.0.1"):
        assert handshake(made / "superlink", authority, name).startswith("TLSv1.3")
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(made / "superlink", authority, "superlink.example")


def test_another_authority_is_not_trusted(made: Path, tmp_path: Path) -> None:
    create_consortium(tmp_path / "other", ["localhost"], ())
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path / "other" / "superlink", made / "authority" / "ca.crt", "localhost")


def test_private_keys_are_their_owners_alone(made: Path) -> None:
    private = [name for name in files(made) if name.endswith(".key")]
    assert len(private) == 5
    for name in private:
        assert stat.S_IMODE((made / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(made.stat().st_mode) == 0o700


def test_every_key_is_another_and_of_its_kind(made: Path) -> None:
    folders = sorted((made / "hospitals").iterdir())
    keys = [load_ssh_private_key((f / "supernode.key").read_bytes(), None) for f in folders]
    publics = [load_ssh_public_key((f / "supernode.pub").read_bytes()) for f in folders]
    assert all(isinstance(key, EllipticCurvePrivateKey) for key in keys)
    assert [key.public_key() for key in keys] == publics
    assert len(publics) == 2
    assert publics[0] != publics[1]
    signing = private_key(made / "signing" / "bundle.key")
    (public,) = public_keys([(made / "signing" / "bundle.pub").read_text()], "here")
    assert signing.public_key() == public


def test_nothing_is_overwritten(made: Path) -> None:
    before = files(made)
    with pytest.raises(UserError, match="never overwritten"):
        create_consortium(made, ["localhost"], HOSPITALS)
    with pytest.raises(UserError, match="never overwritten"):
        add_hospital(made, HOSPITALS[0])
    assert files(made) == before


@pytest.mark.parametrize("interrupted", range(8))
def test_an_interrupted_command_leaves_nothing_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted: int
) -> None:
    writes = itertools.count()

    def write(path: Path, data: bytes) -> None:
        if next(writes) == interrupted:
            raise KeyboardInterrupt
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    with monkeypatch.context() as patched:
        patched.setattr(certificates, "_write_private", write)
        patched.setattr(certificates, "_write_public", write)
        with pytest.raises(KeyboardInterrupt):
            create_consortium(tmp_path / "made", ["localhost"], HOSPITALS)
    assert list(tmp_path.iterdir()) == []
    create_consortium(tmp_path / "made", ["localhost"], HOSPITALS)
    assert hospitals_in(tmp_path / "made") == HOSPITALS


def test_a_half_made_hospital_does_not_count(made: Path) -> None:
    (made / "hospitals" / ".hospital-c.0.tmp").mkdir()
    (made / "hospitals" / ".hospital-c.0.tmp" / "supernode.pub").write_text("x")
    assert hospitals_in(made) == HOSPITALS


def test_a_hospital_joins_later_and_the_server_gets_a_new_certificate(made: Path) -> None:
    before = files(made)
    add_hospital(made, Hospital("hospital-c", "age"))
    renew_certificate(made, ["new.example"])
    assert hospitals_in(made) == (*HOSPITALS, Hospital("hospital-c", "age"))
    changed = {name for name, data in files(made).items() if before.get(name, data) != data}
    assert changed == {"superlink/server.key", "superlink/server.crt"}
    assert stat.S_IMODE((made / "superlink" / "server.key").stat().st_mode) == 0o600
    authority = made / "hospitals" / "hospital-c" / "ca.crt"
    assert handshake(made / "superlink", authority, "new.example")
