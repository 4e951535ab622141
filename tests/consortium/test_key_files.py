"""Key files: private from the first moment on, whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from consortium.key_files import (
    PRIVATE_FILE,
    PUBLIC_FOLDER,
    pem,
    read_key,
    replace,
    write,
)
from fedstrata.support.durable import new_folder
from fedstrata.support.errors import UserError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_private_file_is_private_before_it_has_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def note(descriptor: int, wanted: int) -> None:
        seen.append((stat.S_IMODE(os.fstat(descriptor).st_mode), os.fstat(descriptor).st_size))

    monkeypatch.setattr(os, "fchmod", note)
    before = os.umask(0)
    try:
        write(tmp_path / "key", b"secret", PRIVATE_FILE)
    finally:
        os.umask(before)
    assert seen == [(0o600, 0)]
    assert (tmp_path / "key").read_bytes() == b"secret"


def test_a_file_that_is_there_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("mine")
    with pytest.raises(FileExistsError):
        write(tmp_path / "key", b"theirs", PRIVATE_FILE)
    replace(tmp_path / "key", b"newer", PRIVATE_FILE)
    assert (tmp_path / "key").read_bytes() == b"newer"
    assert mode(tmp_path / "key") == 0o600


def fill(path: Path, mode_of_it: int, *, breaks: bool) -> None:
    with new_folder(path, mode_of_it) as made:
        write(made / "a", b"", PRIVATE_FILE)
        assert mode(made) == 0o700
        if breaks:
            raise KeyboardInterrupt


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "new", PUBLIC_FOLDER, breaks=True)
    assert list(tmp_path.iterdir()) == []
    fill(tmp_path / "new", PUBLIC_FOLDER, breaks=False)
    assert mode(tmp_path / "new") == 0o755
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "a"]


def test_a_folder_that_cannot_be_made_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="cannot be made"),
        new_folder(tmp_path / "file" / "new", PUBLIC_FOLDER),
    ):
        pass


def test_only_a_plain_key_of_an_elliptic_curve_is_read(tmp_path: Path) -> None:
    key, path = generate_private_key(SECP384R1()), tmp_path / "key"
    path.write_bytes(pem(key))
    assert read_key(path).private_numbers() == key.private_numbers()
    edwards = Ed25519PrivateKey.generate()
    form = Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    for data in (b"", b"nothing", edwards.private_bytes(*form)):
        path.write_bytes(data)
        with pytest.raises(UserError, match="key is no"):
            read_key(path)
