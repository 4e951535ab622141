"""Registration goes on where it was, and the roster says what the SuperLink knows."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_public_key,
)

from benchmarks.flower.consortia import admit, new_consortium
from consortium.members import Hospital
from consortium.registration import ROSTER, register
from fedstrata.support.errors import UserError
from server_app.sites.roster_file import read_roster

HOSPITALS = (Hospital("hospital-a", "gender"), Hospital("hospital-b", "pose"))


@dataclass
class Fake:
    """Stands for a SuperLink: takes each key once."""

    known: dict[bytes, int] = field(default_factory=dict)
    registered: int = 100
    breaks_after: int = -1
    burnt: set[bytes] = field(default_factory=set)

    def nodes(self) -> dict[bytes, int]:
        return dict(self.known)

    def register(self, public_key: Path) -> int:
        key = load_ssh_public_key(public_key.read_bytes())
        pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        if pem in self.known or pem in self.burnt:
            raise UserError("Public key already in use")
        self.registered += 1
        self.known[pem] = self.registered
        if len(self.known) == self.breaks_after:
            raise KeyboardInterrupt
        return self.registered

    def unregister(self, node_id: int) -> None:
        (pem,) = (pem for pem, known in self.known.items() if known == node_id)
        self.burnt.add(pem)
        del self.known[pem]


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return new_consortium(tmp_path / "made", ["localhost"], HOSPITALS)


def test_the_server_reads_the_roster_that_registration_writes(made: Path) -> None:
    assert register(made, Fake()) == {"hospital-a": 101, "hospital-b": 102}
    enrolled = read_roster(made / ROSTER)
    assert {name: (e.task, e.node_id) for name, e in enrolled.by_site.items()} == {
        "hospital-a": ("gender", 101),
        "hospital-b": ("pose", 102),
    }


@pytest.mark.parametrize("after", [1, 2])
def test_a_key_that_was_registered_before_a_break_keeps_its_node(made: Path, after: int) -> None:
    superlink = Fake(breaks_after=after)
    with pytest.raises(KeyboardInterrupt):
        register(made, superlink)
    superlink.breaks_after = -1
    assert register(made, superlink) == {"hospital-a": 101, "hospital-b": 102}


def test_a_burnt_key_is_replaced(made: Path) -> None:
    superlink = Fake()
    register(made, superlink)
    superlink.unregister(101)
    with pytest.raises(UserError, match=r"hospital-a.*was unregistered.*--replace"):
        register(made, superlink)
    admit(made, HOSPITALS[0], replaces=True)
    assert register(made, superlink) == {"hospital-a": 103, "hospital-b": 102}


def test_a_replaced_key_connects_no_more(made: Path) -> None:
    superlink, lines = Fake(), list[str]()
    register(made, superlink)
    admit(made, HOSPITALS[0], replaces=True)
    register(made, superlink, log=lines.append)
    assert sorted(superlink.known.values()) == [102, 103]
    assert lines == ["hospital-a: its old key is unregistered, node 101"]


@pytest.mark.parametrize("broken", ["unregister", "register"])
def test_a_replacement_that_broke_off_is_completed(made: Path, broken: str) -> None:
    superlink = Fake()
    register(made, superlink)
    admit(made, HOSPITALS[0], replaces=True)
    real = getattr(superlink, broken)

    def breaks(what: object) -> None:
        real(what)
        raise KeyboardInterrupt

    setattr(superlink, broken, breaks)
    with pytest.raises(KeyboardInterrupt):
        register(made, superlink)
    setattr(superlink, broken, real)
    assert register(made, superlink) == {"hospital-a": 103, "hospital-b": 102}
    assert sorted(superlink.known.values()) == [102, 103]


def test_a_node_of_no_hospital_is_named(made: Path) -> None:
    superlink, lines = Fake(), list[str]()
    superlink.known[b"of somebody"] = 7
    register(made, superlink, log=lines.append)
    assert len(lines) == 1
    assert "flwr supernode unregister 7" in lines[0]


def test_the_roster_can_be_read_by_the_serverapps_user(made: Path) -> None:
    before = os.umask(0o077)
    try:
        register(made, Fake())
    finally:
        os.umask(before)
    assert stat.S_IMODE((made / ROSTER).stat().st_mode) == 0o644
    assert stat.S_IMODE((made / ROSTER).parent.stat().st_mode) == 0o755


def test_the_roster_can_be_elsewhere(made: Path, tmp_path: Path) -> None:
    register(made, Fake(), tmp_path / "elsewhere" / "roster.yaml")
    assert sorted(read_roster(tmp_path / "elsewhere" / "roster.yaml").by_site) == [
        "hospital-a",
        "hospital-b",
    ]
    assert not (made / ROSTER).exists()


def test_a_hospital_that_joins_later_is_added(made: Path) -> None:
    superlink = Fake()
    register(made, superlink)
    admit(made, Hospital("hospital-c", "age"))
    assert register(made, superlink)["hospital-c"] == 103


def test_a_superlink_that_lost_its_database_gets_the_keys_again(made: Path) -> None:
    register(made, Fake())
    assert register(made, Fake(registered=200)) == {"hospital-a": 201, "hospital-b": 202}
    assert read_roster(made / ROSTER).by_site["hospital-b"].node_id == 202


def test_a_lost_roster_is_written_again(made: Path) -> None:
    superlink = Fake()
    register(made, superlink)
    before = (made / ROSTER).read_bytes()
    (made / ROSTER).unlink()
    register(made, superlink)
    assert (made / ROSTER).read_bytes() == before


def test_what_the_coordinator_allows_a_hospital_stays(made: Path) -> None:
    register(made, Fake())
    text = (made / ROSTER).read_text()
    (made / ROSTER).write_text(text.replace("    node-id:", "    most-examples: 500\n    node-id:"))
    register(made, Fake(registered=200))
    sites = read_roster(made / ROSTER).by_site.values()
    assert [(site.node_id, site.most_examples) for site in sites] == [(201, 500), (202, 500)]


@pytest.mark.parametrize("text", ["", "sites:", "[]", "sites: {a: {task: x}}", "{", "a: \udcff"])
def test_a_damaged_roster_is_refused_and_left_alone(made: Path, text: str) -> None:
    (made / ROSTER).write_bytes(text.encode(errors="surrogateescape"))
    superlink = Fake()
    with pytest.raises(UserError, match=r"roster.yaml is damaged.*move it away"):
        register(made, superlink)
    assert not superlink.known


def test_a_damaged_key_is_named(made: Path) -> None:
    (made / "hospitals" / "hospital-b" / "supernode.pub").write_text("nothing")
    with pytest.raises(UserError, match=r"hospital-b/supernode.pub is no public key"):
        register(made, Fake())
