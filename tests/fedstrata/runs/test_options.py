"""Options of a configuration, and what differs between runs."""

from __future__ import annotations

from fedstrata.runs import options
from tests.helpers.run_results import run_results, typed


def test_what_differs_between_runs() -> None:
    rows = options.differences([typed(run_results()), typed(run_results(4))])
    assert rows == {"strategy.rounds": ["3", "4"]}


def test_what_is_chosen_stands_before_its_own_options() -> None:
    runs = []
    for method in ({"name": "fedala", "layers": 1}, {"name": "ditto", "pull": 0.1}):
        run = run_results()
        run["config"]["method"] = method
        runs.append(typed(run))
    rows = options.differences(runs)
    assert list(rows) == ["method.name", "method.layers", "method.pull"]
    assert rows["method.layers"] == ["1", ""]


def test_a_configuration_is_a_list_of_options() -> None:
    assert options.leaves({"a": {"b": True, "c": None}, "d": ["x", 1], "e": {}}) == {
        "a.b": "true",
        "a.c": "null",
        "d": "[x, 1]",
        "e": "{}",
    }
