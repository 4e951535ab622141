"""Bootstrap intervals: seeded, as wide as the textbook says, and the same by both ways."""

from __future__ import annotations

import numpy as np
import pytest

from models.training.intervals import bootstrap, bootstrap_of_share


def test_the_interval_of_a_share_is_that_of_its_resamples() -> None:
    hits = np.zeros(400)
    hits[:300] = 1
    found = bootstrap(lambda weights: weights @ hits / 400, 400, np.random.default_rng(1))
    direct = bootstrap_of_share(300, 400, np.random.default_rng(1))
    assert found is not None
    assert direct is not None
    half = 1.96 * (0.75 * 0.25 / 400) ** 0.5
    for low, high in (found, direct):
        assert low == pytest.approx(0.75 - half, abs=0.01)
        assert high == pytest.approx(0.75 + half, abs=0.01)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(0).normal(size=50)

    def mean(weights: np.ndarray) -> np.ndarray:
        return weights @ values / 50

    one, other = (bootstrap(mean, 50, np.random.default_rng(7)) for _ in range(2))
    assert one == other != bootstrap(mean, 50, np.random.default_rng(8))


def test_resamples_without_the_measure_are_left_out() -> None:
    def unknown(weights: np.ndarray) -> np.ndarray:
        return np.full(len(weights), np.nan)

    assert bootstrap(unknown, 5, np.random.default_rng(0)) is None
    assert bootstrap_of_share(5, 5, np.random.default_rng(0)) == (1.0, 1.0)


def test_many_examples_are_resampled_in_parts() -> None:
    sizes = []

    def mean(weights: np.ndarray) -> np.ndarray:
        sizes.append(len(weights))
        return weights.mean(axis=1)

    assert bootstrap(mean, 9000, np.random.default_rng(0)) == (1.0, 1.0)
    assert sum(sizes) == 1000
    assert max(sizes) == 222
