"""The mean is exact to its documented bound, in any order, and cannot overflow."""

import numpy as np
import pytest
import torch
from flwr.serverapp import strategy as flower
from hypothesis import given
from hypothesis import strategies as st

from strategies.aggregators import (
    EXAMPLES_SLACK,
    MAX_MAGNITUDE,
    FixedPointSum,
    largest_sum,
    shift_of,
)
from strategies.aggregators.blocks import BLOCK
from strategies.aggregators.exact_sums import SMALL
from tests.helpers.aggregation import build, draw_round, flower_round, run_round


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_fedavg_agrees_with_flower(scale):
    current, updates, examples = draw_round(sites=10, scale=scale)
    ours = run_round(build("fedavg"), current, updates, examples)
    theirs = flower_round(flower.FedAvg(), 1, current, updates, examples)
    for name, tensor in ours.items():
        error = torch.linalg.vector_norm(tensor.double() - torch.from_numpy(theirs[name]))
        assert error <= 1e-6 * np.linalg.norm(theirs[name])


def weighted_mean(updates, examples):
    """Return the float64 mean, eq. (1)."""
    total = sum(examples[site] for site in updates)
    return {
        name: sum(update[name].double() * examples[site] for site, update in updates.items())
        / total
        for name in next(iter(updates.values()))
    }


@given(data=st.data())
def test_fedavg_error_stays_within_its_documented_bound_and_order_is_nothing(data):
    sites = [f"s{k}" for k in range(data.draw(st.integers(2, 7)))]
    value = st.floats(-MAX_MAGNITUDE, MAX_MAGNITUDE, width=32)
    rows = data.draw(
        st.lists(st.lists(value, min_size=4, max_size=4), min_size=len(sites), max_size=len(sites))
    )
    expected = {site: data.draw(st.integers(1, 10**6)) for site in sites}
    examples = {site: data.draw(st.integers(1, EXAMPLES_SLACK * expected[site])) for site in sites}
    updates = {
        site: {"w": torch.tensor(row, dtype=torch.float64)}
        for site, row in zip(sites, rows, strict=True)
    }
    means = []
    for order in (sites, data.draw(st.permutations(sites)), sites[::-1]):
        aggregator = build("fedavg")
        aggregator.begin({"w": torch.zeros(4, dtype=torch.float64)}, expected)
        for site in order:
            aggregator.add(site, updates[site], examples[site])
        means.append(aggregator.finish()["w"])
    assert torch.equal(means[0], means[1])
    assert torch.equal(means[0], means[2])
    n, total = sum(examples.values()), sum(expected.values())
    bound = len(sites) * 2.0**-37 * total / n
    magnitudes = weighted_mean({k: {"w": u["w"].abs()} for k, u in updates.items()}, examples)["w"]
    error = (means[0] - weighted_mean(updates, examples)["w"]).abs()
    assert (error <= bound + 16 * 2.0**-53 * magnitudes).all()


def test_fedavg_keeps_the_bound_where_it_is_tight():
    almost_two_units = {"w": torch.tensor([1.999 * 2.0**-36], dtype=torch.float64)}
    aggregator = build("fedavg")
    aggregator.begin(almost_two_units, {"a": 1, "b": 1})  # N = n = 2, so s = 36
    aggregator.add("a", almost_two_units, 1)
    aggregator.add("b", almost_two_units, 1)
    assert abs(aggregator.finish()["w"] - almost_two_units["w"]) <= 2 * 2.0**-37


def test_fedavg_of_one_update_is_that_update_bit_for_bit():
    tiny = {"w": torch.tensor([1e-30, -0.0, 3.0, 1e7, torch.finfo(torch.float32).tiny / 2])}
    aggregator = build("fedavg")
    aggregator.begin({"w": torch.zeros(5)}, {"a": 3, "b": 9})
    aggregator.add("b", tiny, 9)
    assert torch.equal(aggregator.finish()["w"].view(torch.int32), tiny["w"].view(torch.int32))


@pytest.mark.parametrize("examples", [1, 3, 2**20, 2**48 // 3])
@pytest.mark.parametrize("reported", [1, EXAMPLES_SLACK])
def test_fedavg_cannot_overflow(examples, reported):
    sites = ("a", "b", "c")[: 3 if 3 * examples < 2**48 else 2]
    for sign in (1.0, -1.0):
        largest = {"w": torch.full((3,), sign * MAX_MAGNITUDE)}
        aggregator = build("fedavg")
        aggregator.begin({"w": torch.zeros(3)}, dict.fromkeys(sites, examples))
        for site in sites:
            aggregator.add(site, largest, reported * examples)
        assert torch.equal(aggregator.finish()["w"], largest["w"])


def test_fedavg_bounds_the_examples():
    aggregator = build("fedavg")
    aggregator.begin({"w": torch.zeros(3)}, {"a": 5, "b": 5})
    with pytest.raises(ValueError, match="'a' reports 11 examples, 5 were expected"):
        aggregator.add("a", {"w": torch.ones(3)}, 11)
    with pytest.raises(ValueError, match="2\\*\\*48"):
        aggregator.begin({"w": torch.zeros(3)}, {"a": 2**48})


def integer_sums(updates, examples, shift):
    """Return the sums as integers alone make them: each term cut towards zero."""
    return sum(
        (np.float64(n * 2.0**shift) * each.double().numpy()).astype(np.int64)
        for each, n in zip(updates, examples, strict=True)
    )


@given(data=st.data())
def test_sums_are_those_of_integers_to_the_bit(data):
    size = data.draw(st.sampled_from([3, SMALL, SMALL + 1, BLOCK + SMALL]))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    powers = data.draw(st.lists(st.integers(-40, 24), min_size=1, max_size=4))
    examples = [data.draw(st.integers(1, 10**7)) for _ in powers]
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    updates = [
        ((torch.rand(size, generator=generator, dtype=torch.float64) * 2 - 1) * 2.0**p).to(dtype)
        for p in powers
    ]
    shift = shift_of(sum(examples))
    wanted = integer_sums(updates, examples, shift)
    # The sum of a cohort, of no site, changes no number, and makes all of them integers.
    nothing = data.draw(st.none() | st.integers(0, len(powers) - 1))
    sums, expected = FixedPointSum(shift), dict(zip("abcd", examples, strict=False))
    aggregator = build("fedavg")
    aggregator.begin({"w": torch.zeros(size, dtype=dtype)}, expected)
    for number, (site, update) in enumerate(zip(expected, updates, strict=True)):
        if number == nothing:
            sums.add_sums({"w": torch.zeros(size, dtype=torch.int64)})
        sums.add({"w": update}, examples[number])
        aggregator.add(site, {"w": update}, examples[number])
    mean = aggregator.finish()["w"]
    assert (sums.tensors["w"].numpy() == wanted).all()
    if len(powers) > 1:
        right = torch.from_numpy(wanted / (sum(examples) * 2.0**shift)).to(dtype)
        assert mean.double().numpy().tobytes() == right.double().numpy().tobytes()


def test_sums_of_cohorts_and_of_sites_add_up_at_their_largest():
    expected = {"a": 5, "b": 5, "c": 2}
    shift = shift_of(12)
    cohort, all_of_them = FixedPointSum(shift), FixedPointSum(shift)
    for examples in (10, 10):
        cohort.add({"w": torch.full((SMALL,), MAX_MAGNITUDE)}, examples)
    small = {"w": torch.full((SMALL,), 0.5)}
    all_of_them.add(small, 2)
    all_of_them.add_sums(cohort.tensors)
    assert (cohort.tensors["w"] == int(largest_sum(20, 12))).all()
    assert (all_of_them.tensors["w"] == int(largest_sum(20, 12)) + 2**shift).all()
    aggregator = build("fedavg")
    aggregator.begin({"w": torch.zeros(SMALL)}, expected)
    aggregator.add("c", small, 2)
    aggregator.add_sum({"a": 10, "b": 10}, cohort.tensors)
    assert (aggregator.finish()["w"] == (20 * MAX_MAGNITUDE + 1) / 22).all()


@given(data=st.data())
def test_an_update_that_is_held_is_added_to_the_bit(data):
    size = data.draw(st.sampled_from([0, 1, 3, SMALL + 1, 2 * BLOCK + SMALL]))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    power = data.draw(st.integers(-40, 24))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    drawn = torch.rand(size, generator=generator, dtype=torch.float64) * 2 - 1
    update = {"w": (drawn * 2.0**power).to(dtype), "last": torch.tensor(-0.0)}
    examples = data.draw(st.integers(1, 10**7))
    held, added = FixedPointSum(shift_of(examples)), FixedPointSum(shift_of(examples))
    held.hold(update, examples)
    given = {name: tensor.clone() for name, tensor in update.items()}
    for tensor in update.values():
        tensor.fill_(5)  # the copy alone counts
    copy = held.held()
    added.add(given, examples)
    for name, tensor in given.items():
        assert (copy[name].dtype, copy[name].shape) == (tensor.dtype, tensor.shape)
        assert copy[name].double().numpy().tobytes() == tensor.double().numpy().tobytes()
        assert torch.equal(held.tensors[name], added.tensors[name])
    assert held.held() == {}


def test_fedavg_keeps_no_update_while_they_arrive():
    aggregator = build("fedavg")
    current, updates, examples = draw_round(6)
    aggregator.begin(current, examples)
    for site, update in updates.items():
        aggregator.add(site, update, examples[site])
    assert aggregator._sum.held() == {}
    assert sum(t.nbytes for t in aggregator._sum.tensors.values()) == 2 * sum(
        t.nbytes for t in current.values()
    )
