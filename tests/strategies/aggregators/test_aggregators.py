"""Each aggregator against Flower's own, or against the formula; FedAvg's exactness; bad input."""

import itertools
import re
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from hypothesis import given
from hypothesis import strategies as st

from fedstrata.support.errors import UserError
from strategies.aggregators import AGGREGATORS, EXAMPLES_SLACK, MAX_MAGNITUDE, make_aggregator
from strategies.aggregators.blocks import BLOCK
from strategies.aggregators.krum import krum_scores, squared_distances
from strategies.aggregators.reply_buffer import ReplyBuffer
from tests.helpers.aggregation import (
    DEFAULTS,
    assert_same_bits,
    build,
    draw,
    draw_round,
    run_round,
)


def reply(update: Mapping[str, torch.Tensor], examples: int) -> Message:
    arrays = ArrayRecord({name: Array(tensor.numpy()) for name, tensor in update.items()})
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": examples})})
    asked = Message(RecordDict(), dst_node_id=1, message_type="train")
    return Message(content, reply_to=asked)


def flower_round(strategy, number, current, updates, examples):
    """Return what Flower's strategy makes of a round, as float64 arrays by name."""
    if isinstance(strategy, flower.FedAvgM):
        arrays = ArrayRecord({name: Array(tensor.numpy()) for name, tensor in current.items()})
        strategy.current_arrays = arrays
    elif hasattr(strategy, "current_arrays"):
        strategy.current_arrays = {name: tensor.numpy() for name, tensor in current.items()}
    replies = [reply(updates[site], examples[site]) for site in sorted(updates)]
    arrays, _ = strategy.aggregate_train(number, replies)
    return {name: array.numpy().astype(np.float64) for name, array in arrays.items()}


def assert_near(ours, reference, tolerance=1e-6):
    assert ours.keys() == reference.keys()
    for name, tensor in ours.items():
        expected = torch.as_tensor(np.asarray(reference[name]))
        torch.testing.assert_close(
            tensor.double(), expected.double(), rtol=tolerance, atol=tolerance
        )


# Every aggregator -------------------------------------------------------------------------------


def test_conf_has_one_file_for_each_aggregator_with_all_it_needs():
    assert DEFAULTS.keys() == AGGREGATORS.keys()
    for name, options in DEFAULTS.items():
        assert options["name"] == name
        assert make_aggregator(name, options).takes_sums == (
            name not in {"median", "trimmed_mean", "krum"}
        )


@pytest.mark.parametrize("name", AGGREGATORS)
class TestEvery:
    def test_order_of_arrival_changes_no_bit(self, name):
        current, updates, examples = draw_round()
        first = run_round(build(name), current, updates, examples)
        for order in itertools.islice(itertools.permutations(updates), 0, None, 13):
            again = run_round(build(name), current, updates, examples, order)
            assert_same_bits(again, first)

    def test_state_keeps_names_shapes_and_dtypes(self, name):
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            current, updates, examples = draw_round(dtype=dtype)
            state = run_round(build(name), current, updates, examples)
            assert list(state) == list(current)
            for key, tensor in state.items():
                assert (tensor.shape, tensor.dtype) == (current[key].shape, dtype)

    def test_inputs_stay_as_they_were_and_nothing_is_shared(self, name):
        for sites, dtype in itertools.product((1, 3), (torch.float32, torch.float64)):
            current, updates, examples = draw_round(sites, dtype=dtype)
            given_ = [current, *updates.values()]
            before = [{key: t.clone() for key, t in tensors.items()} for tensors in given_]
            state = run_round(build(name), current, updates, examples)
            for tensor in (state or {}).values():
                tensor.fill_(77.0)
            for tensors, copy in zip(given_, before, strict=True):
                assert_same_bits(tensors, copy)

    def test_no_update_keeps_the_state_and_is_no_step(self, name):
        current, updates, examples = draw_round()
        aggregator = build(name)
        aggregator.begin(current, examples)
        assert aggregator.finish() is None
        after = run_round(aggregator, current, updates, examples)
        assert_same_bits(after, run_round(build(name), current, updates, examples))

    def test_finish_ends_the_round(self, name):
        current, updates, examples = draw_round()
        aggregator = build(name)
        assert run_round(aggregator, current, updates, examples) is not None
        assert aggregator.finish() is None
        with pytest.raises(ValueError, match="was not asked"):
            aggregator.add("site-0", updates["site-0"], 10)

    def test_begin_forgets_an_unfinished_round(self, name):
        current, updates, examples = draw_round()
        aggregator = build(name)
        aggregator.begin(current, examples)
        aggregator.add("site-1", draw(99, scale=100.0), 20)
        aggregator.add("site-2", draw(98, scale=100.0), 20)
        after = run_round(aggregator, current, updates, examples)
        assert_same_bits(after, run_round(build(name), current, updates, examples))

    def test_more_than_one_block_and_strided_updates(self, name):
        shapes = {"w": (2, BLOCK // 2 + 3)}
        current, updates, examples = draw_round(3, shapes=shapes)
        whole = run_round(build(name), current, updates, examples)["w"]
        columns = {"w": current["w"][:, -5:]}
        tails = {site: {"w": update["w"][:, -5:]} for site, update in updates.items()}
        if name == "krum":  # which is not coordinate-wise, but keeps the same site here or there
            assert any(torch.equal(whole, update["w"]) for update in updates.values())
        else:
            assert torch.equal(whole[:, -5:], run_round(build(name), columns, tails, examples)["w"])

    def test_resuming_from_the_state_dict_gives_the_same_bits(self, name):
        straight, resumed = build(name), build(name)
        current = draw(0)
        for number in range(1, 5):
            _, updates, examples = draw_round(seed=number)
            stopped, resumed = resumed, build(name)
            resumed.load_state_dict(stopped.state_dict())
            run_round(stopped, current, updates, examples)  # must not reach into the other's state
            after = run_round(straight, current, updates, examples)
            assert_same_bits(run_round(resumed, current, updates, examples), after)
            current = after

    def test_a_refused_update_leaves_the_round_as_it_was(self, name):
        current, updates, examples = draw_round()
        aggregator = build(name)
        aggregator.begin(current, examples)
        bad = {
            "unknown": (ValueError, "rejected_site", updates["site-0"], 10),
            "no examples": (ValueError, "site-0", updates["site-0"], 0),
            "missing": (ValueError, "site-0", {"scale": current["scale"]}, 10),
            "misshapen": (ValueError, "site-0", current | {"scale": torch.ones(2)}, 10),
            "dtype": (TypeError, "site-0", current | {"scale": torch.tensor(1)}, 10),
        }
        for error, site, update, number in bad.values():
            with pytest.raises(error):
                aggregator.add(site, update, number)
        for site, update in updates.items():
            aggregator.add(site, update, examples[site])
        with pytest.raises(ValueError, match="answered this round already"):
            aggregator.add("site-0", updates["site-0"], 10)
        after = aggregator.finish()
        assert_same_bits(after, run_round(build(name), current, updates, examples))

    def test_integers_are_a_type_error_that_names_the_tensor(self, name):
        with pytest.raises(TypeError, match="num_batches_tracked"):
            build(name).begin({"num_batches_tracked": torch.tensor(3)}, {"a": 1})

    def test_foreign_optimiser_state_is_refused(self, name):
        with pytest.raises(ValueError, match="odd"):
            build(name).load_state_dict({"step": torch.tensor(1), "odd.w": torch.ones(1)})


# make_aggregator --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        ("fedavg", {"eta": 0.1}, "eta"),
        ("fedadam", {"etta": 0.1}, "'eta'"),
        ("fedadam", {"eta": 0}, r"task\.eta must be greater than 0"),
        ("fedadam", {"tau": float("nan")}, r"task\.tau"),
        ("fedyogi", {"beta_2": 1.0}, r"task\.beta_2"),
        ("fedadam", {"beta_1": "much"}, r"task\.beta_1"),
        ("fedavgm", {"server_momentum": 1.0}, r"task\.server_momentum"),
        ("fedavgm", {"server_learning_rate": 0.0}, r"task\.server_learning_rate"),
        ("trimmed_mean", {"beta": 0.5}, r"task\.beta must be at least 0 and below 0.5"),
        ("krum", {"num_malicious": -1}, r"task\.num_malicious"),
        ("krum", {"num_to_keep": 0}, r"task\.num_to_keep"),
    ],
)
def test_a_wrong_option_is_named(name, changes, text):
    with pytest.raises(UserError, match=text):
        make_aggregator(name, DEFAULTS[name] | changes, "strategy.aggregators.task")


def test_an_unknown_name_and_a_missing_option_say_what_exists():
    with pytest.raises(UserError, match="'fedadam'"):
        make_aggregator("fedadm", {})
    with pytest.raises(UserError, match="tau"):
        make_aggregator("fedadam", {"eta": 0.1, "beta_1": 0.9, "beta_2": 0.99})


# FedAvg -----------------------------------------------------------------------------------------


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


def test_fedavg_holds_no_more_than_one_update_while_they_arrive():
    aggregator = build("fedavg")
    current, updates, examples = draw_round(6)
    aggregator.begin(current, examples)
    for site, update in updates.items():
        aggregator.add(site, update, examples[site])
    assert aggregator._only is None
    assert sum(t.nbytes for t in aggregator._sum.tensors.values()) == 2 * sum(
        t.nbytes for t in current.values()
    )


# Optimisers on the server -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "theirs"),
    [
        ("fedavgm", {"server_learning_rate": 0.5, "server_momentum": 0.8}, flower.FedAvgM),
        ("fedadam", {}, flower.FedAdam),
        ("fedadam", {"eta": 0.03, "beta_1": 0.5, "beta_2": 0.7, "tau": 0.1}, flower.FedAdam),
        ("fedyogi", {}, flower.FedYogi),
    ],
)
def test_server_optimisers_agree_with_flower_over_five_rounds(name, options, theirs):
    ours, theirs = build(name, **options), theirs(**options)
    current = draw(0)
    reference = {name: tensor.clone() for name, tensor in current.items()}
    for number in range(1, 6):
        _, updates, examples = draw_round(seed=number)
        current = run_round(ours, current, updates, examples)
        after = flower_round(theirs, number, reference, updates, examples)
        assert_near(current, after)
        reference = {name: torch.tensor(a, dtype=torch.float32) for name, a in after.items()}


def test_fedavgm_without_momentum_at_rate_one_is_fedavg():
    current, updates, examples = draw_round()
    plain = build("fedavgm", server_momentum=0.0)
    mean = run_round(build("fedavg"), current, updates, examples)
    assert_near(run_round(plain, current, updates, examples), mean, tolerance=2e-7)


def test_optimiser_state_has_stable_names_and_must_fit_the_group():
    current, updates, examples = draw_round()
    aggregator = build("fedadam")
    assert list(aggregator.state_dict()) == ["step"]
    run_round(aggregator, current, updates, examples)
    state = aggregator.state_dict()
    assert set(state) == {"step"} | {f"{m}.{name}" for m in "mv" for name in current}
    assert int(state["step"]) == 1
    other = build("fedadam")
    other.load_state_dict(state)
    for current["scale"] in (torch.zeros(4), torch.zeros(1)):
        with pytest.raises(ValueError, match=r"'m\.scale' does not fit"):
            other.begin(current, examples)
    del current["scale"]
    with pytest.raises(ValueError, match=r"'m\.scale' does not fit"):
        other.begin(current, examples)


def test_later_rounds_change_neither_a_saved_state_nor_the_one_that_was_loaded():
    saver, loader = build("fedyogi"), build("fedyogi")
    run_round(saver, *draw_round())
    saved = saver.state_dict()
    kept = {name: tensor.clone() for name, tensor in saved.items()}
    run_round(saver, *draw_round(seed=1))
    assert_same_bits(saved, kept)
    loader.load_state_dict(saved)
    run_round(loader, *draw_round(seed=1))
    assert_same_bits(saved, kept)


def test_moments_of_half_precision_tensors_are_float32():
    aggregator = build("fedyogi")
    run_round(aggregator, *draw_round(dtype=torch.bfloat16))
    dtypes = {tensor.dtype for key, tensor in aggregator.state_dict().items() if key != "step"}
    assert dtypes == {torch.float32}


# Robust rules -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sites", [1, 2, 3, 4, 5, 8])
def test_median_agrees_with_flower(sites):
    current, updates, examples = draw_round(sites)
    ours = run_round(build("median"), current, updates, examples)
    assert_near(ours, flower_round(flower.FedMedian(), 1, current, updates, examples))


@pytest.mark.parametrize(("sites", "beta"), [(1, 0.2), (4, 0.2), (5, 0.2), (10, 0.3), (7, 0.49)])
def test_trimmed_mean_agrees_with_flower(sites, beta):
    current, updates, examples = draw_round(sites)
    ours = run_round(build("trimmed_mean", beta=beta), current, updates, examples)
    theirs = flower.FedTrimmedAvg(beta=beta)
    assert_near(ours, flower_round(theirs, 1, current, updates, examples))


@pytest.mark.parametrize(("sites", "f", "keep"), [(3, 0, 1), (5, 1, 1), (7, 2, 1), (8, 2, 3)])
def test_krum_agrees_with_flower(sites, f, keep):
    for seed in range(8):
        current, updates, examples = draw_round(sites, seed, shapes={"w": (17, 5), "b": (5,)})
        examples = dict.fromkeys(examples, 10)  # ours does not weigh
        theirs = flower.MultiKrum(num_malicious_nodes=f, num_nodes_to_select=keep)
        ours = run_round(
            build("krum", num_malicious=f, num_to_keep=keep), current, updates, examples
        )
        assert_near(ours, flower_round(theirs, 1, current, updates, examples))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("median", {}),
        ("trimmed_mean", {"beta": 0.3}),
        ("krum", {"num_malicious": 2}),
        ("krum", {"num_malicious": 2, "num_to_keep": 4}),
    ],
)
def test_two_hostile_sites_of_seven_cannot_move_the_result_far(name, options):
    aggregator = build(name, **options)
    current, updates, examples = draw_round(7)
    honest = [updates[f"site-{k}"] for k in range(2, 7)]
    for k, sign in ((0, 1.0), (1, -1.0)):
        updates[f"site-{k}"] = {n: torch.full_like(t, sign * 2**24) for n, t in current.items()}
    state = run_round(aggregator, current, updates, examples)
    for name, tensor in state.items():
        values = torch.stack([update[name] for update in honest])
        assert (tensor >= values.amin(0) - 1e-6).all()
        assert (tensor <= values.amax(0) + 1e-6).all()


def kept(updates, limit=10**9):
    """Return ``updates``, by site, as a round's replies."""
    replies = ReplyBuffer(next(iter(updates.values())), limit)
    for site, update in updates.items():
        replies.add(site, update)
    return replies


def test_krum_distances_are_exact_beside_a_huge_update():
    current, updates, _ = draw_round(4)
    updates["site-0"] = {name: torch.full_like(t, 2.0**24) for name, t in current.items()}
    rows = torch.stack(
        [torch.cat([t.double().flatten() for t in u.values()]) for u in updates.values()]
    )
    direct = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square()
    found = squared_distances(kept(updates), current)
    torch.testing.assert_close(found[1:, 1:], direct[1:, 1:], rtol=1e-12, atol=1e-11)
    torch.testing.assert_close(found[0, 1:], direct[0, 1:], rtol=1e-12, atol=0.0)


def test_krum_distances_are_exact_far_from_zero_and_never_negative():
    origin = {"w": torch.full((400,), 1e6, dtype=torch.float64)}
    near = draw(1, {"w": (5, 400)}, torch.float64, scale=1e-3)["w"]
    updates = kept({str(k): {"w": origin["w"] + offset} for k, offset in enumerate(near)})
    direct = (near[:, None] - near[None, :]).square().sum(-1)
    torch.testing.assert_close(squared_distances(updates, origin), direct, rtol=1e-5, atol=1e-9)
    assert (squared_distances(updates, {"w": torch.zeros(400)}) >= 0).all()


def test_krum_scores_by_hand():
    points = torch.tensor([0.0, 1.0, 2.0, 4.0, 50.0])
    distances = (points[:, None] - points[None, :]).square().double()
    # n=5, f=1: the two nearest others of each
    assert krum_scores(distances, 1).tolist() == [1 + 4, 1 + 1, 1 + 4, 4 + 9, 46**2 + 48**2]


@pytest.mark.parametrize(
    ("sites", "f", "keep", "why"),
    [
        (4, 1, 1, r"krum needs at least 2\*f\+3 = 5 updates, got 4: state kept"),
        (5, 1, 5, r"krum needs at least num_to_keep\+f = 6 updates, got 5: state kept"),
    ],
)
def test_krum_with_too_few_updates_keeps_the_state_and_says_why(sites, f, keep, why):
    current, updates, examples = draw_round(sites)
    aggregator = build("krum", num_malicious=f, num_to_keep=keep)
    assert run_round(aggregator, current, updates, examples) is None
    assert re.fullmatch(why, aggregator.note)
    aggregator.begin(current, examples)
    assert aggregator.note is None


def test_notes_say_what_was_kept_or_that_nothing_was_cut():
    current, updates, examples = draw_round(4)
    krum, trimmed = build("krum", num_to_keep=2), build("trimmed_mean")
    run_round(krum, current, updates, examples)
    assert krum.note.startswith("krum kept 2 of 4 updates: site-")
    run_round(trimmed, current, updates, examples)
    assert "nothing to cut from 4 updates" in trimmed.note
