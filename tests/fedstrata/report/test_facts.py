"""What a page says in words."""

from __future__ import annotations

import msgspec
import pytest

from fedstrata.report import facts
from tests.helpers.run_results import HOSTILE, a_round, run_results, typed


def test_what_was_run() -> None:
    said = facts.in_words(typed(run_results()))
    assert said[0] == (
        "4 sites with 1 task (grade) trained resnet18 on faces for 3 rounds, by the method layers."
    )
    assert said[1] == "In each round a site trains (epochs: 2) with batches of 16."
    assert said[2] == "It began from the weights central. The seed is 7."


def test_what_was_refused_before_round_1_is_named() -> None:
    plain = run_results()
    plain["rounds"][0]["opening"] = {"refused": {"south": "out of order"}, "late": {}, "absent": {}}
    found = [each for each in facts.problems(typed(plain)) if each.reason == "out of order"]
    assert [(each.who, each.what, each.rounds) for each in found] == [
        ("south", "refused", "before round 1")
    ]


def test_which_networks_the_sites_have_where_there_are_several() -> None:
    plain = run_results(
        starts={"big": {"content_hash": "ab" * 32, "source": "central"}}, weights=None
    )
    names = {"north": "big", "south": "edge", "east": "edge", "west": "edge"}
    plain["sites"] = {name: {**plain["sites"][name], "model": names[name]} for name in names}
    plain["config"]["models"] = {"big": {"name": "resnet18"}, "edge": {"name": "small_cnn"}}
    said = facts.in_words(typed(plain))
    networks = "2 networks (big: resnet18 at 1 site; edge: small_cnn at 3 sites)"
    assert f"trained {networks} on faces" in said[0]
    assert said[2].startswith("It began from the weights central for big, and random ones for any")


def test_a_run_that_has_not_ended_or_stopped_says_so() -> None:
    assert facts.in_words(typed(run_results(final=None)))[-1].startswith("The run has not ended")
    stopped = typed(run_results(stopped={"round": 3, "reason": "no better for 2 rounds"}))
    assert facts.in_words(stopped)[-1] == "It stopped after round 3: no better for 2 rounds."


@pytest.mark.parametrize(
    ("state", "reason", "said"),
    [
        (
            "failed",
            "no room.",
            "This run failed: no room. The figures are of 3 complete rounds, of 8.",
        ),
        ("stopped", "Ctrl-C", "This run was stopped: Ctrl-C. The figures are of 3 complete rounds"),
        ("interrupted", "it waits", "This run broke off: its process ended without a word. The"),
        ("running", "", ""),
        ("complete", "", ""),
    ],
)
def test_a_run_that_did_not_reach_its_end_says_so_first(state: str, reason: str, said: str) -> None:
    plain = run_results(final=None)
    plain["config"]["strategy"]["rounds"] = 8
    results = msgspec.structs.replace(typed(plain), state=state, reason=reason)
    assert facts.standing(results).startswith(said)
    assert bool(said) == bool(facts.standing(results))
    assert ("has not ended" in facts.in_words(results)[-1]) == (not said)
    at_the_end = msgspec.structs.replace(results, final=typed(run_results()).final)
    assert ("of the state after its last round" in facts.standing(at_the_end)) == bool(said)


def test_who_gained_and_who_lost() -> None:
    results = typed(run_results())
    assert facts.verdict(results) == [
        "3 of 4 sites are better than alone, 1 is worse.",
        "grade is below the guess without input, by 1.56 points.",
    ]
    assert [row[:2] for row in facts.gains(results)] == [
        ("accuracy over alone, mean of 2 sites", "+5.94 points"),
        ("chest: AUROC over alone, mean of 1 site", "+0.044"),
        ("age: MAE over alone, mean of 1 site", "+1.25 years"),
    ]


def test_nothing_is_said_of_alone_where_it_was_not_measured() -> None:
    plain = run_results()
    for site in plain["final"]["sites"].values():
        for key in [key for key in site if key.startswith("alone_")]:
            site[key] = None
    assert facts.verdict(typed(plain))[0].startswith("Training alone was not measured")
    assert facts.gains(typed(plain)) == []


def test_equal_problems_share_a_row() -> None:
    late = {"late": {"south": "no answer"}, "kept": {"task/grade": "no update"}}
    rounds = [a_round(n, **late) for n in (1, 2, 3, 5)]
    rows = facts.problems(typed(run_results(1, rounds=rounds)))
    assert [(row.who, row.what, row.rounds) for row in rows] == [
        ("late-one", "refused", "at the end"),
        ("south", "late", "1 to 3, 5"),
        ("task/grade", "group kept as it was", "1 to 3, 5"),
    ]
    assert rows[0].reason == f"no answer {HOSTILE}"


def test_the_best_state_repeats_no_refusal_of_the_last() -> None:
    plain = run_results(1)
    plain["best"] = {**plain["final"], "round": 1}
    assert [row.rounds for row in facts.problems(typed(plain))] == ["at the end"]
    plain["best"] = {**plain["final"], "round": 1, "late": {"south": "no answer"}}
    assert [row.rounds for row in facts.problems(typed(plain))] == [
        "at the end, best state",
        "best state",
    ]


def test_bytes_are_those_of_all_rounds() -> None:
    rounds = typed(run_results()).rounds
    assert facts.totals(rounds, up=True) == {"common": 2700, "task": 300}
    assert facts.totals(rounds, up=False) == {"common": 3000, "task": 600}


def test_each_run_of_a_comparison_has_a_name_of_its_own() -> None:
    runs = [typed(run_results()), typed(run_results(4))]
    assert facts.labels(runs) == ["made-up (1)", "made-up (2)"]


def test_how_often_the_sites_measured_is_said_where_it_is_not_each_round() -> None:
    plain = run_results()
    plain["config"]["strategy"]["evaluate_every"] = 5
    said = facts.in_words(typed(plain))[1]
    assert said.endswith(
        "batches of 16. The sites measured what they received in rounds 1, 6, 11 and so on "
        "(strategy.evaluate_every=5), and the last state."
    )
