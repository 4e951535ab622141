"""Public keys of hospitals are taken in as they were sent; a private one never is."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.flower.consortia import admit, new_consortium
from consortium.hospital_keys import add_hospital, hospitals_in, read_public_key
from consortium.members import Hospital
from fedstrata.support.errors import UserError
from site_guard.keys import make_keys

NORTH, SOUTH = Hospital("north", "grade"), Hospital("south", "stage")


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return new_consortium(tmp_path / "us", hospitals=[NORTH])


def test_a_hospital_is_its_name_its_task_and_its_public_keys(made: Path) -> None:
    keys = admit(made, SOUTH)
    home = made / "hospitals" / "south"
    assert hospitals_in(made) == (NORTH, SOUTH)
    assert {path.name for path in home.iterdir()} == {"supernode.pub", "audit.pub", "task"}
    for name in ("supernode.pub", "audit.pub"):
        assert (home / name).read_bytes() == (keys / name).read_bytes()
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o644


def test_the_audit_key_may_come_later(made: Path, tmp_path: Path) -> None:
    make_keys(tmp_path / "keys", "south")
    add_hospital(made, SOUTH, tmp_path / "keys" / "supernode.pub")
    assert not (made / "hospitals" / "south" / "audit.pub").exists()


def test_a_private_key_is_sent_back(made: Path, tmp_path: Path) -> None:
    make_keys(tmp_path / "keys", "south")
    with pytest.raises(UserError, match=r"must not leave its hospital.*keygen"):
        add_hospital(made, SOUTH, tmp_path / "keys" / "supernode.key")
    assert hospitals_in(made) == (NORTH,)


def test_keys_that_are_mixed_up_are_named(made: Path, tmp_path: Path) -> None:
    make_keys(tmp_path / "keys", "south")
    node, audit = (tmp_path / "keys" / name for name in ("supernode.pub", "audit.pub"))
    with pytest.raises(UserError, match=r"audit\.pub is no public key.*ecdsa"):
        add_hospital(made, SOUTH, audit)
    with pytest.raises(UserError, match=r"supernode\.pub is no public key.*ed25519"):
        add_hospital(made, SOUTH, node, node)


def test_one_key_is_of_one_hospital(made: Path) -> None:
    key = made.with_name("at-hospitals") / "north" / "supernode.pub"
    for hospital, replaces in ((SOUTH, False), (NORTH, True)):
        with pytest.raises(UserError, match="the key that north has already"):
            add_hospital(made, hospital, key, replaces=replaces)


def test_a_key_is_replaced_only_where_that_is_said(made: Path, tmp_path: Path) -> None:
    make_keys(tmp_path / "keys", "north")
    key, home = tmp_path / "keys" / "supernode.pub", made / "hospitals" / "north"
    before = (home / "supernode.pub").read_bytes()
    with pytest.raises(UserError, match="give --replace"):
        add_hospital(made, NORTH, key)
    with pytest.raises(UserError, match="leave out --replace"):
        add_hospital(made, SOUTH, key, replaces=True)
    assert (home / "supernode.pub").read_bytes() == before
    add_hospital(made, NORTH, key, replaces=True)
    assert (home / "supernode.pub").read_bytes() == key.read_bytes()
    assert (home / "audit.pub").exists()


def test_a_half_made_hospital_does_not_count(made: Path) -> None:
    (made / "hospitals" / ".south.0.tmp").mkdir()
    (made / "hospitals" / ".south.0.tmp" / "supernode.pub").write_text("x")
    assert hospitals_in(made) == (NORTH,)


@given(st.binary(max_size=300))
def test_what_is_no_key_is_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("key") / "supernode.pub"
    for before in (b"", b"ecdsa-sha2-nistp384 "):
        path.write_bytes(before + data)
        with pytest.raises(UserError, match=r"supernode\.pub"):
            read_public_key(path)
