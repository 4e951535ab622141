"""The numbers of a report on the wire: rounded once and for all, and no figure changes its meaning."""

from __future__ import annotations

import json
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedstrata.protocol.answers import SiteReport
from fedstrata.protocol.rounding import plain, rounded


def metrics(**values: float | None) -> dict[str, float | None]:
    given = {"examples": 3.0, "loss": 0.5, "accuracy": 1 / 3, "balanced_accuracy": 0.5}
    return {**given, "auroc": None, **values}


def test_plain_data_have_every_field_also_of_what_msgspec_read() -> None:
    given = {
        **{"site": "a", "task": "t", "classes": ["x"], "input_shape": [3], "examples": {"test": 1}},
        **{"baseline": {}, "fingerprints": {}, "schemas": {}, "holds_weights": False},
        **{"device": "cpu", "versions": {}, "error": "", "data": {"source": "b"}},
    }
    found = plain(msgspec.convert(given, SiteReport))
    assert (found["later"], found["model"], found["classes"]) == (False, "", ["x"])
    assert found["kind"]["name"] == "classes"
    empty = {"value_range": None, "counts": {}, "notes": [], "digest": ""}
    assert found["data"] == {**empty, "source": "b"}


def test_an_accuracy_of_so_many_examples_stays_to_the_bit() -> None:
    for examples in (1, 3, 7, 1000, 65_537):
        for right in {0, 1, examples // 3, examples - 1, examples}:
            part = metrics(examples=float(examples), accuracy=right / examples)
            assert rounded({"metrics": {"test": part}})["metrics"]["test"] == part


def test_what_no_count_of_examples_gives_becomes_the_nearest_that_one_does() -> None:
    record = {"metrics": {"test": metrics(accuracy=0.6, balanced_accuracy=0.12345678, auroc=0.25)}}
    found = rounded(record)["metrics"]["test"]
    assert found == metrics(accuracy=2 / 3, balanced_accuracy=0.123457, auroc=0.25)
    record = {"baseline": {"accuracy": 0.6}, "kind": {"name": "classes"}, "examples": {"test": 3}}
    assert rounded(record)["baseline"] == {"accuracy": 2 / 3}


@pytest.mark.parametrize(
    ("loss", "left"), [(0.123456789, 0.123457), (1.23456789e30, 1.234568e30), (-0.0, 0.0)]
)
def test_losses_and_seconds_have_few_digits(loss: float, left: float) -> None:
    found = rounded({"loss": loss, "seconds": 12.3456})
    assert found == {"loss": left, "seconds": 12.3}
    assert json.dumps(found["loss"]) == json.dumps(left)  # the sign of zero as well


@given(
    st.floats(0, 1),
    st.floats(0, 1e39),
    st.floats(0, 1e7),
    st.integers(1, 2**24),
)
def test_a_rounded_report_stays_as_it_is(
    share: float, loss: float, seconds: float, examples: int
) -> None:
    part = metrics(
        examples=float(examples), accuracy=share, balanced_accuracy=share, auroc=share, loss=loss
    )
    once = rounded({"loss": loss, "seconds": seconds, "metrics": {"test": part}})
    assert rounded(once) == once
    assert abs(once["metrics"]["test"]["accuracy"] - share) <= 0.5 / min(examples, 10**6) + 1e-12
    assert abs(once["metrics"]["test"]["auroc"] - share) <= 1e-6
    assert math.isclose(once["loss"], loss, rel_tol=1e-6, abs_tol=1e-6)


def test_other_fields_stay() -> None:
    record = {"site": "a", "error": "", "examples": {"train": 3}, "classes": ("x",)}
    assert rounded(record) == record


def test_errors_of_numbers_keep_seven_digits_in_any_unit() -> None:
    part = {
        "examples": 3.0,
        "loss": 0.5,
        "mae": 1.23456789e-9,
        "rmse": 12345.6789,
        "r2": -0.123456789,
    }
    found = rounded({"metrics": {"test": {**part, "mae/0": None, "mae/1": 0.123456789}}})
    assert found["metrics"]["test"] == {
        **{"examples": 3.0, "loss": 0.5, "mae": 1.234568e-9, "rmse": 12345.68, "r2": -0.123457},
        **{"mae/0": None, "mae/1": 0.1234568},
    }


def test_the_accuracy_of_labels_is_no_count_of_examples() -> None:
    part = {"examples": 3.0, "loss": 0.5, "auroc": 0.5, "average_precision": 0.5, "accuracy": 0.4}
    assert rounded({"metrics": {"test": part}})["metrics"]["test"]["accuracy"] == 0.4


def test_an_interval_has_the_decimals_of_its_measure() -> None:
    record = {"metrics": {"test": metrics()}, "interval": (0.123456789, 0.5)}
    assert rounded(record)["interval"] == [0.123457, 0.5]


def test_a_range_of_values_has_seven_digits() -> None:
    said = {"value_range": (-1024.00001, 65535.0), "counts": {"train": {"a": 1}}}
    found = rounded({"data": said})["data"]
    assert found == {**said, "value_range": [-1024.0, 65535.0]}
    assert rounded({"data": found})["data"] == found
    assert rounded({"data": {**said, "value_range": None}})["data"]["value_range"] is None
