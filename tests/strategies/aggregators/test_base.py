"""What all aggregators check: who answers, with which tensors."""

import pytest
import torch

from strategies.aggregators import AGGREGATORS
from strategies.aggregators.base import copied
from tests.helpers.aggregation import build

STATE = {"w": torch.zeros(2)}
NAMES = list(AGGREGATORS)


def begun(name: str):
    aggregator = build(name)
    aggregator.begin(STATE, {"a": 3, "b": 3})
    return aggregator


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("site", "update", "examples", "said"),
    [
        ("c", STATE, 3, "was not asked"),
        ("a", STATE, 0, "at least 1"),
        ("a", {"v": torch.zeros(2)}, 3, "differ in the tensors"),
        ("a", {"w": torch.zeros(3)}, 3, "shape"),
    ],
)
def test_a_wrong_update_is_refused(name, site, update, examples, said) -> None:
    with pytest.raises(ValueError, match=said):
        begun(name).add(site, update, examples)


@pytest.mark.parametrize("name", NAMES)
def test_a_site_answers_once(name) -> None:
    aggregator = begun(name)
    aggregator.add("a", STATE, 3)
    with pytest.raises(ValueError, match="answered this round already"):
        aggregator.add("a", STATE, 3)


@pytest.mark.parametrize("name", NAMES)
def test_counters_are_never_aggregated(name) -> None:
    with pytest.raises(TypeError, match="only floating point"):
        build(name).begin({"n": torch.tensor(3)}, {"a": 3})


@pytest.mark.parametrize("name", NAMES)
def test_a_round_without_updates_changes_nothing(name) -> None:
    assert begun(name).finish() is None


def test_only_rules_of_sums_take_sums() -> None:
    with pytest.raises(TypeError, match="Median needs each site's own update"):
        begun("median").add_sum({"a": 3}, {"w": torch.zeros(2, dtype=torch.int64)})


def test_a_copy_shares_no_memory() -> None:
    given = {"w": torch.arange(6.0).reshape(2, 3).T}
    made = copied(given)
    given["w"].zero_()
    assert made["w"].is_contiguous()
    assert made["w"].tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
