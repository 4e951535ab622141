"""A node with many virtual sites: each answers for itself, and their data are read once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from client_app import orders
from client_app.cohort import node as cohort_node
from client_app.cohort.node import SharedLayers, open_cohort, train_cohort
from client_app.context import DataKey
from client_app.node_config import NodeSettings, read_node_settings
from fedstrata.protocol.answers import RoundReport
from fedstrata.support.errors import UserError
from models.training.data import SiteData
from tests.helpers.site_contexts import opened, order, payloads, plan_of

PLAN = plan_of("cohort.sites=2", "cohort.batched=false")
NODE = {"partition-id": 1, "num-partitions": 2}
BATCHED = ["groups.pretrained=[]", "groups.common=[...]", "groups.task=[head.0]"]
EXPECTED = {"common": 48, "task/gender": 24, "task/pose": 24}


def settings(**more: object) -> NodeSettings:
    return read_node_settings({**NODE, **more}, {})


def scopes(own: dict[str, bytes]) -> dict[str, bytes]:
    """Return the payloads of a site's groups by scope, for both tasks."""
    return {
        "common": own["common"],
        "task/gender": own["task"],
        "task/pose": own["task"],
    }


def test_a_node_opens_its_own_range_of_sites() -> None:
    cohort = open_cohort(settings(), PLAN)
    assert list(cohort.contexts) == ["site-02", "site-03"]
    assert cohort.rejected == {}
    first, second = cohort.contexts.values()
    assert first.loaded is second.loaded
    assert [first.node.index, second.node.index] == [2, 3]
    assert [context.data.site for context in cohort.chosen(["site-03"])] == ["site-03"]
    with pytest.raises(UserError, match="the server asks for site-00, no site of this node"):
        cohort.chosen(["site-00", "site-03"])


def test_a_deployed_node_is_no_cohort() -> None:
    with pytest.raises(UserError, match=r"cohort\.sites=2 is for simulations"):
        open_cohort(settings(site="clinic"), PLAN)


def test_data_are_read_once_and_a_site_that_failed_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[int | None] = []
    broken = [3]

    def counted(key: DataKey, node: NodeSettings) -> SiteData:
        read.append(node.index)
        if node.index in broken:
            raise UserError("no examples in train")
        return plain(key, node)

    plain = cohort_node.read_site_data
    monkeypatch.setattr(cohort_node, "read_site_data", counted)
    cohort_node._known_data.cache_clear()
    assert open_cohort(settings(), PLAN).rejected == {"no examples in train": [3]}
    broken.clear()
    for _ in range(2):
        assert list(open_cohort(settings(), PLAN).contexts) == ["site-02", "site-03"]
    assert read == [2, 3, 3]


def test_layers_are_read_once_for_sites_of_one_model() -> None:
    cohort = open_cohort(settings(), PLAN)
    first, second = cohort.contexts.values()
    layers = SharedLayers(scopes(payloads(opened(PLAN))))
    one, other = layers.tensors(first), layers.tensors(second)
    assert one["conv3.weight"] is other["conv3.weight"]
    assert layers.by_group(first).keys() == {"common", "task"}
    with pytest.raises(UserError, match="the server sent nothing of 'common'"):
        SharedLayers({}).tensors(first)


def test_a_site_of_a_cohort_reports_what_it_reports_alone() -> None:
    context = open_cohort(settings(), PLAN).contexts["site-02"]
    own = payloads(context)
    (of_cohort,), _ = train_cohort([context], order(1, scopes(own)), EXPECTED)
    alone = opened(replace(PLAN, federation="run-2"), **{"partition-id": 2, "num-partitions": 4})
    by_itself, _ = orders.train(alone, order(1, own))
    assert isinstance(by_itself, RoundReport)
    assert by_itself.steps == 3
    assert replace(of_cohort, seconds=0) == replace(by_itself, seconds=0)


def test_a_site_that_fails_is_in_no_sum() -> None:
    contexts = list(open_cohort(settings(), PLAN).contexts.values())
    layers = scopes(payloads(contexts[0]))
    del layers["task/pose"]
    reports, sums = train_cohort(contexts, order(1, layers), EXPECTED)
    assert [bool(report.error) for report in reports] == [False, True]
    assert "the server sent nothing of 'task/pose'" in reports[1].error
    assert sums.keys() == {"common", "task/gender"}


@pytest.mark.parametrize(
    "overrides",
    [
        ["cohort.batched=false"],
        ["cohort.batched=false", "method=ditto", "groups=all_common", "groups.pretrained=[]"],
        ["model=linear", *BATCHED],
    ],
    ids=["one after the other", "a second model", "batched"],
)
def test_a_site_whose_layers_are_lost_says_so(overrides: list[str]) -> None:
    plan = plan_of("cohort.sites=4", *overrides)
    cohort = open_cohort(read_node_settings({"partition-id": 0, "num-partitions": 1}, {}), plan)
    contexts = [context for context in cohort.contexts.values() if context.data.task == "gender"]
    own = payloads(contexts[0])
    layers = {scope: own[group] for group, scope in cohort_node._keys(contexts[0]).items()}
    expected = dict.fromkeys(layers, 96)
    last = {context.data.site: 1 for context in contexts}
    train_cohort(contexts, order(1, layers), expected)
    whole, _ = train_cohort(contexts, order(2, layers)._replace(last=last), expected)
    assert [report.began_with for report in whole] == [None, None]
    lost, kept = (context.store for context in contexts)
    for number in lost.rounds():
        lost.path(number).unlink()
    again = order(3, layers)._replace(last=dict.fromkeys(last, 2))
    reports, _ = train_cohort(contexts, again, expected)
    assert {report.site: report.began_with for report in reports} == {
        lost.folder.name: 0,
        kept.folder.name: None,
    }
    if "batched" not in str(overrides):
        numerics = reports[0].numerics
        assert numerics is not None
        assert numerics.batched_sites == 2
