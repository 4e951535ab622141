"""The roster's file is read strictly; each mistake is said with its place and what to write."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st

from fedstrata.support.errors import UserError
from server_app.sites.allowed_keys import AllowedSite, AllowedSites
from server_app.sites.roster_file import VARIABLE, find_roster, read_roster
from tests.helpers.keys import new_key, public_line

KEYS = [new_key() for _ in range(3)]
EDWARDS = public_line(ed25519.Ed25519PrivateKey.generate())
A = {"task": "gender", "node-id": 2**64 - 2, "public-key": KEYS[0]}
B = {"task": "pose", "node-id": 7, "public-key": KEYS[1]}


def write(folder: Path, sites: Any) -> Path:
    path = folder / "roster.yaml"
    path.write_text(yaml.safe_dump({"sites": sites}))
    return path


def test_a_roster_is_read_as_written(tmp_path: Path) -> None:
    text = f"""
sites:
  hospital-a: {{task: gender, node-id: 18446744073709551614, public-key: "{KEYS[0]} root@a"}}
  hospital-b: {{task: pose, node-id: 7, public-key: {KEYS[1]}}}
"""
    path = tmp_path / "roster.yaml"
    path.write_text(text)
    roster = read_roster(path)
    assert roster.by_node[2**64 - 2].site == "hospital-a"
    assert roster.by_site["hospital-b"].task == "pose"
    assert roster.by_site["hospital-b"].node_id == 7


def test_the_most_examples_of_a_site_may_be_given(tmp_path: Path) -> None:
    roster = read_roster(write(tmp_path, {"hospital-a": {**A, "most-examples": 500}, "b": B}))
    assert roster.by_site["hospital-a"].most_examples == 500
    assert roster.by_site["b"].most_examples is None
    with pytest.raises(UserError, match="most-examples must be at least 1"):
        read_roster(write(tmp_path, {"hospital-a": {**A, "most-examples": 0}}))


def test_a_fingerprint_is_that_of_ssh_keygen(tmp_path: Path) -> None:
    (tmp_path / "a.pub").write_text(KEYS[0])
    command = ["ssh-keygen", "-l", "-f", str(tmp_path / "a.pub")]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("there is no ssh-keygen on this machine")
    entry = read_roster(write(tmp_path, {"hospital-a": A})).by_site["hospital-a"]
    assert entry.fingerprint == said.split()[1]
    assert str(entry).startswith("hospital-a (task gender, node 18446744073709551614, key SHA256:")


@pytest.mark.parametrize(
    ("sites", "said"),
    [
        ({}, "at least one site"),
        (["hospital-a"], "at least one site"),
        ({"hospital-a": "gender"}, "hospital-a: expected task, node-id, public-key"),
        ({"../a": A}, r"'\.\./a' cannot be a site's name"),
        ({True: A}, "True cannot be a site's name.*quote"),
        ({"a": {**A, "nodeid": 3}}, "a has no key 'nodeid'; there is 'node-id'"),
        ({"a": {"task": "gender", "node-id": 3}}, "a: public-key is missing"),
        ({"a": {**A, "node-id": "3"}}, "a: Expected `int`, got `str`.*node-id"),
        ({"a": {**A, "node-id": True}}, "a: Expected `int`, got `bool`"),
        ({"a": {**A, "node-id": 0}}, "a: node-id 0 is none"),
        ({"a": {**A, "node-id": 2**64}}, "node-id 18446744073709551616 is none"),
        ({"a": {**A, "task": "a/b"}}, "task 'a/b' cannot be"),
        ({"a": {**A, "public-key": "AAAA"}}, "one line of the site's .pub file"),
        ({"a": {**A, "public-key": KEYS[0][:90]}}, "one line of the site's .pub file"),
        ({"a": {**A, "public-key": EDWARDS}}, "beginning with 'ecdsa"),
        ({"a": A, "b": {**B, "node-id": A["node-id"]}}, "a and b have the same node-id"),
        ({"a": A, "b": {**B, "public-key": KEYS[0] + " other"}}, "have the same public-key SHA256"),
    ],
)
def test_a_mistake_is_reported_with_its_place(tmp_path: Path, sites: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        read_roster(write(tmp_path, sites))
    assert f"{VARIABLE}: {tmp_path}" in str(raised.value)


def test_a_private_key_is_never_repeated(tmp_path: Path) -> None:
    text = "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----"
    with pytest.raises(UserError, match="a private key stands there") as raised:
        read_roster(write(tmp_path, {"a": {**A, "public-key": text}}))
    assert "c2VjcmV0" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sites: {a: 1, a: 2}", r"'a' stands there twice \(line 1\)"),
        ("sites: {}\nsites: {}", r"'sites' stands there twice \(line 2\)"),
        ("sitse: {}", "no key 'sitse'; there is 'sites'"),
        ("", "expected sites by name"),
        ("sites: [", "is no YAML"),
        ("sites: !!python/object/apply:os.system ['true']", "is no YAML"),
        ("sites: {[1]: 2, [1]: 3}", "is no YAML"),
        ("sites: 2001-99-99", "is no YAML"),
    ],
)
def test_a_file_that_is_none_is_reported(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "roster.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        read_roster(path)


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: f"sites: {text}".encode()))
def test_any_file_at_all_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("r") / "roster.yaml"
    path.write_bytes(data)
    with pytest.raises(UserError):
        read_roster(path)


def test_only_the_environment_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert find_roster() is None
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none.yaml"))
    with pytest.raises(UserError, match=r"none\.yaml cannot be read"):
        find_roster()
    monkeypatch.setenv(VARIABLE, "roster.yaml")
    with pytest.raises(UserError, match="absolute path"):
        find_roster()


def test_two_entries_of_one_node_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one node"):
        AllowedSites([AllowedSite("a", "t", 1, "x"), AllowedSite("b", "t", 1, "y")])
