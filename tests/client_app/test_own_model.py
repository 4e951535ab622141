"""Which of the offered models a site has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from client_app.node_config import NodeSettings, read_node_settings
from client_app.own_model import own_plan
from fedstrata.protocol.plan import Plan, plan_from_json
from fedstrata.support.errors import UserError
from tests.helpers.plans import plan_of

OFFERED = ("+model@models.edge=small_cnn", "+model@models.big=resnet18")


def simulated(index: int, **more: Any) -> NodeSettings:
    settings = read_node_settings({"partition-id": index, "num-partitions": 6, **more}, {})
    return replace(settings, simulated=True)


def own(index: int, *overrides: str, site: str = "site-00") -> str:
    return own_plan(simulated(index), plan_of("faces", *OFFERED, *overrides), site).own


def deployed(plan: Plan, **more: Any) -> Plan:
    node = read_node_settings({"site": "clinic", **more}, {})
    return own_plan(replace(node, simulated=False), plan, "clinic")


def test_simulated_sites_have_models_in_turn_by_their_names_or_as_a_list_says() -> None:
    assert [own(index) for index in range(4)] == ["big", "edge", "big", "edge"]
    listed = "data.models=[edge,big,big]"
    assert [own(index, listed) for index in range(4)] == ["edge", "big", "big", "edge"]


def test_a_mapping_names_each_simulated_site() -> None:
    chosen = "data.models={site-00:edge,site-01:big}"
    assert [own(0, chosen, site=f"site-0{n}") for n in range(2)] == ["edge", "big"]
    with pytest.raises(UserError, match=r"no model for the site site-02: add site-02: big"):
        own(2, chosen, site="site-02")


def test_a_site_works_by_a_plan_with_its_own_network_which_stays_the_same() -> None:
    plan = plan_of("faces", *OFFERED, "data.models=[edge,big]")
    made = own_plan(simulated(1), replace(plan, starts={"big": "ab"}), "site-01")
    assert (made.model["name"], made.own, made.weights) == ("resnet18", "big", "ab")
    assert own_plan(simulated(1), made, "site-01") == made
    assert plan_from_json(made.to_json()) == made
    assert "models" not in made.data_options


def test_a_deployed_site_names_its_own_among_those_that_are_offered() -> None:
    plan = plan_of("faces", *OFFERED)
    assert deployed(plan, model="edge").model["name"] == "small_cnn"
    # What the server says a site's own model were is of no account.
    assert deployed(plan.of_model("big"), model="edge").own == "edge"
    listed = r"offers big \(resnet18\), edge \(small_cnn\)"
    with pytest.raises(
        UserError, match=rf"own `model`: 'egde' is none .* {listed} \(nearest: 'edge'"
    ):
        deployed(plan, model="egde")
    with pytest.raises(UserError, match=r"names none of them: write model: big in site\.yaml"):
        deployed(plan, **{"partition-id": 1, "num-partitions": 2})


def test_of_a_run_with_one_network_a_site_may_name_that_one_alone() -> None:
    plan = plan_of("faces", "model=small_cnn")
    assert deployed(plan) == deployed(plan, model="small_cnn") == plan
    with pytest.raises(UserError, match="one network for all sites, small_cnn: to take part"):
        deployed(plan, model="edge")
