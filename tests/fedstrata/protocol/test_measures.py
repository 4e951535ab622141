"""Which measures a kind of task has, and which of them leads."""

from __future__ import annotations

import pytest

from fedstrata.protocol.measures import MEASURES, MOST_BY_OUTPUT, kind_of, measure_of
from fedstrata.protocol.task_kinds import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_the_leading_measure_and_the_baseline_are_measures_of_the_kind(kind: str) -> None:
    measures = MEASURES[kind]
    assert {measures.leading, *measures.baseline} <= set(measures.of)
    assert measures.leading in measures.baseline
    assert kind_of(["examples", *measures.of]) == kind
    assert kind_of([*measures.of]) is None
    assert kind_of(["examples", *measures.of, "more"]) is None


def test_single_outputs_are_counted_without_gaps() -> None:
    names = ["examples", *MEASURES["labels"].of]
    assert MEASURES["labels"].of_outputs(2) == ("auroc/0", "auroc/1")
    assert kind_of([*names, "auroc/0", "auroc/1"]) == "labels"
    for wrong in (["auroc/0"], ["auroc/0", "auroc/2"], ["mae/0", "mae/1"]):
        assert kind_of([*names, *wrong]) is None
    assert MEASURES["classes"].of_outputs(9) == ()
    assert MEASURES["labels"].of_outputs(1) == MEASURES["labels"].of_outputs(65) == ()
    assert len(MEASURES["labels"].of_outputs(MOST_BY_OUTPUT)) == MOST_BY_OUTPUT
    assert measure_of("labels", "auroc/0").optional


def test_less_error_is_a_gain() -> None:
    assert MEASURES["number"].gain(2.0, 3.0) == 1.0
    assert MEASURES["classes"].gain(0.5, 0.75) == -0.25
    assert MEASURES["labels"].gain(None, 0.5) is None
