"""A plan in words: what leaves, how long a round is, and nothing that a terminal would obey."""

from __future__ import annotations

from dataclasses import replace

import pytest

from site_guard.plan_words import plan_words
from tests.helpers.plans import plan_of

ONE = "1" * 64


def test_the_words_name_what_leaves_and_what_stays() -> None:
    words = dict(plan_words(plan_of("faces_paper", "strategy.coding.common=int8")))
    assert words["model"] == "resnet18 (head [128, 64], dropout 0.0)"
    assert words["group common"].startswith("layer4: leaves, averaged over all sites (up int8")
    assert words["group task"].startswith("head.0, head.1: leaves, averaged over the task")
    assert words["group personal"].endswith(": stays here")
    assert words["rounds"] == "6, with 100% of the sites in each"
    tuned = plan_of("faces", "deployment.epochs=1")
    assert "fine-tuning of the personal layers" in dict(plan_words(tuned))["afterwards"]
    measured = dict(plan_words(replace(tuned, rounds=0)))
    assert measured["rounds"] == "none: the models of the finished run march-1234 are measured"
    assert words["a round"] == "4 epochs in batches of 32"
    assert words["optimizer"].startswith("sgd (lr 0.03")
    assert words["privacy"].startswith("none")


def test_groups_that_are_known_are_listed_and_configured_ones_are_called_so() -> None:
    plan = plan_of("faces_paper", "method=fedproto")
    words = dict(plan_words(plan, groups=[("group personal", "all: stays here")]))
    assert words["group personal"] == "all: stays here"
    assert not {"groups", "group common", "knowledge prototypes"} & words.keys()
    configured = dict(plan_words(plan))
    assert configured["groups"].startswith("as configured: method fedproto may move layers")
    assert "group common" in configured


def test_knowledge_is_named_with_what_it_is() -> None:
    words = dict(plan_words(plan_of("faces_paper", "method=dbe")))
    assert words["knowledge means"].startswith(
        "leaves where `share` names it: once, before round 1"
    )


def test_what_arrives_only_is_named() -> None:
    words = dict(plan_words(plan_of("faces_paper", "method=fedgh")))
    assert words["received global_head"].startswith("from the server, and never leaves: the last")
    assert "received global_head" not in dict(plan_words(plan_of("faces_paper", "method=fedproto")))


def test_words_of_a_server_stay_on_their_line() -> None:
    plan = plan_of("faces_paper")
    hostile = replace(plan, model={"name": "resnet18\n\x1b[2Jgroup", "head": "x" * 10_000})
    for _, text in plan_words(hostile):
        assert text.isprintable()
        assert len(text) < 400


@pytest.mark.parametrize(
    ("weights", "signed", "words"),
    [
        ("", "", "not known yet; no signature binds it"),
        (ONE, "", "checkpoint 1111111111111111; no signature binds it"),
        ("", "any", "not known yet; the signature leaves it open: any checkpoint may come"),
        ("", ONE, "checkpoint 1111111111111111, as signed"),
        ("", "none", "no checkpoint, as signed"),
    ],
)
def test_the_words_say_what_binds_the_start(weights: str, signed: str, words: str) -> None:
    plan = replace(plan_of("faces_paper"), weights=weights)
    assert dict(plan_words(plan, signed))["start"] == words


def test_the_words_say_that_layers_go_to_other_sites() -> None:
    assert "other sites" not in dict(plan_words(plan_of("faces")))
    words = dict(plan_words(plan_of("faces", "cross_site=updates")))
    assert words["other sites"].endswith("Only with plan: {cross-site: true} in site.yaml")


def test_the_words_say_that_sums_leave() -> None:
    for overrides, said in ((["data.standardize=agreed"], True), ([], False)):
        headings = [heading for heading, _ in plan_words(plan_of("tabular", *overrides))]
        assert ("before" in headings) is said


def test_the_words_name_the_columns_whose_categories_leave() -> None:
    words = dict(plan_words(plan_of("tabular", "data.categories={cp:agreed,sex:[f,m]}")))
    assert words["before"] == "the names of all categories in 'cp' leave, once, for one list"
