"""Krum keeps the updates that are close to their neighbors."""

import re

import pytest
import torch
from flwr.serverapp import strategy as flower

from strategies.aggregators.krum import krum_scores, squared_distances
from strategies.aggregators.reply_buffer import ReplyBuffer
from tests.helpers.aggregation import assert_near, build, draw, draw_round, flower_round, run_round


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
