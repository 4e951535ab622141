"""What left a site is what arrived at the server: two real logs of one exchange say the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from consortium.audit import compare
from fedstrata.support.audit_check import read_and_verify
from tests.helpers.audited_site import AuditedSite
from tests.helpers.exchanges import CLINIC, Logs, exchange, recorded_exchange


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Logs:
    return recorded_exchange(tmp_path_factory.mktemp("exchange"))


def test_both_logs_are_whole_and_say_the_same(logs: Logs) -> None:
    for path, key in ((logs.site, logs.site_key), (logs.server, logs.server_key)):
        assert read_and_verify(path, (key.public_key(),)).problems == []
    found = logs.compared()
    assert (found.site, found.problems, found.notes) == ("clinic", [], [])
    # The answer to the query, two rounds of a report and two groups, and the reports of the last
    # state and of the best one.
    assert found.same == 1 + 2 * 3 + 2


def test_the_server_records_the_run(logs: Logs) -> None:
    _, server = logs.lines()
    events = [line.event for line in server]
    assert events[:3] == ["submitted", "arrived", "arrived"]  # who joined, before the rounds
    assert events[-1] == "ended"
    assert events.count("admitted") == events.count("checkpoint") == 2
    assert {line.fields["site"] for line in server if line.event == "arrived"} == {
        "clinic",
        "practice",
    }


def test_an_answer_that_came_too_late_is_explained(tmp_path: Path) -> None:
    site = AuditedSite(tmp_path / "site", CLINIC, "clinic", "gender", lost={2})
    run = exchange(tmp_path, site, "strategy.deadline=1", "strategy.min_sites=1")
    found = compare(
        read_and_verify(site.log.path).lines, read_and_verify(run / "audit.jsonl").lines
    )
    assert found.problems == []
    assert len(found.notes) == 3
    assert "not awaited: no answer within 1 s" in found.notes[0]


def test_lines_of_any_other_form_are_not_compared(logs: Logs) -> None:
    site, server = logs.lines()
    odd = [replace(line, fields={"run": 7, "kind": None, "site": []}) for line in site]
    assert compare(odd, server, "nobody").same == 0
    assert compare(site, [replace(line, event="arrived") for line in odd]).same == 0
