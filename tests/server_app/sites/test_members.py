"""Who answers a query: a member, or a rejected site with its reason."""

from __future__ import annotations

from dataclasses import replace

from flwr.app import Error, Message

from fedstrata.protocol import answers, cohort_answers, kinds, orders
from server_app.sites.allowed_keys import AllowedSite, AllowedSites
from server_app.sites.members import Member, RejectedSite, identified
from tests.helpers.members import site_report

ALLOWED = AllowedSites([AllowedSite("north", "grade", 7, "SHA256:x")])


def query() -> Message:
    return orders.order(kinds.QUERY, 7, plan="{}", round_number=0, layers={}, ttl=60)


def test_a_report_makes_a_member() -> None:
    (found,) = identified(7, answers.answer(query(), site_report(), {}), None, 1)
    assert found == Member(7, site_report())


def test_the_sites_of_a_cohort_are_members_each() -> None:
    reply = cohort_answers.cohort_answer(query(), [site_report("a"), site_report("b")], {})
    found = identified(7, reply, None, 2)
    assert [(one.site, isinstance(one, Member) and one.in_cohort) for one in found] == [
        ("a", True),
        ("b", True),
    ]


def test_a_cohort_that_names_a_site_twice_is_rejected() -> None:
    reply = cohort_answers.cohort_answer(query(), [site_report("a"), site_report("a")], {})
    (found,) = identified(7, reply, None, 2)
    assert found == RejectedSite(7, "", "answers twice for a")


def test_another_sites_name_is_unauthorized() -> None:
    (found,) = identified(7, answers.answer(query(), site_report("south"), {}), ALLOWED, 1)
    assert isinstance(found, RejectedSite)
    assert found.unauthorized
    assert "belongs to 'north'" in found.reason


def test_more_examples_than_the_roster_allows_are_unauthorized() -> None:
    report = site_report()
    most = report.examples["train"]
    for allowed, taken in ((most, True), (most - 1, False)):
        entry = replace(ALLOWED.by_site["north"], most_examples=allowed)
        reply = answers.answer(query(), report, {})
        (found,) = identified(7, reply, AllowedSites([entry]), 1)
        assert isinstance(found, Member) == taken
        if isinstance(found, RejectedSite):
            assert found.unauthorized
            assert f"the roster allows {allowed} (most-examples)" in found.reason


def test_a_site_that_cannot_take_part_says_why() -> None:
    report = replace(site_report(), error="no data yet")
    (found,) = identified(7, answers.answer(query(), report, {}), None, 1)
    assert found == RejectedSite(7, "north", "no data yet")


def test_flowers_own_error_is_a_reason() -> None:
    reply = Message(Error(code=2, reason="its app died"), reply_to=query())
    (found,) = identified(7, reply, None, 1)
    assert found == RejectedSite(7, "", "its app died (code 2)")
