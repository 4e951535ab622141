"""The names that trackers get are frozen, and their numbers are those of results.json."""

from __future__ import annotations

from typing import Any

import pytest

from server_app.trackers.logged import (
    MOST_SITES,
    left_out,
    of_deployment,
    of_end,
    of_round,
    parameters,
)
from tests.helpers.runs import SMALL
from tests.loopback import simulate

MEASURES = {"loss", "accuracy", "balanced_accuracy", "auroc"}
OF_A_SITE = {"train_examples", "train_loss", "steps", "planned_steps", "seconds", "examples"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    chosen = [
        *SMALL,
        "data.test=60",
        "data.validation=30",
        "data.identities=60",
        "baselines.alone=true",
    ]
    chosen += ["deployment.epochs=1", "deployment.groups=[common]"]
    played, _ = simulate(tmp_path_factory.mktemp("logged"), "faces", chosen, sites=2)
    return played


def names(numbers: dict[str, Any], at: str) -> set[str]:
    """Return what follows ``at/`` in the names, as far as it is one word."""
    parts = {name.removeprefix(f"{at}/") for name in numbers if name.startswith(f"{at}/")}
    return {part for part in parts if "/" not in part}


def test_the_names_of_a_round(results: dict[str, Any]) -> None:
    record = results["rounds"][0]
    found = of_round(record)
    assert names(found, "round") == {"seconds", "participants", "refused", "late", "absent"}
    assert names(found, "group/common") == {"bytes_down", "bytes_up"}
    assert names(found, "task/gender") == {*MEASURES, "examples", "sites", "spread"}
    assert names(found, "task/gender/worst") == {"accuracy"}
    assert names(found, "site/site-00") == MEASURES | OF_A_SITE
    assert names(found, "site/site-00/validation") == {*MEASURES, "examples"}
    assert found["task/gender/accuracy"] == record["tasks"]["gender"]["accuracy"]
    assert found["group/common/bytes_up"] == record["bytes_up"]["common"]
    assert {name.split("/")[0] for name in found} == {"round", "group", "task", "site"}


def test_the_names_of_the_end(results: dict[str, Any]) -> None:
    found = of_end(results, "final")
    compared = {"majority_accuracy", "alone_accuracy"}
    assert compared <= names(found, "final/task/gender")
    assert compared <= names(found, "final/site/site-00")
    assert {"accuracy", "alone_accuracy"} <= names(found, "final/mean")
    male = results["final"]["tasks"]["gender"]["by_class"]["male"]
    rates = ("sensitivity", "specificity", "ppv", "npv", "f1")
    known = {rate for rate in rates if male[rate] is not None}
    assert names(found, "final/task/gender/class/male") == known
    assert "sensitivity" in known
    assert {"best/task/gender/accuracy", "best/mean/accuracy"} <= of_end(results, "best").keys()
    final = results["final"]["tasks"]["gender"]
    assert found["final/task/gender/alone_accuracy"] == final["alone_accuracy"]


def test_the_names_of_the_fine_tuning(results: dict[str, Any]) -> None:
    found = of_deployment(results["deployment"])
    assert names(found, "deployment/mean/sites") >= {"before", "after", "gain"}
    assert names(found, "deployment/site/site-00/after") >= MEASURES
    assert names(found, "deployment/site/site-00") >= {"gain", "over_alone", "tuned"}


def test_the_names_of_what_a_run_was_made_with(results: dict[str, Any]) -> None:
    found = parameters(results)
    assert found["train.optimizer.lr"] == results["config"]["train"]["optimizer"]["lr"]
    assert found["seed"] == results["seed"]
    assert found["run"] == results["run"]
    assert found["version/torch"] == results["versions"]["torch"]
    row = results["partition"]["gender"][0]
    at = f"partition/gender/{row['group']}"
    assert names(found, at) == {"tensors", "parameters", "bytes", "trained", "sent_to"}
    assert found[f"{at}/parameters"] == row["parameters"]
    assert names(found, "site/site-00") == {"task", "train", "validation", "test"}
    assert all(isinstance(value, str | int | float | bool) for value in found.values())


def test_of_very_many_sites_the_tasks_alone_are_logged(results: dict[str, Any]) -> None:
    assert left_out(results) == 0
    many = {f"s{number}": results["sites"]["site-00"] for number in range(MOST_SITES + 1)}
    assert left_out({**results, "sites": many}) == MOST_SITES + 1
    record = results["rounds"][0]
    sites = dict.fromkeys(many, record["sites"]["site-00"])
    found = of_round({**record, "sites": sites})
    assert not any(name.startswith("site/") for name in found)
    assert "task/gender/accuracy" in found


def test_a_class_with_a_strange_name_goes_by_its_number(results: dict[str, Any]) -> None:
    rates = results["final"]["tasks"]["gender"]["by_class"]["male"]
    task = {**results["final"]["tasks"]["gender"], "by_class": {"ok": rates, "../<b>": rates}}
    found = of_end({"final": {**results["final"], "tasks": {"gender": task}}}, "final")
    assert names(found, "final/task/gender/class/class-1")
    assert not any("<" in name or ".." in name for name in found)
