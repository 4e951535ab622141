"""Who shares an order, and each site's own report in the answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from flwr.app import Message

from fedstrata.protocol import answers, cohort_answers, kinds, orders
from fedstrata.protocol.limits import Refused
from server_app.rounds.recipients import Recipients, by_order, split_answer
from tests.helpers.members import member, round_report

COHORT = [member(f"c{i}", node_id=9, in_cohort=True) for i in range(3)]


def order() -> Message:
    return orders.order(kinds.EVALUATE, 9, plan="{}", round_number=3, layers={}, ttl=60)


def test_the_sites_of_a_cohort_share_an_order_and_any_other_has_its_own() -> None:
    alone = [member("a", node_id=1), member("b", node_id=2)]
    groups = by_order([alone[0], COHORT[0], alone[1], COHORT[1]])
    assert [group.sites for group in groups] == [["a"], ["c0", "c1"], ["b"]]
    assert [group.node_id for group in groups] == [1, 9, 2]
    assert [group.in_cohort for group in groups] == [False, True, False]


def test_variants_are_listed_once() -> None:
    members = (COHORT[0], COHORT[1], replace(COHORT[2], report=member("c2", "stage").report))
    assert Recipients(members).variants == ["grade", "stage"]


def test_each_site_of_a_cohort_gets_its_own_report() -> None:
    reports = [round_report(m.site) for m in reversed(COHORT)]
    reply = cohort_answers.cohort_answer(order(), reports, {})
    split = split_answer(Recipients(tuple(COHORT)), reply)
    assert [(m.site, answers.read_round_report(part).site) for m, part in split] == [
        (name, name) for name in ("c0", "c1", "c2")
    ]


def test_an_answer_for_other_sites_is_refused() -> None:
    reply = cohort_answers.cohort_answer(
        order(), [round_report("c0"), round_report("stranger")], {}
    )
    with pytest.raises(Refused, match="does not answer for the sites"):
        split_answer(Recipients(tuple(COHORT[:2])), reply)


def test_an_answer_with_layers_is_refused() -> None:
    reply = cohort_answers.cohort_answer(order(), [round_report("c0")], {"common": b"x"})
    with pytest.raises(Refused, match="nobody asked for"):
        split_answer(Recipients((COHORT[0],)), reply)
