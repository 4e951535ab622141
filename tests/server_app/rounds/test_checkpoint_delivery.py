"""Who gets the pre-trained checkpoint: sites that are there, lack it, and say so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from flwr.app import Message

from fedstrata.protocol import answers, kinds, orders
from fedstrata.protocol.payload import texts_of
from models.weights import Checkpoint
from server_app.rounds.checkpoint_delivery import CheckpointDelivery
from server_app.rounds.dispatch import Ask
from server_app.rounds.records import RoundRecord
from server_app.sites.checkpoint_holders import CheckpointHolders
from server_app.sites.members import Member
from tests.helpers.members import member, site_report

CHECKPOINT = Checkpoint("0" * 64, {"w": torch.zeros(1)}, "a test")


class StandIn:
    """Stands in for the way to the sites: each site of ``having`` answers that it has it."""

    def __init__(self, members: list[Member], having: set[str], late: Iterable[str] = ()) -> None:
        self.having, self.late = having, set(late)
        self.asked: list[tuple[str, list[str]]] = []
        self.sent: dict[str, Any] = {}
        self.log = [].append
        self.settings = SimpleNamespace(deadline=1.0)
        self.state = SimpleNamespace(downlink=SimpleNamespace(note_known=lambda *_: None))
        self.roster = SimpleNamespace(
            everyone={m.site: m for m in members}, connected=lambda: {m.node_id for m in members}
        )

    def ask_each(
        self, ask: Ask, members: Iterable[Member], record: RoundRecord
    ) -> Iterator[tuple[Member, Message]]:
        asked = list(members)
        self.asked.append((ask.kind, [m.site for m in asked]))
        self.sent[ask.kind] = ask.layers
        for one in asked:
            if one.site in self.late:
                record.late[one.site] = "no answer"
                continue
            if ask.kind == kinds.WEIGHTS:
                self.having.add(one.site)
            query = orders.order(
                ask.kind, one.node_id, plan="{}", round_number=0, layers={}, ttl=60
            )
            report = site_report(one.site, holds_weights=one.site in self.having)
            yield one, answers.answer(query, report, {})


def delivery(dispatch: Any, lacking: set[str]) -> CheckpointDelivery:
    return CheckpointDelivery(dispatch, CheckpointHolders(lacking=lacking), {"": CHECKPOINT})


@pytest.fixture
def members() -> list[Member]:
    return [member(site, node_id=i) for i, site in enumerate("abc")]


def test_only_a_site_that_says_it_lacks_the_checkpoint_is_sent_it(members: list[Member]) -> None:
    dispatch = StandIn(members, having={"b"})
    made = delivery(dispatch, {"a", "b"})
    assert made.deliver(["a", "b", "c"], refused=())
    assert dispatch.asked == [(kinds.QUERY, ["a", "b"]), (kinds.WEIGHTS, ["a"])]
    assert not made.holders.lacking
    sent = bytes(dispatch.sent[kinds.WEIGHTS]["pretrained"].data)
    assert texts_of(sent, ["source", "licence"]) == CHECKPOINT.texts


def test_a_site_that_refused_the_last_round_is_asked_again(members: list[Member]) -> None:
    dispatch = StandIn(members, having={"a", "b", "c"})
    assert delivery(dispatch, set()).deliver(["a", "b", "c"], refused=["c"])
    assert dispatch.asked == [(kinds.QUERY, ["c"])]


def test_a_site_that_does_not_answer_is_silent(members: list[Member]) -> None:
    made = delivery(StandIn(members, having=set(), late=["a"]), {"a"})
    made.deliver(["a"], refused=())
    assert made.holders.silent == {"a"}
    assert made.holders.lacking == {"a"}


def test_without_a_checkpoint_nobody_is_asked(members: list[Member]) -> None:
    dispatch: Any = StandIn(members, having=set())
    assert not CheckpointDelivery(dispatch, CheckpointHolders(lacking={"a"})).deliver(["a"], ())
    assert dispatch.asked == []
