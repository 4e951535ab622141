"""What left a site is what arrived at the server: two real logs of one exchange, and each attack."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consortium.audit import Comparison, compare
from fedstrata.support.audit import AuditLog, Line
from fedstrata.support.audit_check import read_and_verify
from fedstrata.support.ed25519 import private_key
from tests.helpers.audited_site import AuditedSite
from tests.helpers.exchanges import CLINIC, exchange


@dataclass(frozen=True)
class Logs:
    """Both logs of a run, with the keys that signed them."""

    site: Path
    server: Path
    site_key: Ed25519PrivateKey
    server_key: Ed25519PrivateKey

    def copied(self, folder: Path) -> Logs:
        """Return copies that a test may change."""
        for path in (self.site, self.server):
            for name in (path.name, f"{path.name}.head"):
                target = folder / path.parent.name / name
                target.parent.mkdir(exist_ok=True, parents=True)
                shutil.copy(path.parent / name, target)
        site, server = (folder / p.parent.name / p.name for p in (self.site, self.server))
        return replace(self, site=site, server=server)

    def lines(self) -> tuple[list[Line], list[Line]]:
        return read_and_verify(self.site).lines, read_and_verify(self.server).lines

    def compared(self) -> Comparison:
        return compare(*self.lines())


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Logs:
    folder = tmp_path_factory.mktemp("exchange")
    site = AuditedSite(folder / "site", CLINIC, "clinic", "gender")
    run = exchange(folder, site)
    keys = private_key(folder / "site" / "keys" / "audit.key"), private_key(folder / "server.key")
    return Logs(site.log.path, run / "audit.jsonl", *keys)


def test_both_logs_are_whole_and_say_the_same(logs: Logs) -> None:
    for path, key in ((logs.site, logs.site_key), (logs.server, logs.server_key)):
        assert read_and_verify(path, (key.public_key(),)).problems == []
    found = logs.compared()
    assert (found.site, found.problems, found.notes) == ("clinic", [], [])
    # Two rounds of a report and two groups, and the evaluation's report.
    assert found.same == 2 * 3 + 1


def test_the_server_records_the_run(logs: Logs) -> None:
    _, server = logs.lines()
    events = [line.event for line in server]
    assert events[0] == "submitted"
    assert events[-1] == "ended"
    assert events.count("admitted") == events.count("checkpoint") == 2
    assert {line.fields["site"] for line in server if line.event == "arrived"} == {
        "clinic",
        "practice",
    }


def forged(lines: list[Line], key: Ed25519PrivateKey, path: Path) -> None:
    """Write a log of these lines anew, signed and chained as its owner can."""
    for old in (path, path.with_name(f"{path.name}.head")):
        old.unlink()
    log = AuditLog(path, key)
    for line in lines:
        log.append(line.event, **line.fields)


def other_hash(line: Line) -> Line:
    group = {"bytes": 7, "sha256": "0" * 64}
    return replace(
        line, fields={**line.fields, "layers": {**line.fields["layers"], "common": group}}
    )


def of_training(lines: list[Line], event: str) -> int:
    """Return where the clinic's first line of ``event`` in training is."""
    return next(
        number
        for number, line in enumerate(lines)
        if line.event == event
        and line.fields["kind"] == "train"
        and line.fields.get("site", "clinic") == "clinic"
    )


def change(lines: list[Line], at: int) -> list[Line]:
    return [*lines[:at], other_hash(lines[at]), *lines[at + 1 :]]


def take_out(lines: list[Line], at: int) -> list[Line]:
    return [*lines[:at], *lines[at + 1 :]]


def put_in(lines: list[Line], at: int) -> list[Line]:
    return [*lines[:at], other_hash(lines[at]), *lines[at:]]


@pytest.mark.parametrize("forge", [change, take_out, put_in])
@pytest.mark.parametrize("side", ["site", "server"])
def test_whoever_has_the_key_of_one_log_cannot_change_the_other(
    logs: Logs, tmp_path: Path, side: str, forge: Callable[[list[Line], int], list[Line]]
) -> None:
    copied = logs.copied(tmp_path)
    lines = copied.lines()[side == "server"]
    at = of_training(lines, "arrived" if side == "server" else "left")
    key = copied.server_key if side == "server" else copied.site_key
    path: Path = getattr(copied, side)
    forged(forge(lines, at), key, path)
    assert read_and_verify(path, (key.public_key(),)).problems == []  # by itself it is whole
    problems = copied.compared().problems
    assert problems
    assert "clinic" in " ".join(problems)


def test_a_tail_that_was_cut_off_with_its_head_is_found_by_the_other_log(
    logs: Logs, tmp_path: Path
) -> None:
    copied = logs.copied(tmp_path)
    site, _ = copied.lines()
    forged(site[: of_training(site, "left")], copied.site_key, copied.site)
    assert all("its own log lacks it" in problem for problem in copied.compared().problems)


def test_an_answer_that_came_too_late_is_explained(tmp_path: Path) -> None:
    site = AuditedSite(tmp_path / "site", CLINIC, "clinic", "gender", lost={2})
    run = exchange(tmp_path, site, "strategy.deadline=1", "strategy.min_sites=1")
    found = compare(
        read_and_verify(site.log.path).lines, read_and_verify(run / "audit.jsonl").lines
    )
    assert found.problems == []
    assert len(found.notes) == 3
    assert "late: no answer within 1 s" in found.notes[0]


def test_lines_of_any_other_form_are_not_compared(logs: Logs) -> None:
    site, server = logs.lines()
    odd = [replace(line, fields={"run": 7, "kind": None, "site": []}) for line in site]
    assert compare(odd, server, "nobody").same == 0
    assert compare(site, [replace(line, event="arrived") for line in odd]).same == 0
