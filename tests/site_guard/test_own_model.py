"""Which of the offered networks a site trains, as its own settings say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from flwr.app import Message

from fedstrata.protocol import kinds, orders
from fedstrata.protocol.limits import Refused
from fedstrata.protocol.plan import Plan
from fedstrata.support.errors import UserError
from site_guard.own_model import own_plan, require_own_model
from site_guard.plan_rules import PlanRules
from site_guard.plan_words import plan_words
from site_guard.settings import SiteSettings, read_settings
from tests.helpers.members import site_report
from tests.helpers.plans import plan_of

OFFERED = plan_of("faces", "+model@models.edge=small_cnn", "+model@models.wide=fedavg_cnn")
ONE = plan_of("faces", "model=small_cnn")


def site(model: str | None = None) -> SiteSettings:
    return SiteSettings("clinic", "grade", "/s", "/c", ("common",), model=model)


def query(plan: Plan) -> Message:
    return orders.order(kinds.QUERY, 7, plan=plan.to_json(), round_number=0, layers={}, ttl=60)


def test_the_plans_rules_are_about_the_sites_own_network() -> None:
    rules = PlanRules()
    rules.check_plan(own_plan(OFFERED, site("edge")))
    with pytest.raises(Refused, match="the plan trains 'fedavg_cnn', and this site's rule"):
        rules.check_plan(own_plan(OFFERED.of_model("edge"), site("wide")))
    for model, said in ((None, "names none of them"), ("big", r"'big' is none of the models")):
        with pytest.raises(Refused, match=said):
            own_plan(OFFERED, site(model))
    with pytest.raises(Refused, match="the run has one network for all sites, small_cnn"):
        own_plan(ONE, site("edge"))
    assert own_plan(ONE, site()) == ONE


def test_the_app_says_that_the_site_has_the_model_of_its_settings_and_no_other() -> None:
    require_own_model(query(OFFERED), site_report(model="edge"), site("edge"))
    require_own_model(query(ONE), site_report(), site("small_cnn"))
    for plan, said, own in ((OFFERED, "wide", "edge"), (OFFERED, "", "edge"), (ONE, "edge", None)):
        with pytest.raises(Refused, match="the app says that the site has"):
            require_own_model(query(plan), site_report(model=said), site(own))


def test_a_person_reads_which_network_the_site_would_train_and_which_are_offered() -> None:
    words = dict(plan_words(own_plan(OFFERED, site("edge"))))
    assert words["model"].startswith("edge: small_cnn (")
    assert words["model"].endswith("; offered: edge (small_cnn), wide (fedavg_cnn)")
    none = dict(plan_words(replace(OFFERED, own="")))
    assert none["model"].startswith("none of those that are offered; offered: edge")


def test_site_yaml_names_a_model_which_the_app_learns(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    text = "site: clinic\ntask: grade\nstate: /s\ncache: /c\nshare: [common]\nmodel: {}\n"
    path.write_text(text.format("edge"))
    assert read_settings(path).node_config()["model"] == "edge"
    path.write_text(text.format("'../edge'"))
    with pytest.raises(
        UserError, match=r"model is the name of one of the networks .* got '\.\./edge'"
    ):
        read_settings(path)
