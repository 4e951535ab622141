"""The federation with a bad site: honest sites learn, and a lie goes through the product's checks."""

from __future__ import annotations

from benchmarks.accuracy.bad_site import ATTACKS, BAD, Federation, sites_of

RULE = ("strategy.rounds=6",)


def test_honest_sites_learn_together() -> None:
    federation = Federation(["strategy.rounds=20"], None, seed=1, honest=3)
    before = federation.accuracy()
    assert federation.play(20) > before + 0.2
    assert not federation.refused
    assert BAD not in federation.members


def test_the_same_seed_gives_the_same_accuracy() -> None:
    one, other = (Federation(RULE, ATTACKS["label flip"], seed=2, honest=3) for _ in range(2))
    assert one.play(2) == other.play(2)


def test_a_lie_beyond_the_bounds_is_refused_and_a_count_is_limited() -> None:
    refused = Federation(RULE, ATTACKS["weights times 1,000"], seed=1, honest=3)
    refused.play(2)
    assert refused.refused == {BAD: 2}
    liar = Federation(RULE, ATTACKS["count liar"], seed=1, honest=3)
    liar.play(2)
    assert liar.limited[BAD] == 2


def test_every_site_has_points_of_its_own() -> None:
    sites = sites_of(3, 50, 1)
    assert len(sites.train) == 4
    assert len({split.inputs.digest() for split in sites.train.values()}) == 4
    assert len(sites.test) == 3000
