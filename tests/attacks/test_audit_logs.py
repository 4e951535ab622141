"""A line that was changed, removed or put in is found in an audit log, or by the other side's log.

Who can write a log and has no key is found by the signatures. Who has the key of one log makes all of
it anew: by itself that log is whole, and the log of the other side says what really left or arrived.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedstrata.support.audit import AuditLog, Line
from fedstrata.support.audit_check import read_and_verify
from tests.helpers.exchanges import Logs, recorded_exchange


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Logs:
    return recorded_exchange(tmp_path_factory.mktemp("exchange"))


def forged(lines: list[Line], key: Ed25519PrivateKey | None, path: Path) -> None:
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


@pytest.mark.parametrize("forge", [change, take_out, put_in])
def test_whoever_has_no_key_is_found_by_the_signatures(
    logs: Logs, tmp_path: Path, forge: Callable[[list[Line], int], list[Line]]
) -> None:
    copied = logs.copied(tmp_path)
    site, _ = copied.lines()
    forged(forge(site, of_training(site, "left")), None, copied.site)
    assert read_and_verify(copied.site).problems == []  # the chain alone would not show it
    assert read_and_verify(copied.site, (logs.site_key.public_key(),)).problems
