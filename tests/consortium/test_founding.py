"""A consortium is founded with each key where it stays, and good for a real TLS connection."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from benchmarks.flower.consortia import new_consortium
from consortium import founding, key_files
from consortium.founding import accept, certify, found, renew
from fedstrata.support.ed25519 import private_key, public_keys
from fedstrata.support.errors import UserError

HOSTS = ["localhost", "127.0.0.1"]
ANOTHER_USER = 54321


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return new_consortium(tmp_path / "us", HOSTS)


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
    for name in HOSTS:
        assert handshake(made / "superlink", made / "public" / "ca.crt", name) == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(made / "superlink", made / "public" / "ca.crt", "superlink.example")


def test_another_authority_is_not_trusted(made: Path, tmp_path: Path) -> None:
    new_consortium(tmp_path / "elsewhere" / "other", HOSTS)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(
            tmp_path / "elsewhere" / "other" / "superlink", made / "public" / "ca.crt", "localhost"
        )


def test_no_key_of_the_authority_or_of_a_hospital_is_in_the_consortiums_folder(made: Path) -> None:
    private = [name for name, data in files(made).items() if b"PRIVATE KEY" in data]
    assert private == ["superlink/server.key"]
    assert sorted(files(made.with_name("authority"))) == ["ca.crt", "ca.key"]
    assert sorted(files(made.with_name("signing"))) == ["bundle.key", "bundle.pub"]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_modes_do_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        made = new_consortium(tmp_path / "us", HOSTS)
    finally:
        os.umask(before)
    modes = {p: stat.S_IMODE(p.stat().st_mode) for p in (made, *tmp_path.rglob("*"))}
    secret = {"server.key", "ca.key", "bundle.key", "appio.secret"}
    for path, mode in modes.items():
        if path.is_file():
            assert mode == (0o600 if path.name in secret else 0o644), path
    for name in ("authority", "signing", "us/superlink", "us/serverapp"):
        assert modes[tmp_path / name] == 0o700, name
    for name in ("us", "us/public", "us/roster", "us/hospitals"):
        assert modes[tmp_path / name] == 0o755, name


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user, which root alone can")
def test_another_user_reads_what_is_public_and_no_more(made: Path) -> None:
    for folder in made.parents:
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    names = [str(path) for path in made.parent.rglob("*") if path.is_file()]
    code = (
        "import os, sys\nos.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))\n"
        "for name in sys.argv[2:]:\n"
        "    try: open(name).read(1); print(name)\n    except OSError: pass\n"
    )
    command = [sys.executable, "-c", code, str(ANOTHER_USER), *names]
    read = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert {str(Path(name).relative_to(made)) for name in read} == {
        "public/ca.crt",
        "public/bundle.pub",
    }


def test_the_superexec_and_the_superlink_have_one_secret(made: Path) -> None:
    ours, theirs = (made / name / "appio.secret" for name in ("superlink", "serverapp"))
    assert ours.read_bytes() == theirs.read_bytes()
    assert len(ours.read_bytes()) == founding.SECRET_BYTES


def test_hospitals_get_the_line_that_belongs_to_the_signing_key(made: Path) -> None:
    (public,) = public_keys([(made / "public" / "bundle.pub").read_text()], "here")
    assert private_key(made.with_name("signing") / "bundle.key").public_key() == public


def test_nothing_is_overwritten(made: Path) -> None:
    before = files(made.parent)
    with pytest.raises(UserError, match="never overwritten"):
        new_consortium(made, HOSTS)
    assert files(made.parent) == before


@pytest.mark.parametrize(
    ("authority", "signing"), [("us/authority", "s"), ("a", "us"), ("a", "a"), (".", "s")]
)
def test_one_folder_for_two_owners_is_refused(tmp_path: Path, authority: str, signing: str) -> None:
    with pytest.raises(UserError, match=r"whoever gets that folder"):
        found(tmp_path / "us", HOSTS, tmp_path / authority, tmp_path / signing)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("interrupted", range(14))
def test_an_interrupted_command_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted: int
) -> None:
    writes, write = itertools.count(), key_files.write

    def breaks(path: Path, data: bytes, mode: int) -> None:
        if next(writes) == interrupted:
            raise KeyboardInterrupt
        write(path, data, mode)

    with monkeypatch.context() as patched:
        patched.setattr(founding, "write", breaks)
        patched.setattr(key_files, "write", breaks)
        with pytest.raises(KeyboardInterrupt):
            new_consortium(tmp_path / "us", HOSTS)
    assert not (tmp_path / "us").exists()
    assert not list(tmp_path.glob(".*"))
    made = new_consortium(tmp_path / "us", HOSTS)
    assert handshake(made / "superlink", tmp_path / "authority" / "ca.crt", "localhost")


def test_the_authority_may_be_on_another_machine(tmp_path: Path) -> None:
    us, there = tmp_path / "us", tmp_path / "there"
    found(us, HOSTS, None, tmp_path / "signing")
    assert not (us / "superlink" / "server.key").exists()
    there.mkdir()
    shutil.copy(us / "request" / "server.csr", there)
    certify(there / "server.csr", tmp_path / "authority", HOSTS)
    assert sorted(path.name for path in there.iterdir()) == ["ca.crt", "server.crt", "server.csr"]
    accept(us, there)
    assert handshake(us / "superlink", us / "public" / "ca.crt", "127.0.0.1")
    assert not (us / "request").exists()


def test_the_server_gets_a_new_certificate_of_the_same_authority(made: Path) -> None:
    before = files(made)
    renew(made, ["new.example"], made.with_name("authority"))
    changed = {name for name, data in files(made).items() if before.get(name) != data}
    assert changed == {"superlink/server.key", "superlink/server.crt"}
    assert stat.S_IMODE((made / "superlink" / "server.key").stat().st_mode) == 0o600
    assert handshake(made / "superlink", made / "public" / "ca.crt", "new.example")


def test_a_renewal_elsewhere_leaves_the_old_key_in_place_until_it_is_accepted(
    made: Path, tmp_path: Path
) -> None:
    before = files(made / "superlink")
    renew(made, ["new.example"], None)
    assert files(made / "superlink") == before
    with pytest.raises(UserError, match="accept"):
        renew(made, ["new.example"], None)
    certify(made / "request" / "server.csr", tmp_path / "authority", ["new.example"])
    accept(made, made / "request")
    assert handshake(made / "superlink", made / "public" / "ca.crt", "new.example")


def test_an_answer_to_another_request_is_refused(made: Path, tmp_path: Path) -> None:
    authority = tmp_path / "authority"
    other = tmp_path / "elsewhere" / "other"
    found(other, HOSTS, None, tmp_path / "elsewhere" / "signing")
    certify(other / "request" / "server.csr", authority, HOSTS)
    with pytest.raises(UserError, match="ask with"):
        accept(made, other / "request")
    renew(made, HOSTS, None)
    before = files(made)
    with pytest.raises(UserError, match="another key"):
        accept(made, other / "request")
    certify(made / "request" / "server.csr", tmp_path / "elsewhere" / "authority", HOSTS)
    with pytest.raises(UserError, match="another authority"):
        accept(made, made / "request")
    shutil.copy(authority / "ca.crt", made / "request" / "ca.crt")
    with pytest.raises(UserError, match="was not issued by"):
        accept(made, made / "request")
    assert {name: files(made)[name] for name in before} == before


def test_a_folder_without_an_authority_is_not_renewed_from(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ca\.key"):
        renew(made, HOSTS, tmp_path / "nowhere")
