"""Optimizers on the server step as Flower's do, and their state survives a restart."""

import pytest
import torch
from flwr.serverapp import strategy as flower

from strategies.aggregators.reply_buffer import ReplyBuffer
from tests.helpers.aggregation import (
    assert_near,
    assert_same_bits,
    build,
    draw,
    draw_round,
    flower_round,
    run_round,
)


@pytest.mark.parametrize(
    ("name", "options", "theirs"),
    [
        ("fedavgm", {"server_learning_rate": 0.5, "server_momentum": 0.8}, flower.FedAvgM),
        ("fedadam", {}, flower.FedAdam),
        ("fedadam", {"eta": 0.03, "beta_1": 0.5, "beta_2": 0.7, "tau": 0.1}, flower.FedAdam),
        ("fedyogi", {}, flower.FedYogi),
    ],
)
def test_server_optimizer_agree_with_flower_over_five_rounds(name, options, theirs):
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


def test_optimizer_state_has_stable_names_and_must_fit_the_group():
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


def kept(updates, limit=10**9):
    """Return ``updates``, by site, as a round's replies."""
    replies = ReplyBuffer(next(iter(updates.values())), limit)
    for site, update in updates.items():
        replies.add(site, update)
    return replies
