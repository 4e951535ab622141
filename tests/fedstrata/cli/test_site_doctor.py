"""`fedstrata site doctor`: a line for each check, the line that mends it, and the exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedstrata.cli.site import main
from fedstrata.cli.site_doctor import report
from site_guard.doctor.checks import ok, problem, unknown


def exit_status(*arguments: str) -> object:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *arguments])
    return ended.value.code


def test_a_problem_ends_with_1_and_is_followed_by_its_mend(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert report([ok("data", "opens"), unknown("clock", "no key")], as_json=False) == 0
    assert "2 checks, no problems" in capsys.readouterr().out
    assert report([problem("key", "is \x1b[2Jopen", "chmod 600 key")], as_json=False) == 1
    assert capsys.readouterr().out.splitlines() == [
        "problem               key: is ?[2Jopen",
        "                        -> chmod 600 key",
        "1 checks, 1 problem",
    ]


def test_all_of_it_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(
        f"site: a\ntask: gender\nshare: [common]\nstate: {tmp_path}/state\n"
        f"cache: {tmp_path}/cache\ndata: {tmp_path}/absent\ndevice: cpu\n"
    )
    assert exit_status("--settings", str(path), "--json") == 1
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert found["data"]["state"] == "problem"
    assert found["server"]["state"] == found["key"]["state"] == "could not be checked"
    assert {"memory", "torch", "Flower", "disk, cache", "user", "audit key"} <= found.keys()


def test_a_wrong_address_is_an_error(tmp_path: Path) -> None:
    path = Path(__file__).resolve().parents[3] / "docs" / "site.yaml"
    assert "HOST:PORT" in str(exit_status("--settings", str(path), "--superlink", "nowhere"))
