"""`fedstrata site audit`: the log of a site as a table and as JSON, and its exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedstrata.cli.site import main
from fedstrata.support.audit import AuditLog
from fedstrata.support.ed25519 import private_key
from site_guard.keys import make_keys

LAYERS = {"common": {"bytes": 4096, "sha256": "ab" * 32}}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return the site.yaml of a site whose log has three lines."""
    make_keys(tmp_path / "keys", "a")
    key = tmp_path / "keys" / "audit.key"
    log = AuditLog(tmp_path / "guard" / "a" / "audit.jsonl", private_key(key))
    log.append("start", site="a")
    log.append("order", run="17", kind="train", round=3, bundle="cd" * 32)
    log.append("left", run="17", kind="train", round=3, read={"train": 90}, layers=LAYERS)
    path = tmp_path / "site.yaml"
    path.write_text(
        f"site: a\ntask: gender\nshare: [common]\nstate: {tmp_path}/state\n"
        f"cache: {tmp_path}/cache\naudit: {{key: {key}}}\n"
    )
    return path


def exit_status(*arguments: str) -> object:
    with pytest.raises(SystemExit) as ended:
        main(["audit", *arguments])
    return ended.value.code


def test_the_table_says_what_left(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status("--settings", str(site), "--verify") == 0
    start, order, left, end = capsys.readouterr().out.splitlines()
    assert start.split()[-2:] == ["start", "a"]
    assert "order     train round 3" in order
    assert "bundle cdcdcdcdcdcd" in order
    assert "read train 90, layers common 4096 bytes abababababab" in left
    assert end == "3 lines, nothing is wrong"


def test_a_changed_line_ends_with_1(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = site.parent / "guard" / "a" / "audit.jsonl"
    log.write_text(log.read_text().replace("4096", "1024"))
    assert exit_status("--settings", str(site)) == 0  # as a table only
    capsys.readouterr()
    assert exit_status("--settings", str(site), "--verify") == 1
    assert "PROBLEM: line 3 (seq 3, left) is not as it was signed" in capsys.readouterr().out


def test_json_is_a_line_each(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status("--settings", str(site), "--json", "--verify") == 0
    printed = capsys.readouterr()
    assert [json.loads(line)["event"] for line in printed.out.splitlines()] == [
        "start",
        "order",
        "left",
    ]
    assert printed.err == "3 lines, nothing is wrong\n"


def test_lines_since_a_date(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status("--settings", str(site), "--since", "2100-01-01") == 0
    assert capsys.readouterr().out == ""
    assert exit_status("--settings", str(site), "--since", "2020-01-01T10:00") == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert exit_status("--settings", str(site), "--since", "yesterday") == 2


def test_a_log_without_a_key_says_what_that_means(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.write_text(site.read_text().partition("audit:")[0])
    assert exit_status("--settings", str(site), "--verify") == 0
    assert "note: no key: whoever can write the log" in capsys.readouterr().out


def test_a_site_without_a_log_is_an_error(site: Path) -> None:
    assert "No such file" in str(exit_status("--settings", str(site), "--log", "/nowhere"))
    (site.parent / "keys" / "audit.pub").unlink()
    assert "name it with --public-key" in str(exit_status("--settings", str(site)))
