"""`fedstrata consortium`: what is wrong with a command is said in one sentence, before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedstrata.cli.consortium import main, parser
from fedstrata.cli.site import main as site

FOUND = ["--authority", "AT/a", "--signing", "AT/s"]


def do(tmp_path: Path, *arguments: str) -> None:
    main([word.replace("AT", str(tmp_path)) for word in arguments])


@pytest.mark.parametrize(
    "arguments",
    [
        ["found", "AT/FILE/made", "--server", "localhost", *FOUND],
        ["add", "AT/FILE/made", "--hospital", "a:x", "--key", "k"],
        ["add", "AT/nowhere", "--hospital", "a:x", "--key", "k"],
        ["renew", "AT/nowhere", "--server", "localhost"],
        ["certify", "AT/nowhere/server.csr", "--authority", "AT/a", "--server", "localhost"],
        ["accept", "AT/nowhere", "AT"],
        ["register", "AT/nowhere", "connection"],
    ],
)
def test_an_impossible_folder_is_an_error_in_one_sentence(
    tmp_path: Path, arguments: list[str]
) -> None:
    (tmp_path / "FILE").write_text("")
    with pytest.raises(SystemExit, match=r"^fedstrata consortium: .*(FILE|nowhere)"):
        do(tmp_path, *arguments)


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (["found", "AT/us", "--server", "x"], "--signing"),
        (["add", "AT/us", "--hospital", "north:grade"], "--key"),
        (["add", "AT/us", "--key", "north.pub"], "--hospital"),
        (["certify", "server.csr", "--server", "x"], "--authority"),
    ],
)
def test_what_is_missing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], missing: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        do(tmp_path, *arguments)
    assert missing in capsys.readouterr().err


@pytest.mark.parametrize("hosts", [[], ["--server", "a b"]])
def test_mistakes_are_found_before_anything_is_written(tmp_path: Path, hosts: list[str]) -> None:
    with pytest.raises(SystemExit, match="--server"):
        do(tmp_path, "found", "AT/us", *hosts, *FOUND)
    assert list(tmp_path.iterdir()) == []


def test_from_founding_to_a_hospitals_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    do(tmp_path, "found", "AT/us", "--server", "localhost", *FOUND)
    said = capsys.readouterr().out
    assert "two other users than" in said
    assert f"able to read {tmp_path / 's'} or {tmp_path / 'a'}" in said
    site(["keygen", str(tmp_path / "north"), "--name", "north"])
    there = capsys.readouterr().out
    key = ["--key", "AT/north/supernode.pub", "--audit-key", "AT/north/audit.pub"]
    do(tmp_path, "add", "AT/us", "--hospital", "north:grade", *key)
    here = capsys.readouterr().out
    (fingerprint,) = [word for word in here.split() if word.startswith("SHA256:")]
    assert fingerprint in there


def test_with_an_authority_elsewhere_the_next_commands_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    do(tmp_path, "found", "AT/us", "--server", "localhost", "--signing", "AT/s")
    said = capsys.readouterr().out
    assert "fedstrata consortium certify server.csr --authority DIR --server localhost" in said
    assert f"fedstrata consortium accept {tmp_path / 'us'} ANSWER" in said
    csr = "AT/us/request/server.csr"
    do(tmp_path, "certify", csr, "--authority", "AT/a", "--server", "localhost")
    do(tmp_path, "accept", "AT/us", "AT/us/request")
    assert (tmp_path / "us" / "superlink" / "server.crt").exists()


def test_arguments_can_stand_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text("--name\nmarch\n-c\noverrides=strategy.rounds=3 seed=1\n")
    found = parser().parse_args(["run", "testbed", f"@{path}"])
    assert (found.name, found.pairs) == ("march", ["overrides=strategy.rounds=3 seed=1"])
