"""How a run stands, from its results and its progress."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedstrata.protocol.progress import Progress, SiteProgress
from fedstrata.runs.folder import RunView
from fedstrata.runs.standing import (
    BARS,
    duration_words,
    missing_sites,
    result_words,
    sites_line,
    tasks_of,
    trend,
)


def results(final: dict[str, Any] | None = None) -> dict[str, Any]:
    def row(accuracy: float) -> dict[str, Any]:
        return {"kind": "classes", "accuracy": accuracy, "worst": {"site": "a", "accuracy": 0.5}}

    rounds = [{"round": n, "tasks": {"age": row(0.5 + 0.1 * n)}} for n in (1, 2)]
    return {"rounds": rounds, "final": final}


def run_of(sites: dict[str, SiteProgress], **changes: Any) -> RunView:
    given: dict[str, Any] = {
        "path": Path("/runs/one"),
        "state": "running",
        "reason": "",
        "began": 0.0,
        "round": 2,
        "rounds": 4,
        "experiment": "faces",
        "progress": Progress(state="running", sites=sites),
        "results": results(),
    }
    return RunView(**{**given, **changes})


def test_a_task_has_its_trend_and_its_worst_site() -> None:
    (task,) = tasks_of(results())
    assert (task.task, task.measure, task.value, task.gain) == ("age", "accuracy", "70.00 %", "-")
    assert task.values == (0.6, 0.7)
    assert task.worst == "a 50.00 %"


def test_the_gain_over_alone_is_known_at_the_end() -> None:
    final = {"tasks": {"age": {"kind": "classes", "accuracy": 0.8, "alone_accuracy": 0.75}}}
    (task,) = tasks_of(results(final))
    assert (task.value, task.gain, len(task.values)) == ("80.00 %", "+5.00 points", 3)
    run = run_of({}, results=results(final))
    assert result_words(run) == "age: accuracy 80.00 % (+5.00 points over alone)"


def test_at_the_end_it_is_that_of_the_sites_that_were_trained_alone() -> None:
    row = {"kind": "classes", "accuracy": 0.8, "alone_accuracy": 0.7, "gain_over_alone": 0.02}
    (task,) = tasks_of(results({"tasks": {"age": row}}))
    assert task.gain == "+2.00 points"


def test_the_gain_over_alone_is_shown_as_soon_as_it_is_known() -> None:
    def at(accuracy: float, examples: int) -> dict[str, Any]:
        return {"kind": "classes", "task": "age", "accuracy": accuracy, "examples": examples}

    known = results()
    known["rounds"][-1]["sites"] = {"a": at(0.6, 10), "b": at(0.8, 30), "c": at(0.1, 5)}
    (task,) = tasks_of(known, {"a": 0.5, "b": 0.7, "c": 0.1})
    assert task.gain == "+8.89 points"  # (10 * 0.1 + 30 * 0.1 + 5 * 0) / 45
    (task,) = tasks_of(known, {"a": 0.5, "b": 0.7, "elsewhere": 0.9})
    assert task.gain == "+10.00 points (2 of 3 sites)"  # of the same sites
    assert tasks_of(known, {"elsewhere": 0.9})[0].gain == "-"


def test_less_of_an_error_is_a_gain() -> None:
    row = {"kind": "number", "unit": "years", "mae": 5.0, "alone_mae": 6.0}
    (task,) = tasks_of({"rounds": [], "final": {"tasks": {"age": row}}})
    assert (task.value, task.gain) == ("5 years", "+1 years")


def test_sites_are_counted_and_those_that_miss_are_named() -> None:
    run = run_of(
        {
            "a": SiteProgress(task="age", state="trained"),
            "b": SiteProgress(task="age", state="trained"),
            "c": SiteProgress(task="age", state="late", reason="no answer within 9 s"),
        }
    )
    assert sites_line(run) == "1 late, 2 trained"
    assert missing_sites(run) == ["c: late: no answer within 9 s"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(5.4, "5 s"), (61, "1 min 1 s"), (7500, "2 h 5 min")]
)
def test_times_are_words(seconds: float, words: str) -> None:
    assert duration_words(seconds) == words


def test_a_trend_goes_from_the_lowest_bar_to_the_highest() -> None:
    assert trend([0.1, 0.5, 0.9]) in ("▁▄█", "▁▅█")
    assert trend([0.3, 0.3]) == BARS[0] * 2
    assert trend([]) == ""


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["age", "accuracy", "worst", "kind"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=30)
@given(tasks=JSON, final=JSON)
def test_no_content_of_a_file_is_an_error(tasks: Any, final: Any) -> None:
    rounds = [{"tasks": tasks, "sites": {"a": final, "b": {"task": "age", **_plain(final)}}}]
    tasks_of({"rounds": rounds, "final": {"tasks": final}}, {"a": 0.5, "b": 0.25})


def _plain(content: Any) -> dict[str, Any]:
    return {"examples": 3, **content} if isinstance(content, dict) else {"accuracy": 0.5}
