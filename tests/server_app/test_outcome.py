"""The picture at the end follows from the sites that can be compared."""

from __future__ import annotations

from typing import Any

from server_app.outcome import BELOW_ALONE, BELOW_GUESS, WIDE, outcome
from server_app.rounds.records import mean_of_known, task_metrics, weighted_mean

MEANS = ("accuracy", "majority_accuracy", "alone_accuracy", "pooled_accuracy")


def site(
    accuracy: float, alone: float | None, pooled: float | None = None, examples: int = 10
) -> dict[str, Any]:
    return {
        "task": "grade",
        "kind": "classes",
        "accuracy": accuracy,
        "balanced_accuracy": accuracy,
        "auroc": None,
        "loss": 0.5,
        "majority_accuracy": 0.5,
        "alone_accuracy": alone,
        "pooled_accuracy": pooled,
        "examples": examples,
    }


def final(**sites: dict[str, Any]) -> dict[str, Any]:
    of_classes = [each for each in sites.values() if each["kind"] == "classes"]
    tasks = task_metrics(sites)
    for name, row in tasks.items():
        own = [each for each in sites.values() if each["task"] == name]
        for key in own[0]:
            if key.startswith(("majority_", "baseline_", "alone_", "pooled_")):
                row[key] = weighted_mean(own, key)
    return {
        "sites": sites,
        "tasks": tasks,
        "mean": {name: mean_of_known(each[name] for each in of_classes) for name in MEANS},
        "weighted_mean": {name: weighted_mean(of_classes, name) for name in MEANS},
    }


def test_of_many_tasks_some_have_bars_and_the_others_are_counted() -> None:
    text = outcome(
        final(**{f"s{n:02d}": {**site(0.7, 0.6), "task": f"t{n:02d}"} for n in range(53)})
    )
    assert "t49: accuracy" in text
    assert "t50: accuracy" not in text
    assert "3 more tasks" in text


def test_each_way_has_a_bar_as_long_as_its_share() -> None:
    lines = outcome(final(a=site(0.75, 0.5, 0.9), b=site(0.75, 0.5, 0.9))).splitlines()
    assert "grade: accuracy, 2 sites" in lines
    bars = {line[2:16].strip(): line.count("#") for line in lines if "#" in line}
    shares = {"majority class": 0.5, "alone": 0.5, "federated": 0.75, "in one place": 0.9}
    assert bars == {what: round(WIDE * share) for what, share in shares.items()}
    (federated,) = (line for line in lines if "federated  " in line)
    assert federated.endswith("75.00 %  +25.00 points against alone")
    assert all(line.isascii() for line in lines)


def test_what_was_not_measured_has_no_bar() -> None:
    text = outcome(final(a=site(0.9, None)))
    assert "in one place" not in text
    assert "alone" not in text.partition("mean over")[0]
    assert "against alone" not in text


def test_both_means_are_said() -> None:
    text = outcome(final(a=site(0.9, 0.8, 0.9, examples=30), b=site(0.5, 0.4, 0.7)))
    assert (
        "each site alike: majority class 50.00 %, alone 60.00 %, federated 70.00 %, "
        "in one place 80.00 %" in text
    )
    assert "by test examples: majority class 50.00 %, alone 70.00 %, federated 80.00 %" in text


def test_a_mean_over_fewer_sites_says_so() -> None:
    end = final(a=site(0.8, 0.5), b=site(0.6, None), c=site(0.7, None))
    end["mean"]["alone_sites"] = 1
    text = outcome(end)
    assert "each site alike: majority class 50.00 %, alone 50.00 % (1 of 3 sites), fed" in text


def test_only_sites_that_were_trained_alone_are_compared() -> None:
    text = outcome(final(a=site(0.9, 0.85), b=site(0.9, 0.85, examples=30), c=site(0.6, None)))
    assert "+5.00 points against alone" in text
    assert "+5.00 points on average; better at 2 of 2 sites (+5.00 points), worse at 0; " in text
    assert "1 of 3 sites were not trained alone" in text


def test_who_loses_is_named_the_worst_first_and_not_all_of_many() -> None:
    text = outcome(final(a=site(0.9, 0.8), b=site(0.7, 0.75), c=site(0.7, 0.9)))
    assert "worse at 2 (c -20.00 points, b -5.00 points)" in text
    many = {f"s{n}": site(0.5, 0.6 + n / 100) for n in range(7)}
    assert "s6 -16.00 points, s5 -15.00 points" in outcome(final(**many))
    assert "s2 -12.00 points and 2 more)" in outcome(final(**many))


def test_what_to_try_is_said_only_where_the_federation_is_below() -> None:
    good = outcome(final(a=site(0.9, 0.8), b=site(0.8, 0.85)))
    assert BELOW_ALONE not in good
    assert BELOW_GUESS not in good
    assert BELOW_ALONE in outcome(final(a=site(0.9, 0.95), b=site(0.8, 0.85)))
    guess = outcome(final(a=site(0.4, 0.3), b=site(0.55, 0.3)))
    assert f"below the majority class at 1 of 2 sites: {BELOW_GUESS}" in guess


def test_tasks_of_other_kinds_are_compared_by_themselves() -> None:
    age = {
        **{"task": "age", "kind": "number", "unit": "years", "examples": 10.0, "loss": 0.5},
        **{"mae": 6.25, "rmse": 8.0, "r2": 0.25, "baseline_mae": 10.0, "alone_mae": 7.0},
    }
    said = final(a=site(0.9, 0.8), b=age, c={**age, "mae": 8.25})
    text = outcome(said)
    assert "age: MAE, 2 sites, lower is better" in text
    assert "7.25 years  -0.25 years against alone" in text
    assert "age: the federation against alone: -0.25 years on average; better at 1 of 2" in text
    assert "worse at 1 (c -1.25 years)" in text
    longest = max(line.count("#") for line in text.splitlines())
    assert longest == WIDE  # the mean, the largest error


def test_a_run_without_answers_says_so() -> None:
    nobody = {"sites": {}, "tasks": {}, "mean": {}, "weighted_mean": {}}
    assert outcome(nobody) == "no site answered the final evaluation"
