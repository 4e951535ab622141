"""Each aggregator against Flower's own, or against the formula; FedAvg's exactness; bad input."""

import pytest
import torch

from fedstrata.support.errors import UserError
from strategies.aggregators import AGGREGATORS, make_aggregator
from tests.helpers.aggregation import DEFAULTS, build, draw_round, run_round


def test_conf_has_one_file_for_each_aggregator_with_all_it_needs():
    assert DEFAULTS.keys() == AGGREGATORS.keys()
    for name, options in DEFAULTS.items():
        assert options["name"] == name
        assert make_aggregator(name, options).takes_sums == (
            name not in {"median", "trimmed_mean", "krum"}
        )


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


def test_notes_say_what_was_kept_or_that_nothing_was_cut():
    current, updates, examples = draw_round(4)
    krum, trimmed = build("krum", num_to_keep=2), build("trimmed_mean")
    run_round(krum, current, updates, examples)
    assert krum.note.startswith("krum kept 2 of 4 updates: site-")
    run_round(trimmed, current, updates, examples)
    assert "nothing to cut from 4 updates" in trimmed.note
